"""The events that are logged, traced and counted. The code that does the work reports them to a `Meter`.

A meter must neither raise nor wait. It is given ids and numbers, and no text of messages.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from letta_conversations_mcp.turns.turn import TrackedTurn

Outcome = Literal["ok", "error", "crash", "cancelled"]
"""How a tool call ended: with an answer, with an error for the caller, with a fault of this server, or without an
answer because the caller cancelled it."""


class Meter:
    """Counts nothing: commands and tests use it as it is, servers a subclass (`observability/instrumentation.py`)."""

    def call(self, tool: str, outcome: Outcome, seconds: float) -> None:
        """A tool was called. `tool` is the name of an existing tool, or "unknown"."""

    def turn(self, turn: TrackedTurn) -> AbstractContextManager[object]:
        """Entered when a message is queued in its conversation, left when its turn has ended."""
        return nullcontext()

    def stream_lost(self) -> None:
        """The stream of a turn broke before the turn ended."""

    def stream_resumed(self) -> None:
        """A broken stream was resumed and delivered something new."""

    def message_resent(self) -> None:
        """A message that never reached Letta was handed over again."""

    def letta_answered(self, status: int) -> None:
        """Letta answered a request with this HTTP status; 0 if no answer came."""


NO_METER = Meter()
