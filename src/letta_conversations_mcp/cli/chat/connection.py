"""The server that the chat talks to: the whole MCP server in this process, reached by a client in memory.

Everything the chat reads, sends or decides is a call of a tool. Errors are phrased for a person. Beside the
calls, the chat watches the turns that are sent here while they grow.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import anyio
from mcp import Client
from mcp.client import ClientExtension
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID
from mcp_types import TextContent

from letta_conversations_mcp.cli.persons_server import LABEL, PersonsServer
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.observability.instrumentation import LoggingMeter
from letta_conversations_mcp.server.app import ConversationServer
from letta_conversations_mcp.settings import BackendSettings, Settings
from letta_conversations_mcp.tools.results.result import Result
from letta_conversations_mcp.turns.turn import TrackedTurn

MOST_CHARS = 500_000
"""Longest answer, in characters: a person has no token budget."""

SETTLE_SECONDS = 5.0
"""How long Letta may take to accept a message that is being handed over when the person leaves."""

R = TypeVar("R", bound=Result)


PASSING = frozenset({"Unreachable", "TimedOut", "ServerFault", "TooManyRequests", "Overloaded"})
"""Errors that pass: the same call may succeed later."""


class ToolFailed(Exception):
    """A call failed. The text is for the person. `passing`: it may well succeed later."""

    def __init__(self, text: str, *, passing: bool = False) -> None:
        self.passing = passing
        super().__init__(text)


class _ShowsApps(ClientExtension):
    """The chat reads with the viewer's tool, which is listed for clients that show apps."""

    identifier = EXTENSION_ID

    def settings(self) -> dict[str, Any]:
        return {"mimeTypes": [APP_MIME_TYPE]}


class _SentTurns(LoggingMeter):
    """Calls `begun` with the turn of every message that is sent here, when it takes its place in its conversation."""

    def __init__(self) -> None:
        self.begun: Callable[[TrackedTurn], None] = lambda turn: None

    @contextmanager
    def turn(self, turn: TrackedTurn) -> Generator[None]:
        self.begun(turn)
        with super().turn(turn):
            yield


class Connection:
    """Calls tools, with their results as the models they were made of."""

    def __init__(self, server: ConversationServer, client: Client, sent: _SentTurns) -> None:
        self._server = server
        self._client = client
        self._sent = sent

    async def call(self, tool: str, result: type[R], /, **arguments: Any) -> R:
        """Raises ToolFailed."""
        answer = await self._client.call_tool(tool, arguments)
        if answer.is_error:
            text = "\n".join(part.text for part in answer.content if isinstance(part, TextContent))
            raise ToolFailed(text, passing=(answer.meta or {}).get(LABEL) in PASSING)
        return result.model_validate(answer.structured_content)

    def on_sent(self, begun: Callable[[TrackedTurn], None]) -> None:
        """From now on call `begun` with every turn that is sent here. It must neither fail nor wait."""
        self._sent.begun = begun

    @property
    def backend(self) -> Backend:
        """For the export, which is a command and no tool. Raises ToolFailed when the server is down."""
        if self._server.services is None:
            raise ToolFailed("The connection is closed.")
        return self._server.services.backend

    async def settle(self) -> None:
        """Wait a moment for Letta to accept what is being handed over."""
        if self._server.services is not None:
            with anyio.move_on_after(SETTLE_SECONDS):
                await self._server.services.scheduler.settle()


@asynccontextmanager
async def connect(settings: BackendSettings) -> AsyncGenerator[Connection]:
    """A connection for one chat. Closing it leaves running turns to Letta."""
    given = {name: getattr(settings, name) for name in BackendSettings.model_fields}
    server = PersonsServer(Settings(**given, max_output_chars=MOST_CHARS, approvals="return"))
    sent = _SentTurns()
    server.meter = sent
    async with Client(server, extensions=[_ShowsApps()]) as client:
        yield Connection(server, client, sent)
