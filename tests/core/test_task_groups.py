"""Background tasks end with the block, and exceptions come out of task groups by themselves."""

from __future__ import annotations

import anyio
import pytest

from letta_conversations_mcp.core.task_groups import background_tasks, ungrouped
from tests.rig.bounds import HANG_SECONDS


async def test_the_tasks_are_cancelled_when_the_body_ends_and_not_before() -> None:
    ended: list[str] = []
    started = anyio.Event()

    async def work() -> None:
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            ended.append("work")

    with anyio.fail_after(HANG_SECONDS):
        async with background_tasks() as tasks:
            tasks.start_soon(work)
            await started.wait()
            assert ended == []

    assert ended == ["work"]


async def test_an_exception_of_the_body_is_not_wrapped() -> None:
    async def fail() -> None:
        async with background_tasks() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        await fail()


async def test_joined_tasks_are_awaited_and_not_cancelled() -> None:
    may_end, ended = anyio.Event(), anyio.Event()

    async def work() -> None:
        await may_end.wait()
        ended.set()

    with anyio.fail_after(HANG_SECONDS):
        async with background_tasks(join=True) as tasks:
            tasks.start_soon(work)
            may_end.set()

    assert ended.is_set()


async def fail_in_group(*failures: Exception) -> None:
    async def fail(failure: Exception) -> None:
        raise failure

    async with anyio.create_task_group() as outer, anyio.create_task_group() as tasks:
        outer.start_soon(anyio.sleep, 0)
        for each in failures:
            tasks.start_soon(fail, each)


async def test_an_exception_in_groups_comes_out_by_itself() -> None:
    with pytest.raises(ValueError, match="alone"), ungrouped(ValueError):
        await fail_in_group(ValueError("alone"))


async def test_only_the_kinds_that_were_named_come_out_of_their_groups() -> None:
    with pytest.raises(ExceptionGroup) as raised, ungrouped(ValueError):
        await fail_in_group(KeyError("another"))

    assert raised.group_contains(KeyError)
