"""Runs the matrix: a lane for each way to reach our server, side by side, and in each one cell after another; and the
scenarios, each on a stage of its own."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from tests.faults.cell import Case, Lane, Outcome
from tests.faults.clients import open_line
from tests.faults.places import Place
from tests.faults.proxy import Proxy
from tests.faults.scenarios import Scenario
from tests.faults.stage import Verdict, open_stage
from tests.faults.tasks import counted_tasks, owned_by
from tests.rig.real_letta import redis_running
from tests.rig.servers import Way

SCENARIO_SECONDS = 90


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


async def run_scenarios(place: Place, scenarios: Sequence[Scenario], tell: Callable[[Verdict], None]) -> list[Verdict]:
    """Every scenario, a few at a time, but those that restart the server alone; in the order of the table."""
    verdicts: dict[str, Verdict] = {}
    at_once = anyio.Semaphore(place.at_once)
    with TemporaryDirectory() as folder:
        program = shutil.which("redis-server")
        assert program, "the scenarios need redis-server on the PATH"
        async with redis_running(Path(program), Path(folder)) as port:

            async def run(scenario: Scenario) -> None:
                async with at_once:
                    verdicts[scenario.name] = await play(place, f"redis://127.0.0.1:{port}/0", scenario)
                    tell(verdicts[scenario.name])

            async with anyio.create_task_group() as tasks:
                for scenario in scenarios:
                    if not scenario.alone:
                        tasks.start_soon(run, scenario)
            for scenario in scenarios:
                if scenario.alone:
                    await run(scenario)
    return [verdicts[each.name] for each in scenarios]


async def play(place: Place, redis_url: str, scenario: Scenario) -> Verdict:
    started = anyio.current_time()
    async with open_stage(place, redis_url) as stage:
        with anyio.move_on_after(SCENARIO_SECONDS) as bound:
            await scenario.play(stage)
        if bound.cancelled_caught:
            stage.evils["hung"] = f"no end within {SCENARIO_SECONDS} s"
        await stage.judge()
        return Verdict(scenario.name, place.name, stage.evils, stage.log, anyio.current_time() - started)
