"""The connections to Letta: one for each request in flight, reused afterwards, never after a failure."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
import trustme

from letta_conversations_mcp.backends.letta_api.aiohttp_connections import AiohttpConnections
from letta_conversations_mcp.backends.letta_api.http_client import ConnectionStack, CountingClient
from letta_conversations_mcp.backends.letta_api.sdk_errors import NEVER_SENT
from letta_conversations_mcp.turns.instrumentation import NO_METER
from tests.rig.bounds import HANG_SECONDS


class Server:
    """Answers every request in full, except for paths that say otherwise. Counts connections."""

    def __init__(self) -> None:
        self.url = ""
        self.opened = 0
        self.open = 0
        self.changed = asyncio.Event()
        self.requests: list[str] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split()[1].decode()
                self.requests.append(path)
                if path.endswith("/breaks"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nonly this")
                    return
                if path.endswith("/closes"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    return
                if path.startswith("/to/"):
                    location = f"https://localhost:{path.removeprefix('/to/')}/"
                    writer.write(f"HTTP/1.1 307 Moved\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n".encode())
                    continue
                if b"cookie: seen=yes" in head.lower():
                    self.requests.append("with the cookie")
                cookie = b"Set-Cookie: seen=yes\r\n" if path.endswith("/sets") else b""
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + cookie + b"\r\nok")
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()
            self.open -= 1
            self.changed.set()

    async def until_open(self, count: int) -> None:
        with anyio.fail_after(HANG_SECONDS):
            while self.open != count:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def server() -> AsyncGenerator[Server]:
    async with serve() as running:
        yield running


@asynccontextmanager
async def serve(tls: ssl.SSLContext | None = None) -> AsyncGenerator[Server]:
    running = Server()
    async with await asyncio.start_server(running.answer, "127.0.0.1", 0, ssl=tls) as listening:
        port = listening.sockets[0].getsockname()[1]
        running.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
        yield running


Make = Callable[[], httpx.AsyncBaseTransport]

FOR_MANY = pytest.mark.parametrize("for_many", [False, True])
BOTH = pytest.mark.parametrize("connections", [ConnectionStack, AiohttpConnections])
"""How the connections are made: by httpx, and by aiohttp, which must not show."""


@asynccontextmanager
async def client_of(stack: httpx.AsyncBaseTransport) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=stack, timeout=HANG_SECONDS) as client:
        yield client


@BOTH
async def test_one_connection_serves_requests_that_follow_each_other(server: Server, connections: Make) -> None:
    async with client_of(connections()) as client:
        for _ in range(5):
            assert (await client.get(server.url)).text == "ok"
    assert server.opened == 1
    await server.until_open(0)


async def test_requests_in_flight_have_connections_of_their_own_which_later_ones_reuse(server: Server) -> None:
    async with client_of(ConnectionStack()) as client:
        for _ in range(2):
            async with AsyncExitStack() as in_flight:
                responses = [await in_flight.enter_async_context(client.stream("GET", server.url)) for _ in range(3)]
                for response in responses:
                    await response.aread()
    assert server.opened == 3


async def test_no_more_idle_connections_are_kept_than_the_limit(server: Server) -> None:
    async with client_of(ConnectionStack(most_idle=1)) as client:
        async with AsyncExitStack() as in_flight:
            responses = [await in_flight.enter_async_context(client.stream("GET", server.url)) for _ in range(3)]
            for response in responses:
                await response.aread()
        await server.until_open(1)
        await client.get(server.url)
    assert server.opened == 3


async def test_a_connection_that_was_idle_for_too_long_is_closed_and_not_the_one_just_used(server: Server) -> None:
    async with client_of(ConnectionStack(idle_seconds=0)) as client:
        async with client.stream("GET", server.url) as first:
            await client.get(server.url)
            await first.aread()
        await server.until_open(1)
        assert server.opened == 2


@BOTH
@pytest.mark.parametrize("path", ["/breaks", "/closes"])
async def test_a_connection_that_ended_is_not_used_again(server: Server, connections: Make, path: str) -> None:
    async with serve() as other, client_of(connections()) as client:
        try:
            await client.get(f"{server.url}{path}")
        except (httpx.RemoteProtocolError, httpx.ReadError):
            assert path == "/breaks"
        await server.until_open(0)
        # aiohttp notices the end only when the event loop comes round.
        await client.get(other.url)
        assert (await client.get(server.url)).text == "ok"
    # Once each: a request is never repeated by itself.
    assert server.requests == [path, "/"]


@BOTH
async def test_a_request_that_is_cancelled_leaves_no_connection_behind(connections: Make) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with client_of(connections()) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.get, f"http://127.0.0.1:{port}")
            await asked.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(HANG_SECONDS):
            await gone.wait()


@asynccontextmanager
async def answering(*answers: bytes, resets: bool = False) -> AsyncGenerator[tuple[str, list[str]]]:
    """A server that reads a request, sends these parts of an answer and closes the connection. Yields its address, and
    the requests."""
    requests: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).split()[0].decode())
        for each in answers:
            writer.write(each)
            await writer.drain()
        if resets:
            writer.transport.abort()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", requests


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@BOTH
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize(
    "answers",
    [(), (b"HTTP/1.1 2",), (b"no HTTP at all\r\n\r\n",), (HEAD,), (HEAD, b"5\r\nab"), (HEAD, b"no length\r\n")],
    ids=["nothing", "half a head", "not HTTP", "a head", "half a chunk", "a bad chunk"],
)
async def test_a_request_whose_connection_broke_may_have_arrived_and_is_not_repeated(
    connections: Make, answers: tuple[bytes, ...], method: str, *, resets: bool
) -> None:
    async with answering(*answers, resets=resets) as (url, requests), client_of(connections()) as client:
        with pytest.raises(httpx.TransportError) as broken:
            await client.request(method, url, content=b"x")

    assert not isinstance(broken.value, NEVER_SENT)
    assert requests == [method]


@BOTH
async def test_nobody_listens(connections: Make) -> None:
    async with serve() as server:
        url = server.url
    async with client_of(connections()) as client:
        with pytest.raises(NEVER_SENT):
            await client.post(url, content=b"x")


@BOTH
async def test_a_connection_that_cannot_be_made_in_time(connections: Make) -> None:
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        async with client_of(connections()) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.post(
                    f"http://127.0.0.1:{full.getsockname()[1]}", timeout=httpx.Timeout(HANG_SECONDS, connect=0.1)
                )


@BOTH
@pytest.mark.parametrize("answer", [b"", HEAD + b"2\r\nab\r\n"])
async def test_an_answer_that_stops_coming(connections: Make, answer: bytes) -> None:
    async def stop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(stop, "127.0.0.1", 0) as listening, client_of(connections()) as client:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"http://127.0.0.1:{port}", timeout=httpx.Timeout(HANG_SECONDS, read=0.1))


async def test_a_response_that_ends_after_the_client_was_closed_closes_its_connection(server: Server) -> None:
    stack = ConnectionStack()
    async with client_of(stack) as client, client.stream("GET", server.url) as response:
        await stack.aclose()
        await response.aread()
    await server.until_open(0)


@FOR_MANY
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
async def test_a_proxy_of_the_environment_is_used(
    server: Server, monkeypatch: pytest.MonkeyPatch, variable: str, *, for_many: bool
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, server.url)
    async with CountingClient(NO_METER, for_many=for_many) as client:
        await client.get("http://letta.test/v1/agents/")
    assert server.requests == ["http://letta.test/v1/agents/"]


async def test_many_clients_are_served_without_aiohttp_too(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx_aiohttp", None)
    async with CountingClient(NO_METER, for_many=True) as client:
        assert (await client.get(server.url)).text == "ok"


@FOR_MANY
async def test_a_cookie_is_sent_back_as_a_balancer_expects(server: Server, *, for_many: bool) -> None:
    async with CountingClient(NO_METER, for_many=for_many) as client:
        await client.get(f"{server.url}/plain")
        await client.get(f"{server.url}/sets")
        await client.get(f"{server.url}/plain")

    assert server.requests == ["/plain", "/sets", "/plain", "with the cookie"]


@FOR_MANY
@pytest.mark.parametrize("redirected", [False, True])
async def test_a_certificate_must_be_one_that_this_machine_trusts(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, redirected: bool, for_many: bool
) -> None:
    authority, own = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(own))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)  # pyright: ignore[reportUnknownMemberType] - of OpenSSL
    async with serve(tls) as safe:
        url = f"{server.url}/to/{safe.url.rpartition(':')[2]}" if redirected else safe.url
        async with CountingClient(NO_METER, for_many=for_many) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(own))
        async with CountingClient(NO_METER, for_many=for_many) as client:
            assert (await client.get(url)).text == "ok"

    assert safe.requests == ["/"]
