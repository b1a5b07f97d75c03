"""Finding and making agents."""

from __future__ import annotations

import pytest

from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.model import ScriptedModel
from tests.rig.servers import Caller, Way


@pytest.mark.fake_only
@pytest.mark.parametrize(("create_agents", "words"), [(True, "create_agent makes one"), (False, "--create-agents")])
async def test_where_there_is_no_agent_the_way_to_one_is_told(way: Way, create_agents: bool, words: str) -> None:
    async with (
        FakeLetta(ScriptedModel()).serve() as url,
        way.to(Settings(base_url=url, create_agents=create_agents)) as caller,
    ):
        nobody = await caller.ok("list_agents")
        none_so_called = await caller.ok("list_agents", search="anna")

    assert nobody.text.startswith("There are no agents yet.")
    assert words in nobody.text
    assert none_so_called.text.startswith("No agents with 'anna' in their name.")


async def test_a_second_agent_of_a_name_is_not_made(letta: Letta, way: Way) -> None:
    agent_id, name = await letta.new_agent()
    async with way.to(Settings(base_url=letta.base_url, create_agents=True)) as caller:
        refusal = await caller.refused("create_agent", name=name)
        named = await caller.ok("describe", conversation_id="default", agent=name)

    assert agent_id in refusal
    assert "another name" in refusal
    assert named.data["agent_id"] == agent_id


async def test_a_cursor_that_is_none_is_named_as_the_argument_that_it_is(mcp: Caller) -> None:
    conversations = await mcp.refused("list_conversations", after="yesterday")
    agents = await mcp.refused("list_agents", after="yesterday")

    assert conversations.startswith("after: 'yesterday' is no cursor")
    assert agents.startswith("after: ")


@pytest.mark.parametrize(
    ("tool", "arguments", "named"),
    [
        ("list_agents", {"search": "a\0b"}, "search"),
        ("list_conversations", {"agent": "a\0b"}, "agent"),
        ("list_conversations", {"search": "a\0b"}, "search"),
        ("ask_many", {"message": "hello", "agents": ["anna", "a\0b"]}, "agents"),
    ],
)
async def test_a_nul_character_is_refused_before_letta_is_asked(
    mcp: Caller, tool: str, arguments: dict[str, object], named: str
) -> None:
    refusal = await mcp.refused(tool, **arguments)

    assert refusal.startswith(f"{named}: it holds a NUL character")
    assert "Nothing was done" in refusal
