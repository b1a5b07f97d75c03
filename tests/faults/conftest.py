"""The places of the matrix, and in front of each our server in the ways that its cells need: once for all tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
import pytest

from tests.faults.cell import Lane
from tests.faults.matrix import open_lane
from tests.faults.places import PLACES, Place
from tests.faults.tasks import counted_tasks
from tests.rig.servers import Way, in_own_task

OpenLane = Callable[[str, Way], Awaitable[Lane]]


@pytest.fixture(scope="module")
async def lane_of() -> AsyncGenerator[OpenLane]:
    """Gives the lane of a place in a way, opened when it is first asked for."""
    places: dict[str, Place] = {}
    lanes: dict[tuple[str, Way], Lane] = {}

    async def lane(name: str, way: Way) -> Lane:
        if name not in places:
            places[name] = await stack.enter_async_context(in_own_task(PLACES[name]()))
        if (name, way) not in lanes:
            opened = lanes[name, way] = await stack.enter_async_context(in_own_task(open_lane(places[name], way)))
            await opened.warm_up()
        return lanes[name, way]

    with counted_tasks():
        async with AsyncExitStack() as stack:
            yield lane
            with anyio.CancelScope(shield=True):
                await stack.aclose()
