"""Our server, reached by a real client in every way there is: in memory, over stdio and over HTTP, in both eras."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.session import ElicitationFnT
from mcp_types import TextContent
from pydantic import SecretStr

from letta_conversations_mcp.http.app import build_app
from letta_conversations_mcp.http.listening import listen
from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.turns.timing import Timing
from tests.rig.bounds import HANG_SECONDS
from tests.rig.loopback import serve_loopback
from tests.rig.waiting import Record

Transport = Literal["memory", "stdio", "http"]
Era = Literal["legacy", "modern"]

TRANSPORTS: tuple[Transport, ...] = ("memory", "stdio", "http")
ERAS: tuple[Era, ...] = ("legacy", "modern")

BRISK = Timing(poll_first=0.05, poll_longest=0.3, unseen=0.2, settle=1.0, stopped=0.5)
"""For servers in this process: they look more often than at a real Letta."""

T = TypeVar("T")


@asynccontextmanager
async def in_own_task(manager: AbstractAsyncContextManager[T]) -> AsyncGenerator[T]:
    """Enter and leave `manager` in one task of its own: a fixture is set up and torn down in different ones, and a
    task group has to be left in the task that entered it."""
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    leave = anyio.Event()

    async def hold() -> None:
        try:
            async with manager as value:
                entered.set_result(value)
                await leave.wait()
        except BaseException as error:
            if not entered.done():
                entered.set_exception(error)
            raise

    task = asyncio.create_task(hold())
    try:
        yield await entered
    finally:
        leave.set()
        await task


def environment(settings: Settings) -> dict[str, str]:
    """The variables that make a process have these settings; and nothing of the developer's own."""
    chosen = settings.model_dump(exclude_defaults=True)
    names = {"api_key": "LETTA_API_KEY", "base_url": "LETTA_BASE_URL", "project": "LETTA_PROJECT"}
    values = {name: _plain(value) for name, value in chosen.items()}
    passed_on = ("COVERAGE_", "LMSTUDIO_BASE_URL", "NODE_COMPILE_CACHE")
    inherited = {name: value for name, value in os.environ.items() if name.startswith(passed_on)}
    return inherited | {names.get(name, f"LETTA_MCP_{name.upper()}"): str(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return ",".join(str(_plain(each)) for each in cast("tuple[Any, ...]", value))
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def stdio_server(settings: Settings) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable, args=["-m", "letta_conversations_mcp"], env=environment(settings)
    )


@asynccontextmanager
async def http_server(settings: Settings, timing: Timing = BRISK) -> AsyncGenerator[str]:
    """Serve over HTTP in this process, on a free port; gives the base URL."""
    app = build_app(build_server(settings, timing), settings)
    async with serve_loopback(app, listen(settings.model_copy(update={"port": 0}))) as url:
        yield url


@asynccontextmanager
async def connect(
    settings: Settings, transport: Transport, era: Era, *, person: ElicitationFnT | None = None
) -> AsyncGenerator[Client]:
    """A client of a server with these settings. `person` answers what the client is asked; without, it cannot ask."""
    mode = "legacy" if era == "legacy" else "auto"
    if transport == "memory":
        async with Client(build_server(settings, BRISK), mode=mode, elicitation_callback=person) as client:
            yield client
    elif transport == "stdio":
        async with Client(stdio_server(settings), mode=mode, elicitation_callback=person) as client:
            yield client
    else:
        async with (
            http_server(settings) as url,
            Client(f"{url}/mcp", mode=mode, elicitation_callback=person) as client,
        ):
            yield client


@dataclass(frozen=True)
class Answer:
    """What a tool call gave: its text, its structured content, whether it is an error, and the progress on the way."""

    text: str
    data: dict[str, Any]
    is_error: bool
    progress: list[str] = field(default_factory=list[str])


class Caller:
    """Calls tools as a model would: by name, with plain arguments. `progress` is that of all calls so far."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.progress = Record[str]()

    async def call(self, tool: str, /, **arguments: Any) -> Answer:
        """Whatever comes back, an error too."""
        words: list[str] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            words.append(message or "")
            self.progress.append(message or "")

        with anyio.fail_after(HANG_SECONDS):
            result = await self.client.call_tool(tool, arguments, progress_callback=on_progress)
        content = result.content[0]
        assert isinstance(content, TextContent), content
        return Answer(content.text, result.structured_content or {}, bool(result.is_error), words)

    async def ok(self, tool: str, /, **arguments: Any) -> Answer:
        """The answer of a call that must succeed."""
        answer = await self.call(tool, **arguments)
        assert not answer.is_error, answer.text
        return answer

    async def running(self, **arguments: Any) -> Answer:
        """The answer to a message whose turn does not end by itself: as soon as it names the run, which a busy machine
        shows late."""
        answer = await self.ok("send_message", **arguments, wait_seconds=0.5)
        with anyio.fail_after(HANG_SECONDS):
            while "run_id" not in answer.data:
                place = {"conversation_id": answer.data["conversation_id"]}
                answer = await self.ok("wait_for_reply", **place, wait_seconds=0.1)
        return answer

    async def until_reported(self, words: str) -> None:
        """Wait until the progress of a call has these words."""
        await self.progress.until(lambda each: words in each)

    async def refused(self, tool: str, /, **arguments: Any) -> str:
        """The text of a call that must be an error."""
        answer = await self.call(tool, **arguments)
        assert answer.is_error, answer
        return answer.text


@dataclass(frozen=True)
class Way:
    """A transport and an era, for tests that need a server with settings of their own."""

    transport: Transport
    era: Era

    def __str__(self) -> str:
        return f"{self.transport}-{self.era}"

    @asynccontextmanager
    async def to(self, settings: Settings, *, person: ElicitationFnT | None = None) -> AsyncGenerator[Caller]:
        async with connect(settings, self.transport, self.era, person=person) as client:
            yield Caller(client)


ALL_WAYS = tuple(Way(transport, era) for transport in TRANSPORTS for era in ERAS)

DEFAULT_WAY = Way("memory", "legacy")
"""For tests in which neither transport nor era matters: the quickest transport, and the era of most clients."""
