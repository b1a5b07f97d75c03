"""Serving an ASGI app over real HTTP on this machine's own address, in the event loop of the tests."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import httpx
import uvicorn
from starlette.types import ASGIApp

from tests.rig.bounds import HANG_SECONDS

STOP_SECONDS = 5
KEEP_ALIVE_SECONDS = 60
"""Longer than clients keep a connection: one that both give up at the same moment fails the request in it."""


_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def http_client(**options: Any) -> httpx.AsyncClient:
    """A client of servers on this machine: without proxies, and without reading certificates, which takes 30 ms."""
    own: dict[str, Any] = {"trust_env": False, "verify": _NO_CERTIFICATES, "timeout": HANG_SECONDS}
    return httpx.AsyncClient(**(own | options))


def loopback_socket(port: int = 0) -> socket.socket:
    """A bound socket, on a free port unless one is given."""
    # With the protocol named, or asyncio would leave Nagle's algorithm on, which costs 40 ms for every answer.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


class LoopbackServer(uvicorn.Server):
    """A server that says when it listens, and leaves the signals of the process to the tests."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        # An asker that stays must not keep the tests from ending.
        own: dict[str, Any] = {"timeout_graceful_shutdown": 1, "timeout_keep_alive": KEEP_ALIVE_SECONDS}
        super().__init__(uvicorn.Config(app, ws="none", log_config=None, **(own | options)))
        self.ready = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@asynccontextmanager
async def serve_loopback(app: ASGIApp, bound: socket.socket, **options: Any) -> AsyncGenerator[str]:
    """Serve the app on the socket, and give the base URL."""
    server = LoopbackServer(app, **options)
    # No task group: a fixture is entered and left in different tasks, which none survives.
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        with anyio.fail_after(HANG_SECONDS):
            await server.ready.wait()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        with anyio.move_on_after(STOP_SECONDS, shield=True):
            await serving
