"""A client of our server that does what it is told, and the ways in which a client can go away.

`Line` is the client's connection to our server; it can be made anew. `Obedient` sends one message and follows the
answers' own instructions until it has a reply, or knows no further.
"""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import httpx2
import psutil
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.turns.waiting import BEFORE_HAND_OVER
from tests.faults.places import MARKER
from tests.rig.servers import Way, http_server, in_own_task, stdio_server

Leaving = Literal["cancel", "time out", "disconnect", "kill"]

MOST_CALLS = 40
CALL_SECONDS = 30
"""Longer than any answer may take: `wait_seconds`, and what Letta is asked before and after."""

UNTAKEN = re.compile(r"Nothing was (?:sent|done)|same call can be made again|safe to send")
"""An answer that says so says that the message was not taken."""


def ends_server(leaving: Leaving | None, way: Way) -> bool:
    """Whether our server goes when its client does."""
    return leaving == "kill" or (leaving, way.transport) == ("disconnect", "memory")


class Hung(Exception):
    """A call was not answered within its bound."""


@dataclass(frozen=True)
class Answered:
    """One call as the client saw it. `status` is "error" for a refusal and "gone" for a call that was given up."""

    tool: str
    status: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.tool} → {self.status} ({self.seconds:.1f} s) {' '.join(self.text.split())[:300]}"


