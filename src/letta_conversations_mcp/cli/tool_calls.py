"""Calls our tools for a command: the server runs in this process, progress goes to stderr, the answer to stdout.

A turn is waited for until it ends. Ctrl-C ends the wait and not the turn, and says how to come back to it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import anyio
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent

from letta_conversations_mcp.backends.open import check_backend
from letta_conversations_mcp.cli.command_lines import command_line
from letta_conversations_mcp.cli.exit_status import FAILED, NEEDS_APPROVAL, STILL_RUNNING, warn
from letta_conversations_mcp.cli.persons_server import PersonsServer
from letta_conversations_mcp.core.errors import NotConfigured, Unauthorized, Unreachable
from letta_conversations_mcp.observability.logs import configure_logging
from letta_conversations_mcp.server.app import ConversationServer
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.turns.turn import EndReason

_STATUSES = {
    "completed": 0,
    "empty": 0,
    "running": STILL_RUNNING,
    "not_confirmed": STILL_RUNNING,
    "unknown": STILL_RUNNING,
    "needs_approval": NEEDS_APPROVAL,
}
"""The exit status for the status of a turn; FAILED for any other."""

_ORDER = (FAILED, NEEDS_APPROVAL, STILL_RUNNING, 0)
"""The exit status of several turns is the first of these that one of them has."""

TURN_ARGUMENTS = ("conversation_id", "run_id", "message_key")
"""The fields of an answer that name its turn, as wait_for_reply takes them."""

LONGEST_WAIT = 3600
"""Seconds that one call waits: as many as a tool allows."""

LONGEST_TEXT = 500_000
"""Longest answer, in characters, unless a setting says otherwise: a person has no token budget."""


@dataclass(frozen=True)
class Answer:
    """What a tool answered, and the tool that did."""

    tool: str
    text: str
    data: Mapping[str, Any]
    is_error: bool

    @property
    def exit_status(self) -> int:
        if self.is_error:
            return FAILED
        rows = cast("list[dict[str, Any]]", self.data.get("replies", [self.data]))
        found = {_STATUSES.get(row["status"], FAILED) for row in rows if "status" in row}
        return next((each for each in _ORDER if each in found), 0)


Work = Callable[["Tools"], Awaitable[int]]


class Tools:
    """The tools of a server in this process."""

    def __init__(self, server: ConversationServer, client: Client) -> None:
        self._server = server
        self._client = client

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        """One call. When it is interrupted, as by Ctrl-C, says what becomes of the turns that it began."""
        answers: list[Answer] = []
        answered = anyio.Event()

        async def call() -> None:
            with _progress() as show:

                async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                    show(message or "")

                try:
                    result = await self._client.call_tool(tool, dict(arguments), progress_callback=on_progress)
                    answers.append(_answer(tool, result))
                except MCPError as error:
                    answers.append(Answer(tool, error.message, {}, is_error=True))
            answered.set()

        continuing: list[str] = []
        try:
            async with anyio.create_task_group() as calling:
                calling.start_soon(call)
                try:
                    await answered.wait()
                except anyio.get_cancelled_exc_class():
                    # Before the call itself is cancelled: after that, its turns can no longer be found.
                    with anyio.CancelScope(shield=True):
                        continuing += await self._what_continues(tool)
                    raise
        finally:
            # After the line of progress is gone.
            for words in continuing:
                warn(words)
        return answers[0]

    async def call_to_end(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        """A call that waits for turns, and goes on waiting as long as they last, unless `arguments` limit the wait."""
        if "wait_seconds" in arguments:
            return await self.call(tool, arguments)
        answer = await self.call(tool, {**arguments, "wait_seconds": LONGEST_WAIT})
        while answer.data.get("status") == "running":
            named = {name: answer.data[name] for name in TURN_ARGUMENTS if name in answer.data}
            if named["conversation_id"] == "default":
                named["agent"] = answer.data["agent_id"]
            kinds = {"kinds": arguments["kinds"]} if "kinds" in arguments else {}
            later = await self.call("wait_for_reply", {**named, **kinds, "wait_seconds": LONGEST_WAIT})
            answer = replace(later, tool=tool)
        return answer

    async def _what_continues(self, tool: str) -> list[str]:
        """What a person who interrupts a call should know."""
        services = self._server.services
        words: list[str] = []
        for turn in await services.scheduler.stop_following() if services else ():
            if turn.end_reason is EndReason.WITHDRAWN:
                words.append("The message was still queued and was not sent.")
            else:
                run = {"run_id": turn.run_id} if turn.run_id else {}
                back = command_line("wait_for_reply", {**turn.ref.arguments, **run})
                words.append(f"The turn goes on without this command. To wait for its reply: {back}")
        if tool == "compact":
            words.append("The compaction goes on if Letta has begun it.")
        return words


def _answer(tool: str, result: CallToolResult) -> Answer:
    text = "\n".join(each.text for each in result.content if isinstance(each, TextContent))
    return Answer(tool, text, result.structured_content or {}, bool(result.is_error))


def run_with_tools(settings: Settings, work: Work) -> int:
    """The exit status that `work` gives. Raises NotConfigured."""
    check_backend(settings)
    configure_logging(settings)
    chosen: dict[str, Any] = {"create_agents": True}
    if "max_output_chars" not in settings.model_fields_set:
        chosen["max_output_chars"] = LONGEST_TEXT
    settings = settings.model_copy(update=chosen)

    async def main() -> int:
        async with _open_tools(settings) as tools:
            return await work(tools)

    return anyio.run(main)


class _CommandsServer(PersonsServer):
    """At a terminal the reader is the one who can correct the configuration. The advice of other errors becomes a
    command (`command_lines`)."""

    reworded = (Unauthorized, Unreachable, NotConfigured)


@asynccontextmanager
async def _open_tools(settings: Settings) -> AsyncGenerator[Tools]:
    server = _CommandsServer(settings)
    async with Client(server) as client:
        yield Tools(server, client)


@contextmanager
def _progress() -> Generator[Callable[[str], None]]:
    """Shows the progress of a call: one changing line on a terminal, otherwise a line for every change."""
    if not sys.stderr.isatty():
        last = ""

        def print_change(words: str) -> None:
            nonlocal last
            doing = words.partition("\n")[0].rpartition(",")[0]
            if doing != last:
                print(f"… {doing}", file=sys.stderr, flush=True)
            last = doing

        yield print_change
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status("") as status:

        def show(words: str) -> None:
            doing, _, tail = words.partition("\n")
            line = Text(f"{doing}  {' '.join(tail.split())}".rstrip())
            line.truncate(max(console.width - 3, 10), overflow="ellipsis")
            status.update(line)

        yield show
