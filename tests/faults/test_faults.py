"""A message is never lost, doubled or left hanging, whatever breaks: the cells of the matrix that stand for the rest.

`make faults` runs all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.faults.cases import sample
from tests.faults.cell import Case
from tests.faults.conftest import OpenLane
from tests.faults.places import NAMES
from tests.rig.servers import Way


def cells() -> Iterator[ParameterSet]:
    """A parameter for every cell."""
    for place in ("fake", "fake-without-redis", "app-server"):
        for way, case in sample(NAMES[place]):
            yield pytest.param(place, way, case, id=f"{place}-{way}-{case}")


@pytest.mark.all_ways
@pytest.mark.parametrize(("place", "way", "case"), list(cells()))
async def test_a_message_is_answered_once_whatever_breaks(lane_of: OpenLane, place: str, way: Way, case: Case) -> None:
    lane = await lane_of(place, way)

    outcome = await lane.run(case)

    assert outcome.struck, f"the fault never hit: {outcome}"
    assert not outcome.evils, str(outcome)
