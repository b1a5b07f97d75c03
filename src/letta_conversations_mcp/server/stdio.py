"""Serves over stdio until the input ends; a signal ends it within a second.

stdout carries nothing but protocol; the SDK sees to it, and points stray prints at stderr.
"""

from __future__ import annotations

import logging
import os
import signal
import sys

import anyio
from anyio.abc import TaskStatus
from mcp.server.stdio import stdio_server

from letta_conversations_mcp.core.task_groups import background_tasks
from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.server.invalid_lines import RepairingStream
from letta_conversations_mcp.server.pipes import standard_pipes
from letta_conversations_mcp.server.sdk_private import serve_over
from letta_conversations_mcp.settings import Settings

logger = logging.getLogger(__name__)


async def serve_stdio(settings: Settings) -> int:
    """Serve until the client closes our input or is killed. On SIGTERM or SIGINT it ends here, with status 0."""
    server = build_server(settings)
    try:
        async with background_tasks() as tasks:
            if sys.platform != "win32":
                await tasks.start(_end_on_signal)
            async with stdio_server(*standard_pipes()) as (read, write):
                await serve_over(server, RepairingStream(read, write), write)
    except* BrokenPipeError:
        logger.info("the client left before it had its answers")
    return 0


async def _end_on_signal(*, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            # If stdin is no pipe, a thread is blocked in a read that nothing can interrupt, and the process would end
            # only when the client writes. Nothing of ours needs more: the turns go on at Letta and can be found again.
            os._exit(0)
