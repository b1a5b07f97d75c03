"""What happens in this process, told as it happens to whoever counts it.

The core tells, and knows nobody who listens: `Meter` forgets everything, and is what counts unless the server is given
another one. Nothing here may fail or wait. What is told has no text of messages in it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from letta_conversations_mcp.turns.turn import TrackedTurn

Outcome = Literal["ok", "error", "crash", "cancelled"]
"""How a call of a tool ended: with an answer, with an error that the caller was told, with one that is a fault of this
server, or not at all, because the caller left."""


class Meter:
    """Counts nothing. Its methods are the events that there are."""

    def call(self, tool: str, outcome: Outcome, seconds: float) -> None:
        """A tool was called. The name is one of the tools that there are, or "unknown"."""

    def turn(self, turn: TrackedTurn) -> AbstractContextManager[object]:
        """Entered when a message takes its place in a conversation's order, left when its turn has ended."""
        return nullcontext()

    def stream_lost(self) -> None:
        """The stream of a turn broke before the turn ended."""

    def stream_resumed(self) -> None:
        """A stream that broke was taken up again, and brought news."""

    def message_resent(self) -> None:
        """A message that never arrived was handed over once more."""

    def letta_answered(self, status: int) -> None:
        """A request to Letta was answered with this HTTP status; 0 when no answer came."""


SILENT = Meter()
