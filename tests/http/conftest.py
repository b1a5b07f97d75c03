"""A team for every test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.http.team import Team
from tests.rig.servers import ERAS, Era


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path / "tokens.toml")


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> Era:
    return request.param
