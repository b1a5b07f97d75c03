"""A message is never lost, doubled or left hanging, whatever breaks: the cells of the matrix that stand for the rest.

`make faults` runs all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.faults.cases import known, sample
from tests.faults.cell import Case
from tests.faults.conftest import OpenLane
from tests.faults.places import NAMES
from tests.rig.servers import Way


def cells() -> Iterator[ParameterSet]:
    """A parameter for every cell; what is known to go wrong must go wrong."""
    for place in ("fake", "fake-without-redis", "app-server"):
        for way, case in sample(NAMES[place]):
            expected = known(NAMES[place], case)
            marks = [pytest.mark.xfail(reason=expected.why, strict=True)] if expected else []
            yield pytest.param(place, way, case, id=f"{place}-{way}-{case}", marks=marks)


@pytest.mark.parametrize(("place", "way", "case"), list(cells()))
async def test_a_message_is_answered_once_whatever_breaks(lane_of: OpenLane, place: str, way: Way, case: Case) -> None:
    lane = await lane_of(place, way)

    outcome = await lane.run(case)

    assert outcome.struck, f"the fault never hit: {outcome}"
    assert not outcome.evils, str(outcome)
