"""Connections that bring no whole request, or whose client takes nothing of its answer: how long they stay, and who
makes room for whom. Over real sockets."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from starlette.types import Receive, Scope, Send

from letta_conversations_mcp.http import connections
from letta_conversations_mcp.http.app import KEEP_ALIVE_SECONDS
from letta_conversations_mcp.http.connections import Connections
from letta_conversations_mcp.settings import Settings
from tests.operations.service import service
from tests.rig.bounds import HANG_SECONDS
from tests.rig.clock import let_pass
from tests.rig.loopback import loopback_socket, serve_loopback

SOON = 0.2
HEAD = b"GET /quick HTTP/1.1\r\nHost: 127.0.0.1\r\n"
LONG = 600.0
LONG_ANSWER = 20_000_000
"""More than the system keeps for a connection."""


class App:
    """Answers at once, except to /slow, which waits until `go` is set. The answer of /long has `LONG_ANSWER` bytes, and
    the one of /endless never ends."""

    def __init__(self) -> None:
        self.go = anyio.Event()
        self.asked = anyio.Event()
        self.ended = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            self.asked.set()
            await self.go.wait()
        if scope["path"] in ("/long", "/endless"):
            await self.talk(receive, send, is_endless=scope["path"] == "/endless")
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def talk(self, receive: Receive, send: Send, *, is_endless: bool) -> None:
        async def until_disconnected() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(until_disconnected)
                while is_endless:
                    await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
                    await anyio.lowlevel.checkpoint()
                await send({"type": "http.response.body", "body": bytes(LONG_ANSWER)})
        finally:
            self.ended.set()


@asynccontextmanager
async def serving(
    most: int = 100, head_seconds: float = LONG, answer_seconds: float = LONG
) -> AsyncGenerator[tuple[str, App]]:
    app = App()
    options = {
        "http": Connections(most, head_seconds=head_seconds, answer_seconds=answer_seconds),
        "lifespan": "off",
    }
    async with serve_loopback(app, loopback_socket(), **options) as url:
        yield url, app
        app.go.set()


@asynccontextmanager
async def connected(url: str, sent: bytes = b"") -> AsyncGenerator[anyio.abc.SocketStream]:
    parts = urlsplit(url)
    async with await anyio.connect_tcp(str(parts.hostname), parts.port or 0) as stream:
        if sent:
            await stream.send(sent)
        yield stream


async def is_closed(stream: anyio.abc.SocketStream) -> bool:
    """True as soon as the other side has closed; False if it sends something instead."""
    with anyio.fail_after(HANG_SECONDS):
        try:
            return not await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True


async def answers(stream: anyio.abc.SocketStream, sent: bytes) -> bool:
    await stream.send(sent)
    with anyio.fail_after(HANG_SECONDS):
        try:
            return (await stream.receive()).startswith(b"HTTP/1.1 200")
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return False


@pytest.mark.parametrize("sent", [b"", HEAD])
async def test_a_connection_without_a_whole_head_is_closed(sent: bytes) -> None:
    async with serving(head_seconds=SOON) as (url, _), connected(url, sent) as stream:
        assert await is_closed(stream)


async def test_a_head_that_comes_in_small_pieces_gets_no_more_time() -> None:
    async def drip(stream: anyio.abc.SocketStream) -> None:
        with anyio.fail_after(HANG_SECONDS):
            while True:
                await stream.send(b"X-More: 1\r\n")
                await anyio.sleep(SOON / 10)

    async with serving(head_seconds=SOON) as (url, _), connected(url, HEAD) as stream:
        with pytest.raises(anyio.BrokenResourceError):
            await drip(stream)


async def test_half_a_head_after_a_whole_request_is_closed_too() -> None:
    async with serving(head_seconds=SOON) as (url, _), connected(url) as stream:
        assert await answers(stream, HEAD + b"\r\n")
        await stream.send(HEAD)
        assert await is_closed(stream)


async def test_a_connection_that_waits_for_its_answer_is_not_closed() -> None:
    async with (
        serving(head_seconds=SOON) as (url, app),
        connected(url, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n") as slow,
        connected(url, HEAD) as later,
    ):
        await app.asked.wait()
        # Connected later, so its deadline passes after the other's would.
        assert await is_closed(later)
        app.go.set()
        assert await answers(slow, b"")


async def test_an_idle_connection_that_was_used_is_kept() -> None:
    async with serving(head_seconds=SOON) as (url, _), connected(url) as used:
        assert await answers(used, HEAD + b"\r\n")
        async with connected(url) as later:
            assert await is_closed(later)
        assert await answers(used, HEAD + b"\r\n")


async def received(stream: anyio.abc.SocketStream, most: int) -> int:
    """How many bytes come until the end of the connection, or until there are `most`."""
    size = 0
    with anyio.fail_after(HANG_SECONDS):
        try:
            while size < most:
                size += len(await stream.receive(1_000_000))
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
    return size


class Listener(logging.Handler):
    """Hears that a client was dropped."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warned = anyio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "did not take its answer" in record.getMessage():
            self.warned.set()


