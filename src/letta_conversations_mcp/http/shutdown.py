"""Graceful shutdown: on SIGTERM or SIGINT nothing new begins, running calls are answered with what to call next, and
then the process ends with status 0. A second signal ends running calls at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import FrameType

import anyio
import uvicorn

from letta_conversations_mcp.http.connections import Connections
from letta_conversations_mcp.turns.draining import Drain

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 1.0
"""The part of the drain time that is kept for answering calls that had to be ended."""


LINGER_SECONDS = 0.5
"""Wait after the last answer: its client may have to request something before it accepts it, and a proxy may be sending
a request on a connection that is about to be closed. It would be lost."""


async def drain_server(
    drain: Drain, settle: Callable[[], Awaitable[None]], has_connections: Callable[[], bool], seconds: float
) -> None:
    """Let running calls end, within `seconds`. `settle` returns once Letta has all messages."""
    was_in_use = drain.requests > 0
    drain.begin(seconds)
    with anyio.move_on_after(max(seconds - ANSWER_SECONDS, seconds / 2)), drain.until_end():
        await settle()
        await drain.idle()
    drain.end()
    with anyio.move_on_after(drain.seconds_left):
        await drain.idle()
        if was_in_use or has_connections():
            await anyio.sleep(LINGER_SECONDS)
            await drain.idle()


class DrainingServer(uvicorn.Server):
    """Still accepts connections while it drains, so that clients learn that it is shutting down."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        settle: Callable[[], Awaitable[None]],
        seconds: float,
        connections: Connections,
        started: Callable[[], object],
    ) -> None:
        """`started` is called once requests are served and signals are handled."""
        super().__init__(config)
        self._drain = drain
        self._settle = settle
        self._seconds = seconds
        self._connections = connections
        self._report_start = started
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections.log_accept_errors_once()
        draining = asyncio.create_task(self._drain_when_told())
        self._report_start()
        try:
            await super().main_loop()
        finally:
            draining.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not passed on to uvicorn, which would end the process by the signal instead of with status 0.
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._drain.end if self._told.is_set() else self._told.set)

    async def _drain_when_told(self) -> None:
        await self._told.wait()
        logger.info("going down: running calls are answered first")
        try:
            await drain_server(self._drain, self._settle, lambda: bool(self.server_state.connections), self._seconds)
        finally:
            self.should_exit = True
