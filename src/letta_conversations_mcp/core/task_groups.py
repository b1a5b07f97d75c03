"""Task groups for work that lasts as long as a block of code, and the exceptions that come out of task groups."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def background_tasks(*, join: bool = False) -> AsyncGenerator[TaskGroup]:
    """A task group whose tasks are cancelled when the body ends, or awaited with `join`.

    An exception of the body is raised unchanged: anyio's own task group would wrap it in an ExceptionGroup, which no
    `except` of a caller expects. Exceptions of tasks are still raised in a group.
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
    """Unwrap an exception of these kinds that a library's task groups raise in ExceptionGroups; of several, the
    first."""
    failure: BaseException | None = None
    try:
        yield
    except* kinds as group:
        failure = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
    if failure is not None:
        raise failure
