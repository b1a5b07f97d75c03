"""Finding and making agents."""

from __future__ import annotations

import json
import uuid

import pytest

from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import EMBEDDING, MODEL, Letta
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


async def test_a_name_that_letta_does_not_take_is_refused_and_nothing_is_made(letta: Letta, way: Way) -> None:
    name = f"a/b {uuid.uuid4().hex[:6]}"
    async with way.to(Settings(base_url=letta.base_url, create_agents=True)) as caller:
        refusal = await caller.refused("create_agent", name=name)
        found = await caller.ok("list_agents", search=name)

    assert f"Agent name '{name}' contains invalid characters" in refusal
    assert "Nothing was done; choose another." in refusal
    assert "may have been created" not in refusal
    assert "agents" not in found.data


@pytest.mark.fake_only
async def test_an_agent_without_a_chosen_model_does_not_get_the_trial(way: Way) -> None:
    fake = FakeLetta(ScriptedModel())
    handles = ["letta/letta-free", MODEL, "openai-proxy/fake-2"]
    async with (
        fake.serve() as url,
        way.to(Settings(base_url=url, create_agents=True)) as caller,
    ):
        fake.fail("GET", "/v1/models/", status=200, body=json.dumps([{"handle": each} for each in handles]))
        made = await caller.ok("create_agent", name="books")
        fake.fail("GET", "/v1/models/", status=200, body=json.dumps([{"handle": each} for each in handles]))
        listed = await caller.ok("list_models")

    assert made.data["model"] == MODEL
    assert listed.data["models"] == [MODEL, "openai-proxy/fake-2", "letta/letta-free"]


