"""The end of service: one deadline, for whoever waits."""

from __future__ import annotations

import anyio
import pytest

from letta_conversations_mcp.turns.draining import Drain
from tests.rig.bounds import HANG_SECONDS
from tests.rig.waiting import at_rest

pytestmark = pytest.mark.asyncio(loop_scope="module")
"""In a loop of its own: `at_rest` would wait for what other tests have started."""


@pytest.mark.parametrize("again", [0.0, 600.0], ids=["sooner", "later"])
async def test_a_second_begin_does_not_move_the_deadline(again: float) -> None:
    drain = Drain()
    before = drain.seconds_left
    drain.begin(60)
    drain.begin(again)

    assert before == float("inf")
    assert 30 < drain.seconds_left <= 60


async def test_who_waits_already_is_woken_and_who_comes_later_does_not_wait() -> None:
    drain, woken = Drain(), anyio.Event()

    async def wait() -> None:
        with drain.until_draining():
            await anyio.sleep_forever()
        woken.set()

    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await at_rest()
            assert not woken.is_set()
            drain.begin(60)
            await woken.wait()
        with drain.until_draining(600):
            await anyio.sleep_forever()
