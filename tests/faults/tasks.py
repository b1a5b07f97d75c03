"""Whose an asyncio task is: of the server under test, of the rig, or of neither. A task inherits it from its parent."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any
from weakref import WeakKeyDictionary

_owner: ContextVar[str] = ContextVar("owner", default="")
_owners: WeakKeyDictionary[asyncio.Task[Any], str] = WeakKeyDictionary()


@contextmanager
def owned_by(owner: str) -> Generator[None]:
    """What is started in the body belongs to `owner`, with all that it starts in turn."""
    token = _owner.set(owner)
    try:
        yield
    finally:
        _owner.reset(token)


@contextmanager
def counted_tasks() -> Generator[None]:
    """Remember the owner of every task that is made in the running loop from now on."""
    loop = asyncio.get_running_loop()

    def make(loop: asyncio.AbstractEventLoop, coro: Any, context: Context | None = None, **options: Any) -> Any:
        # Python 3.14 passes on all the options of create_task.
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context, **options)
        _owners[task] = context.get(_owner, "") if context is not None else _owner.get()
        return task

    before = loop.get_task_factory()
    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(before)


def tasks_of(owner: str) -> list[str]:
    """The names of an owner's tasks that have not ended."""
    return sorted(_name(task) for task, whose in list(_owners.items()) if whose == owner and not task.done())


def _name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())
