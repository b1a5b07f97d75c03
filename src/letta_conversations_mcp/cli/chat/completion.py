"""Completion of commands, agents and conversations: by name, summary or id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from time import monotonic
from typing import get_args

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from letta_conversations_mcp.cli.chat.commands import COMMANDS, is_command
from letta_conversations_mcp.cli.chat.connection import ToolFailed
from letta_conversations_mcp.cli.chat.formatting import clock, one_line, short_id
from letta_conversations_mcp.cli.chat.navigation_commands import conversations
from letta_conversations_mcp.cli.chat.session import Session
from letta_conversations_mcp.core.model import CompactionMode
from letta_conversations_mcp.tools.results.agents import AgentList

FRESH_SECONDS = 10.0
"""How long a list is good for: one is typed at in that time."""

MOST = 100

Choice = tuple[str, str, str]
"""What is inserted, what is shown, and what is said of it."""


class ChatCompleter(Completer):
    """Asks the server for names as they are needed."""

    def __init__(self) -> None:
        self.session: Session
        """Set before the first key is pressed."""
        self._known: dict[tuple[str, str], tuple[float, list[Choice]]] = {}

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        return ()

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion]:
        text = document.text_before_cursor
        if not is_command(text) or "\n" in text:
            return
        name, space, typed = text[1:].partition(" ")
        if not space:
            for command in COMMANDS:
                if command.name.startswith(name):
                    tail = " " if command.arguments else ""
                    shown = f"/{command.name} {command.arguments}".rstrip()
                    yield Completion(f"/{command.name}{tail}", -len(text), display=shown, display_meta=command.help)
            return
        wanted = typed.lower()
        for inserted, shown, meta in await self._choices(name):
            if wanted in shown.lower() or inserted.lower().startswith(wanted):
                yield Completion(inserted, -len(typed), display=shown, display_meta=meta)

    async def _choices(self, name: str) -> list[Choice]:
        completes = next((each.completes for each in COMMANDS if each.name == name), "")
        if completes == "mode":
            return [(mode, mode, "") for mode in get_args(CompactionMode)]
        if not completes or (completes == "conversation" and not self.session.place.agent_id):
            return []
        key = (completes, self.session.place.agent_id if completes == "conversation" else "")
        at, known = self._known.get(key, (0.0, []))
        if monotonic() - at > FRESH_SECONDS or not known:
            try:
                known = await (self._agents() if completes == "agent" else self._conversations())
            except ToolFailed:
                return []
            self._known[key] = (monotonic(), known)
        return known

    async def _agents(self) -> list[Choice]:
        found = (await self.session.connection.call("list_agents", AgentList, limit=MOST)).agents
        names = [each.name for each in found]
        return [
            (each.name if names.count(each.name) == 1 else each.id, one_line(each.name, 40), one_line(each.model, 40))
            for each in found
        ]

    async def _conversations(self) -> list[Choice]:
        found = (await conversations(self.session)).rows
        return [
            (
                each.id,
                one_line(each.summary, 40) or short_id(each.id),
                f"{clock(each.last_message_at) or 'no message yet'} {short_id(each.id)}",
            )
            for each in found
        ]
