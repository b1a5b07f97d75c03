"""What several files of this folder use."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from mcp import Client

from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.model import ScriptedModel
from tests.rig.servers import Caller, in_own_task


@pytest.fixture
async def cloud() -> AsyncGenerator[tuple[Caller, FakeLetta]]:
    """A server that keeps what 0.16.8 drops, descriptions for example, and that has a search of its own."""
    fake = FakeLetta(ScriptedModel(), cloud=True)
    async with fake.serve() as url, in_own_task(Client(build_server(Settings(base_url=url)))) as client:
        yield Caller(client), fake
