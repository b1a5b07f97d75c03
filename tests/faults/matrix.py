"""Runs the matrix: a lane for each way to reach our server, side by side, and in each one cell after another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf

import anyio

from tests.faults.cell import Case, Lane, Outcome
from tests.faults.clients import open_line
from tests.faults.places import Place
from tests.faults.proxy import Proxy
from tests.faults.tasks import counted_tasks, owned_by
from tests.rig.servers import Way


@asynccontextmanager
async def open_lane(place: Place, way: Way) -> AsyncGenerator[Lane]:
    owner = f"{place.name} {way}"
    proxy = Proxy(*place.address, place.relay)
    async with proxy.serve() as address:
        with owned_by(owner):
            async with open_line(way, place.settings(address)) as line:
                yield Lane(place, proxy, line, owner)


async def run_matrix(
    place: Place, cells: Iterable[tuple[Way, Case]], tell: Callable[[Outcome], None], seconds: float = inf
) -> Sequence[Outcome]:
    """Every cell that can be begun within so many seconds, in lanes by way, as many at once as the place can bear; the
    outcomes in the order of the cells."""
    lanes: dict[Way, list[tuple[int, Case]]] = {}
    for place_in_table, (way, case) in enumerate(cells):
        lanes.setdefault(way, []).append((place_in_table, case))
    outcomes: dict[int, Outcome] = {}

    deadline = anyio.current_time() + seconds
    opening = anyio.Lock()
    turn = anyio.Semaphore(place.at_once)

    async def run_lane(way: Way, cases: Sequence[tuple[int, Case]]) -> None:
        async with AsyncExitStack() as stack:
            async with opening:
                # One after another: a machine that starts six of them at once would miss the bounds.
                lane = await stack.enter_async_context(open_lane(place, way))
                await lane.warm_up()
            for place_in_table, case in cases:
                async with turn:
                    if anyio.current_time() >= deadline:
                        return
                    outcome = outcomes[place_in_table] = await lane.run(case)
                tell(outcome)

    with counted_tasks():
        async with anyio.create_task_group() as tasks:
            for way, cases in lanes.items():
                tasks.start_soon(run_lane, way, cases)
    return [outcomes[number] for number in sorted(outcomes)]
