"""Progress notifications of a call: an increasing number and words for a person."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from letta_conversations_mcp.core.task_groups import background_tasks
from letta_conversations_mcp.core.untrusted import escaped
from letta_conversations_mcp.tools.base import ToolContext
from letta_conversations_mcp.turns.waiting import Report

HEARTBEAT_SECONDS = 10.0
"""Clients that time out by progress give up after a minute or more without any."""


def reporter(ctx: ToolContext) -> Report:
    """A function that reports progress of this call; it does nothing if the client did not ask for progress."""
    count = 0

    async def report(words: str) -> None:
        nonlocal count
        count += 1
        await ctx.report_progress(count, message=escaped(words))

    return report


def is_watched(ctx: ToolContext, wait_seconds: float | None) -> bool:
    """True if somebody may look at the reply while it grows: the client asked for progress, or the caller chose how
    long to wait, as pages and programs do that poll. A client in this process, of the newer protocol, asks for progress
    without a token, which does not count."""
    meta = ctx.request_context.meta
    return wait_seconds is not None or (meta is not None and "progress_token" in meta)


async def no_report(words: str) -> None:
    """For a wait whose progress is reported otherwise."""


@asynccontextmanager
async def heartbeat(ctx: ToolContext, doing: str) -> AsyncGenerator[None]:
    """Report at once and then every ten seconds while the body runs."""
    report = reporter(ctx)

    async def beat() -> None:
        started = anyio.current_time()
        while True:
            await report(f"{doing}, {anyio.current_time() - started:.0f} s")
            await anyio.sleep(HEARTBEAT_SECONDS)

    async with background_tasks() as tasks:
        tasks.start_soon(beat)
        yield