class Line:
    """A client's connection to a server of ours. Made by `open_line`.

    With a `url` the server runs there already, and gets these `headers` with every request.
    """

    def __init__(self, way: Way, settings: Settings, url: str = "", headers: Mapping[str, str] | None = None) -> None:
        self.way = way
        self._settings = settings
        self._server = AsyncExitStack()
        self._client = AsyncExitStack()
        self._url = url
        self._headers = dict(headers or {})
        self.client: Client
        self.process: psutil.Process | None = None
        """The server's, when it has one of its own."""

    async def start(self) -> None:
        if self.way.transport == "http" and not self._url:
            self._url = await self._server.enter_async_context(in_own_task(http_server(self._settings)))
        await self.connect()

    async def connect(self) -> None:
        mode = "legacy" if self.way.era == "legacy" else "auto"
        match self.way.transport:
            case "memory":
                client = Client(build_server(self._settings), mode=mode)
            case "stdio":
                client = Client(stdio_server(self._settings), mode=mode)
            case "http":
                client = self._over_http(mode)
        self.client = await self._client.enter_async_context(in_own_task(client))
        self.process = self._own_process() if self.way.transport == "stdio" else None

    def _over_http(self, mode: Literal["legacy", "auto"]) -> AbstractAsyncContextManager[Client]:
        @asynccontextmanager
        async def connected() -> AsyncGenerator[Client]:
            async with (
                httpx2.AsyncClient(headers=self._headers, timeout=60, trust_env=False) as http,
                Client(streamable_http_client(f"{self._url}/mcp", http_client=http), mode=mode) as client,
            ):
                yield client

        return connected()

    def _own_process(self) -> psutil.Process:
        """The child that reaches Letta at this line's own address, which nobody else has."""
        address = self._settings.base_url or self._settings.app_server_url
        for process in psutil.Process().children():
            with suppress(psutil.Error):
                if address in process.environ().values() and process.status() != psutil.STATUS_ZOMBIE:
                    return process
        raise AssertionError("the server's process is not to be found")

    async def hang_up(self) -> None:
        await self._client.aclose()
        self._client = AsyncExitStack()

    def kill(self) -> None:
        """End the server's process without a warning."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)

    async def close(self) -> None:
        await self._client.aclose()
        await self._server.aclose()

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        under_way: anyio.Event | None = None,
        has_news: anyio.Event | None = None,
    ) -> Answered:
        """Call a tool. The first report of progress sets `under_way`, a later one sets `has_news` if the server
        knows what became of the message. Raises Hung."""
        started = anyio.current_time()
        under_way, has_news = under_way or anyio.Event(), has_news or anyio.Event()

        async def note(progress: float, total: float | None, message: str | None) -> None:
            if not under_way.is_set():
                under_way.set()
            elif not (message or "").startswith(BEFORE_HAND_OVER):
                has_news.set()

        try:
            with anyio.fail_after(CALL_SECONDS):
                result = await self.client.call_tool(tool, dict(arguments), progress_callback=note)
        except TimeoutError as error:
            raise Hung(f"{tool} was not answered within {CALL_SECONDS} s") from error
        seconds = anyio.current_time() - started
        text = "".join(each.text for each in result.content if isinstance(each, TextContent))
        data: dict[str, Any] = result.structured_content or {}
        return Answered(tool, "error" if result.is_error else data.get("status", "ok"), text, data, seconds)


@asynccontextmanager
async def open_line(
    way: Way, settings: Settings, url: str = "", headers: Mapping[str, str] | None = None
) -> AsyncGenerator[Line]:
    line = Line(way, settings, url, headers)
    try:
        await line.start()
        yield line
    finally:
        with anyio.CancelScope(shield=True):
            await line.close()


class Obedient:
    """Sends one message, and then does what the answers say. `calls` is what happened; `reply` what it ends with.

    `target` is where the message goes, as arguments of send_message. `more` are further arguments of it.
    """

    def __init__(self, line: Line, target: Mapping[str, str], marker: str, wait_seconds: float, **more: Any) -> None:
        self._line = line
        self._target = dict(target)
        self.place = {} if "conversation_id" not in target else dict(target)
        """The conversation, as soon as it is known; as arguments of a tool."""
        self._marker = marker
        self._wait_seconds = wait_seconds
        self._message = {"message": f"Please remember {marker}.", "wait_seconds": wait_seconds, **more}
        self.calls: list[Answered] = []
        self.answered = anyio.Event()
        """Set when the first call is over."""
        self.called_often = anyio.Event()
        """Set when the third is."""
        self.under_way = anyio.Event()
        """Set when a call that was not given up is under way."""
        self.has_news = anyio.Event()
        """Set when its server also knows what became of the message."""
        self.reply: str | None = None
        self.gave_up = ""
        """Why it knew no further."""

    @property
    def sends(self) -> int:
        return sum(each.tool == "send_message" for each in self.calls)

    @property
    def untaken(self) -> int:
        """How many answers said that the message was not taken."""
        return sum(each.tool == "send_message" and bool(UNTAKEN.search(each.text)) for each in self.calls)

    async def send(self) -> Answered:
        return await self._call("send_message", **self._target, **self._message)

    async def send_and_leave(self, seconds: float | None) -> None:
        """Send, and give the call up after so many seconds, or when it is cancelled or the connection is lost."""
        arguments = {**self._target, **self._message}
        try:
            with suppress(MCPError, anyio.ClosedResourceError, anyio.BrokenResourceError):
                await self._line.client.call_tool("send_message", arguments, read_timeout_seconds=seconds)
        finally:
            self.answered.set()

    async def go_on(self, answer: Answered) -> None:
        """Follow the instructions in an answer, and in those after it, to the end. Raises Hung."""
        while self.reply is None and not self.gave_up:
            if len(self.calls) >= MOST_CALLS:
                self.gave_up = f"no end after {MOST_CALLS} calls"
                return
            answer = await self.step(answer)

    async def step(self, answer: Answered) -> Answered:
        """Do what an answer says, if it says anything; gives the answer to that."""
        return await self._next(answer) or answer

    async def wait(self, **arguments: Any) -> Answered:
        return await self._call("wait_for_reply", wait_seconds=self._wait_seconds, **self.place, **arguments)

    def left(self, seconds: float) -> None:
        """The first call was given up."""
        self.calls.append(Answered("send_message", "gone", seconds=seconds))
        self.answered.set()

    async def _next(self, answer: Answered) -> Answered | None:
        advice = answer.text if answer.status == "error" else str(answer.data.get("next", ""))
        answers = str(answer.data.get("answers", ""))
        if answers and self._marker not in answers:
            # The turn before: so the message may not be there.
            return await self._look()
        if answer.status in ("completed", "empty", "cancelled", "needs_approval"):
            self.reply = str(answer.data.get("reply", ""))
            return None
        if answer.tool == "list_messages" or "list_messages(" in advice:
            return await self._look()
        if "wait_for_reply(" in advice:
            run = re.search(r"run_id='([^']+)'", advice)
            waited = await self.wait(**({"run_id": run[1]} if run else {}))
            # It waited for another's turn to end, unless that was its own.
            is_own = self._marker in str(waited.data.get("answers", ""))
            is_over = UNTAKEN.search(advice) and waited.status != "running" and not is_own
            return await self.send() if is_over else waited
        if "frees the conversation" in advice:
            await self._call("cancel", **self.place)
            if "The message is stored" not in advice:
                return await self.send()
            return await self._call("send_message", **self.place, message="Please answer.", wait_seconds=10)
        if "Use send_message" in advice:
            return await self.send()
        if UNTAKEN.search(advice) or "may succeed in a moment" in advice:
            return await (self.send() if answer.tool == "send_message" else self.wait())
        self.gave_up = "the answer does not say what to do"
        return None

    async def _look(self) -> Answered | None:
        """Whether the message is in the conversation, and its reply after it; else send it again."""
        page = await self._call("list_messages", limit=20, **self.place)
        if page.status == "error":
            return page
        rows: list[dict[str, str]] = page.data.get("messages", [])
        mine = [index for index, row in enumerate(rows) if row["kind"] == "user" and self._marker in row["text"]]
        if not mine:
            return await self.send()
        replies = [
            row["text"] for row in rows[mine[0] + 1 :] if row["kind"] == "assistant" and MARKER.search(row["text"])
        ]
        if not replies:
            return await self.wait()
        self.reply = replies[0]
        return None

    async def _call(self, tool: str, **arguments: Any) -> Answered:
        try:
            answer = await self._line.call(tool, arguments, self.under_way, self.has_news)
        except Hung as hung:
            self.calls.append(Answered(tool, "hung", str(hung), seconds=CALL_SECONDS))
            raise
        finally:
            self.answered.set()
        self.calls.append(answer)
        conversation_id = answer.data.get("conversation_id")
        if conversation_id and conversation_id != self.place.get("conversation_id"):
            # Opened for the message, or a branch of a busy one.
            self.place = {"conversation_id": conversation_id}
        if len(self.calls) >= 3:
            self.called_often.set()
        return answer
