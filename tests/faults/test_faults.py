"""A message is never lost, doubled or left hanging, whatever breaks: the cells of the matrix that stand for the rest.

`make faults` runs all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.faults.cases import sample
from tests.faults.cell import Case
from tests.faults.conftest import OpenLane
from tests.faults.matrix import play
from tests.faults.places import NAMES, PLACES
from tests.faults.scenarios import SCENARIOS
from tests.rig.programs import installed
from tests.rig.real_letta import redis_running
from tests.rig.servers import Way

ATTEMPTS = 3
"""On a busy machine the server may give up an exchange before the fault comes, and the cell shows nothing."""


def cells() -> Iterator[ParameterSet]:
    """A parameter for every cell."""
    for place in ("fake", "fake-without-redis", "app-server"):
        for way, case in sample(NAMES[place]):
            yield pytest.param(place, way, case, id=f"{place}-{way}-{case}")


@pytest.mark.all_ways
@pytest.mark.parametrize(("place", "way", "case"), list(cells()))
async def test_a_message_is_answered_once_whatever_breaks(lane_of: OpenLane, place: str, way: Way, case: Case) -> None:
    lane = await lane_of(place, way)

    outcomes = [await lane.run(case)]
    while not outcomes[-1].struck and len(outcomes) < ATTEMPTS:
        outcomes.append(await lane.run(case))

    assert outcomes[-1].struck, f"the fault never hit: {outcomes[-1]}"
    for outcome in outcomes:
        assert not outcome.evils, str(outcome)


SAMPLE = (
    "two clients say the same in a conversation",
    "one leaves, another says the same",
    "retry at a replica, agent alone",
    "retry at a replica, on_busy=fork",
    "request copied to a replica",
    "replica killed with five calls",
    "cancel at a replica",
    "Redis restarted in mid-turn",
    "Letta restarted in mid-turn",
)


@pytest.mark.slow(reason="several servers and clients are started, one after another")
@pytest.mark.parametrize("name", SAMPLE)
async def test_nothing_is_doubled_lost_or_merged_among_several(name: str, tmp_path: Path) -> None:
    [scenario] = [each for each in SCENARIOS if each.name == name]
    async with redis_running(installed("redis-server"), tmp_path) as port, PLACES["fake"]() as place:
        verdict = await play(place, f"redis://127.0.0.1:{port}/0", scenario)

    assert not verdict.evils, str(verdict)
