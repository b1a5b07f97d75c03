"""Connections to Letta by aiohttp, which the extra `aiohttp` installs. A reply then takes a sixth less processor time
(benchmarks/replies.py). Importing this imports aiohttp: 6 MB.

The transport is httpx-aiohttp's, which letta-client uses too. It calls a connection that breaks a timeout of
connecting, which means that nothing was sent; and aiohttp repeats a PUT or DELETE when a connection breaks.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from typing import cast

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport

from letta_conversations_mcp.backends.letta_api.http_client import IDLE_SECONDS


class AiohttpConnections(AiohttpTransport):
    """Any number of connections, each for one request at a time, without a proxy. Raises what httpx raises.

    `tls` makes the TLS context for all of them; an unused connection is kept for `idle_seconds`.
    """

    def __init__(
        self, tls: Callable[[], ssl.SSLContext] = httpx.create_ssl_context, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        # The base class would make a TLS context of its own, and read certificates for it.
        super().__init__(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), client=self._open)
        self._tls = tls
        self._idle_seconds = idle_seconds

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=self._idle_seconds, ssl=self._tls()),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=[_once],
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with _as_httpx():
            response = await super().handle_async_request(request)
        response.stream = _Body(cast("httpx.AsyncByteStream", response.stream))
        return response


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Ends a request whose connection breaks: aiohttp does not know this error, and repeats nothing after it."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise httpx.ReadError(str(error)) from error


@contextmanager
def _as_httpx() -> Generator[None]:
    """Corrects what httpx-aiohttp makes of a broken connection, and translates what it leaves as it is."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        if isinstance(error.__cause__, aiohttp.ConnectionTimeoutError):
            raise
        connected = not isinstance(error.__cause__, aiohttp.ClientConnectorError)
        raise (httpx.ReadError if connected else httpx.ConnectError)(str(error)) from error.__cause__
    except (aiohttp.ClientError, HttpProcessingError) as error:
        raise httpx.RemoteProtocolError(str(error)) from error
