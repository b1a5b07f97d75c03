"""What the chat needs of the place where it is shown, and the plain one: lines in, text out, without a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

from rich.console import RenderableType

from letta_conversations_mcp.cli.chat.entries import Note


class Screen(Protocol):
    """Where entries are shown for good, and where one part may still change."""

    async def show(self, entries: Sequence[RenderableType], live: RenderableType | None = None) -> None:
        """Show these for good, and `live` below them until the next call."""
        ...

    def refresh(self) -> None:
        """What the status line says has changed."""
        ...

    def give_back(self, text: str) -> None:
        """A text that was not sent: the person may want it again."""
        ...

    def remember(self, texts: Sequence[str]) -> None:
        """What the person can bring back with the arrow keys in this conversation, oldest first."""
        ...


class PlainScreen:
    """Replies, lists and cards go to standard output, notes of the chat to standard error."""

    def __init__(self) -> None:
        self.failed = False
        """True once something went wrong."""

    async def show(self, entries: Sequence[RenderableType], live: RenderableType | None = None) -> None:
        for entry in entries:
            is_note = isinstance(entry, Note)
            self.failed = self.failed or (isinstance(entry, Note) and entry.tone == "error")
            print(str(entry).strip("\n") if is_note else entry, file=sys.stderr if is_note else sys.stdout, flush=True)

    def refresh(self) -> None:
        pass

    def give_back(self, text: str) -> None:
        pass

    def remember(self, texts: Sequence[str]) -> None:
        pass
