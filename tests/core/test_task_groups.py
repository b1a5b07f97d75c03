"""Background tasks: they end with the block, and leave its exceptions as they are."""

from __future__ import annotations

import anyio
import pytest

from letta_conversations_mcp.core.task_groups import background_tasks


async def test_the_tasks_are_cancelled_when_the_body_ends_and_not_before() -> None:
    ended: list[str] = []
    started = anyio.Event()

    async def work() -> None:
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            ended.append("work")

    with anyio.fail_after(5):
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