@pytest.mark.parametrize("path", ["/long", "/endless"])
async def test_a_client_that_takes_nothing_of_its_answer_is_dropped(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    monkeypatch.setattr(connections.logger, "handlers", [listener])
    async with serving(answer_seconds=SOON) as (url, app), connected(url) as stream, connected(url) as other:
        await stream.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with anyio.fail_after(HANG_SECONDS):
            await listener.warned.wait()
            await app.ended.wait()
        assert await received(stream, LONG_ANSWER) < LONG_ANSWER
        assert await answers(other, HEAD + b"\r\n")


@pytest.mark.asyncio(loop_scope="function")
async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(answer_seconds=LONG) as (url, app), connected(url) as stream:
        await stream.send(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        size = 0
        while size < LONG_ANSWER:
            size += await received(stream, 6_000_000)
            let_pass(LONG * 0.9)
        await app.ended.wait()

    assert "did not take its answer" not in caplog.text


@pytest.mark.asyncio(loop_scope="function")
async def test_an_idle_connection_is_kept_for_longer_than_balancers_keep_theirs() -> None:
    options = {
        "http": Connections(10, answer_seconds=LONG),
        "lifespan": "off",
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
    }
    async with serve_loopback(App(), loopback_socket(), **options) as url, connected(url) as stream:
        for _ in range(2):
            assert await answers(stream, HEAD + b"\r\n")
            let_pass(619)
        assert await answers(stream, HEAD + b"\r\n")
        let_pass(621)
        assert await is_closed(stream)


async def test_the_connection_that_has_been_idle_for_longest_makes_room() -> None:
    async with (
        serving(most=3) as (url, app),
        connected(url, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n") as busy,
        connected(url) as first,
        connected(url) as second,
    ):
        await app.asked.wait()
        assert await answers(first, HEAD + b"\r\n")
        assert await answers(second, HEAD + b"\r\n")
        assert await answers(first, HEAD + b"\r\n")
        async with connected(url) as new:
            assert await answers(new, HEAD + b"\r\n")
            assert await is_closed(second)
            assert await answers(first, HEAD + b"\r\n")
            app.go.set()
            assert await answers(busy, b"")


async def test_without_an_idle_connection_there_is_no_room() -> None:
    async with (
        serving(most=1) as (url, app),
        connected(url, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n") as busy,
    ):
        await app.asked.wait()
        async with connected(url) as refused:
            assert await is_closed(refused)
        app.go.set()
        assert await answers(busy, b"")


async def test_a_process_with_few_descriptors_survives_many_half_open_requests() -> None:
    few = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
    async with service(Settings(base_url="http://127.0.0.1:9"), prefix=few) as server, AsyncExitStack() as streams:
        opened = [
            await streams.enter_async_context(connected(server.url, b"POST /mcp HTTP/1.1\r\nHost: 127"))
            for _ in range(300)
        ]

        assert (await server.get("/healthz")).status_code == 200
        assert await is_closed(opened[0])

    assert server.log.count("\n") < 10
    assert "128 connections are open" in server.log


async def test_the_limit_for_descriptors_is_raised_at_the_start() -> None:
    low = ("sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh")
    async with service(Settings(base_url="http://127.0.0.1:9"), prefix=low) as server, AsyncExitStack() as streams:
        for _ in range(150):
            await streams.enter_async_context(connected(server.url))

        assert (await server.get("/healthz")).status_code == 200

    assert "connections" not in server.log