async def test_more_models_are_spoken_of_only_where_there_are_more(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    refusal = await mcp.refused("create_conversation", agent=agent_id, model="none")

    assert MODEL in refusal
    assert "shows more" not in refusal


@pytest.mark.fake_only
async def test_a_server_of_another_kind_is_no_letta_server(way: Way) -> None:
    fake = FakeLetta(ScriptedModel())
    async with fake.serve() as url, way.to(Settings(base_url=url)) as caller:
        for path in ("agents", "conversations", "models"):
            fake.fail("GET", f"/v1/{path}/", status=404, body=json.dumps({"error": {"message": "no such path"}}))
        refusals = [await caller.refused(f"list_{what}") for what in ("agents", "conversations", "models")]

    assert all("is not a Letta REST server" in each for each in refusals)


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


async def test_agents_are_found_by_tag(letta: Letta, mcp: Caller) -> None:
    tag = f"team {uuid.uuid4().hex[:6]}"
    body = {"model": MODEL, "embedding": EMBEDDING, "tags": [tag, "other"]}
    tagged = [(await letta.request("POST", "/v1/agents/", json={**body, "name": f"{tag} {n}"}))["id"] for n in "ab"]
    await letta.new_agent()

    found = await mcp.ok("list_agents", tag=tag)
    narrowed = await mcp.ok("list_agents", tag=tag, search=f"{tag} b")
    none = await mcp.ok("list_agents", tag=f"no {tag}")

    assert [each["id"] for each in found.data["agents"]] == tagged[::-1]
    assert f"tags: {tag!r}, 'other'" in found.text or f"tags: 'other', {tag!r}" in found.text
    assert [each["id"] for each in narrowed.data["agents"]] == [tagged[1]]
    assert none.text.startswith(f"No agents with the tag 'no {tag}'")


async def test_an_agent_is_deleted_with_its_conversations_after_a_confirmation(letta: Letta, way: Way) -> None:
    agent_id, name = await letta.new_agent()
    other, _ = await letta.new_agent()
    kept = await letta.new_conversation(other)
    gone = [await letta.new_conversation(agent_id) for _ in range(3)]
    async with way.to(Settings(base_url=letta.base_url, create_agents=True)) as caller:
        await caller.ok("describe", conversation_id=gone[0])
        asked = await caller.refused("delete_agent", agent=name)
        still = await caller.ok("list_conversations", agent=name)
        deleted = await caller.ok("delete_agent", agent=name, confirm=True)
        again = await caller.refused("delete_agent", agent=agent_id, confirm=True)
        waited = await caller.refused("wait_for_reply", conversation_id=gone[0])
        sent = await caller.refused("send_message", conversation_id=gone[0], message="hello?")
        others = await caller.ok("describe", conversation_id=kept)

    assert "would delete the agent" in asked
    assert f"{name!r} ({agent_id})" in asked
    assert "3 conversations" in asked
    assert "confirm=true" in asked
    assert len(still.data["conversations"]) == 3
    assert deleted.data == {"agent_id": agent_id, "name": name, "conversations": 3}
    assert deleted.text == f"Deleted agent {name!r} ({agent_id}) and its 3 conversations."
    assert "There is no agent" in again
    assert all(f"There is no conversation {gone[0]}" in each for each in (waited, sent))
    assert others.data["agent_id"] == other


async def test_waiting_after_the_agents_deletion_elsewhere_says_that_it_is_gone(letta: Letta, mcp: Caller) -> None:
    """The owner of a conversation is known from before, so only asking shows it."""
    agent_id, _ = await letta.new_agent()
    sent = await mcp.ok("send_message", agent=agent_id, message="hello")
    await letta.request("DELETE", f"/v1/agents/{agent_id}")

    gone = await mcp.refused("wait_for_reply", conversation_id=sent.data["conversation_id"])
    default = await mcp.refused("wait_for_reply", conversation_id="default", agent=agent_id)

    assert "There is no conversation" in gone
    assert "There is no agent" in default
    assert "Nothing was sent" not in gone + default


async def test_agents_are_listed_page_by_page_to_the_last(mcp: Caller, letta: Letta) -> None:
    same = uuid.uuid4().hex[:8]
    made = [(await letta.new_agent(f"{same} {number}"))[0] for number in range(3)]
    await letta.new_agent()

    first = await mcp.ok("list_agents", search=same, limit=2)
    last = await mcp.ok("list_agents", search=same, limit=2, after=first.data["agents"][-1]["id"])
    beyond = await mcp.ok("list_agents", search=same, limit=2, after=last.data["agents"][-1]["id"])

    assert [[each["id"] for each in page.data["agents"]] for page in (first, last)] == [made[:0:-1], made[:1]]
    assert first.data["next"] == f"More: the same call with after={made[1]!r}."
    assert "next" not in last.data
    assert beyond.text.startswith("No more agents with")


async def test_a_page_of_agents_says_how_many_there_are(letta: Letta, mcp: Caller) -> None:
    team = f"team {uuid.uuid4().hex[:6]}"
    for number in range(3):
        await letta.new_agent(f"{team} {number}")

    first = await mcp.ok("list_agents", search=team, limit=2)
    rest = await mcp.ok("list_agents", search=team, limit=2, after=first.data["agents"][-1]["id"])
    exactly = await mcp.ok("list_agents", search=team, limit=3)

    assert first.data["listed"] == "2 of 3 agents, newest first."
    assert f"after={first.data['agents'][-1]['id']!r}" in first.data["next"]
    assert rest.data["listed"] == "1 of 3 agents, newest first."
    assert "next" not in rest.data
    assert exactly.data["listed"] == "3 agents, newest first."
    assert "next" not in exactly.data


async def test_a_page_of_conversations_says_how_many_there_are(letta: Letta, mcp: Caller) -> None:
    agent_id, _ = await letta.new_agent()
    for number in range(3):
        await letta.new_conversation(agent_id, f"row {number}")

    first = await mcp.ok("list_conversations", agent=agent_id, limit=2)
    rest = await mcp.ok("list_conversations", agent=agent_id, limit=2, after=first.data["conversations"][-1]["id"])
    exactly = await mcp.ok("list_conversations", agent=agent_id, limit=3)

    assert first.text.startswith("2 of 3 conversations of agent")
    assert "more follow" in first.data["listed"]
    assert rest.text.startswith("1 of 3 conversations of agent")
    assert "next" not in rest.data
    assert exactly.text.startswith("3 conversations of agent")
    assert "next" not in exactly.data
