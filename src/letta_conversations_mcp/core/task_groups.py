"""Task groups for work that lasts as long as a block of code, and the exceptions that come out of task groups."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def background_tasks(*, join: bool = False) -> AsyncGenerator[TaskGroup]:
    """A task group whose tasks are cancelled when the body ends, or awaited with `join`.

    An exception of the body leaves as it is: anyio's own task group would wrap it in an ExceptionGroup, which no
    `except` of a caller expects. One of a task still comes in a group.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except Exception as error:
            failure = error
        if not join:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


@contextmanager
def ungrouped(*kinds: type[Exception]) -> Generator[None]:
    """Raise the first exception of these kinds by itself if it comes wrapped in ExceptionGroups, as it does from a
    library that opens task groups."""
    failure: BaseException | None = None
    try:
        yield
    except* kinds as group:
        failure = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
    if failure is not None:
        raise failure
