"""The SDK's HTTP client: it finds a free connection without looking at all others, and reports the status of each
response to the meter. Importing this imports the SDK."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import cached_property
from importlib.util import find_spec
from typing import Any, cast
from urllib.request import getproxies

import anyio
import httpx
import letta_client

from letta_conversations_mcp.turns.instrumentation import Meter

MOST_IDLE = 1000
IDLE_SECONDS = 4.0
"""How long an unused connection is kept. Letta's uvicorn keeps it for 5 s: a request into one that is just being closed
would fail."""

ONE_CONNECTION = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_SECONDS)

BEHIND_PROXY = httpx.Limits(max_connections=1000, max_keepalive_connections=MOST_IDLE)
"""A stream holds its connection for as long as a turn takes, and there may be hundreds."""


class ConnectionStack(httpx.AsyncBaseTransport):
    """Connections to Letta, without a proxy. The one that was used last is used next.

    Each is an httpx transport with at most one connection. The pool of httpcore checks every connection before every
    request: at 64 requests in flight that took as long as everything else that a message needs. The number of
    connections has no limit of its own: each belongs to a request, and those are limited.
    """

    def __init__(
        self,
        tls: Callable[[], ssl.SSLContext] = httpx.create_ssl_context,
        most_idle: int = MOST_IDLE,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._make_tls = tls
        self._most_idle = most_idle
        self._idle_seconds = idle_seconds
        self._idle: deque[tuple[float, httpx.AsyncHTTPTransport]] = deque()
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        transport = self._idle.pop()[1] if self._idle else self._new()
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            await transport.aclose()
            raise
        response.stream = _Body(cast("httpx.AsyncByteStream", response.stream), self, transport)
        return response

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # Made once: reading the certificates takes longer than a request.
        return self._make_tls()

    def _new(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._tls, limits=ONE_CONNECTION)

    async def give_back(self, transport: httpx.AsyncHTTPTransport) -> None:
        """Keep a transport whose response has been closed for the next request."""
        now = anyio.current_time()
        self._idle.append((now, transport))
        while self._idle and (
            self._is_closed or len(self._idle) > self._most_idle or self._idle[0][0] < now - self._idle_seconds
        ):
            await self._idle.popleft()[1].aclose()

    async def aclose(self) -> None:
        self._is_closed = True
        while self._idle:
            await self._idle.popleft()[1].aclose()


class _Body(httpx.AsyncByteStream):
    """The body of a response. Closing it gives its connection back."""

    def __init__(
        self, stream: httpx.AsyncByteStream, stack: ConnectionStack, transport: httpx.AsyncHTTPTransport
    ) -> None:
        self._stream = stream
        self._stack = stack
        self._transport = transport

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        except BaseException:
            await self._transport.aclose()
            raise
        await self._stack.give_back(self._transport)


def release(response: httpx.Response) -> None:
    """Drop the stream of a response that has been read or closed. In httpx the two refer to each other, so the response
    and its body would stay in memory until the garbage collector finds them."""
    response.stream = httpx.ByteStream(b"")


class _Cookies(httpx.Cookies):
    """Looks for cookies only in a response that sets some. httpx builds a request and a response of the standard
    library for every response to find out."""

    def extract_cookies(self, response: httpx.Response) -> None:
        if "set-cookie" in response.headers:
            super().extract_cookies(response)


class CountingClient(letta_client.DefaultAsyncHttpxClient):
    """Counts attempts: a request that is retried counts twice. `for_many`: use aiohttp if it is installed."""

    def __init__(self, meter: Meter, *, for_many: bool = False) -> None:
        if _has_proxy():
            # With a transport of ours httpx would not look for proxies, so behind one its own pool is used.
            super().__init__(limits=BEHIND_PROXY)
        else:
            by = _by_aiohttp if for_many and find_spec("httpx_aiohttp") else ConnectionStack
            super().__init__(transport=by(httpx.create_ssl_context), mounts={"http://": by(_trust_nobody)})
        self._meter = meter
        self._cookies = _Cookies()

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        try:
            response = await super().send(request, **options)
        except httpx.TransportError:
            self._meter.letta_answered(0)
            raise
        self._meter.letta_answered(response.status_code)
        return response


def _by_aiohttp(tls: Callable[[], ssl.SSLContext]) -> httpx.AsyncBaseTransport:
    # Late: it is optional, and takes memory.
    from letta_conversations_mcp.backends.letta_api.aiohttp_connections import AiohttpConnections

    return AiohttpConnections(tls)


def _trust_nobody() -> ssl.SSLContext:
    """For connections without TLS: httpx requires a context even there, and reading certificates takes 30 ms."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _has_proxy() -> bool:
    """True if the environment, or the system, names a proxy. httpx asks the same function."""
    return bool(getproxies().keys() & {"http", "https", "all"})
