"""How a test waits: for what comes in this process, and, where nothing announces it, by looking again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import anyio
import anyio.lowlevel

from tests.rig.bounds import HANG_SECONDS

T = TypeVar("T")


class Record(list[T]):
    """What came so far, in order. A test can wait for more of it."""

    def __init__(self) -> None:
        super().__init__()
        self._news = anyio.Event()

    def append(self, entry: T, /) -> None:
        super().append(entry)
        self._news.set()
        self._news = anyio.Event()

    async def until(self, fits: Callable[[T], object] = lambda _: True, times: int = 1) -> None:
        """Wait until so many entries fit."""
        with anyio.fail_after(HANG_SECONDS):
            while sum(bool(fits(each)) for each in self) < times:
                await self._news.wait()


async def until(look: Callable[[], T | Awaitable[T | None] | None]) -> T:
    """Look until there is something to see, and give it. For other processes and for what a server answers: they
    announce nothing."""
    pause = 0.001
    with anyio.fail_after(HANG_SECONDS):
        while True:
            seen = look()
            if isinstance(seen, Awaitable):
                seen = cast("T | None", await seen)
            if seen:
                return seen
            await anyio.sleep(pause)
            pause = min(2 * pause, 0.05)


async def at_rest() -> None:
    """Wait until all other tasks of this event loop wait for something.

    anyio.wait_all_tasks_blocked looks every 0.1 s, which is also how often a server of uvicorn wakes up: where the two
    fall together, it never ends.
    """
    await anyio.lowlevel.checkpoint()
    while any(map(_is_ready, asyncio.all_tasks() - {asyncio.current_task()})):
        await anyio.sleep(0.001)


def _is_ready(task: asyncio.Task[Any]) -> bool:
    waits_for = cast("Any", task)._fut_waiter
    return waits_for is None or waits_for.done()
