"""Forking a conversation."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client

from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, ScriptedModel, Use
from tests.rig.servers import Caller

UNKNOWN_MESSAGE = "message-00000000-0000-4000-8000-000000000000"


async def spoken_to(letta: Letta, agent_id: str, *texts: str) -> str:
    """A conversation in which these were said."""
    conversation_id = await letta.new_conversation(agent_id, "source")
    for text in texts:
        await letta.send(conversation_id, text)
    return conversation_id


async def texts_in(mcp: Caller, conversation_id: str) -> list[str]:
    listed = await mcp.ok("list_messages", conversation_id=conversation_id, kinds=["user"])
    return [each["text"] for each in listed.data.get("messages", [])]


async def context_of(letta: Letta, conversation_id: str) -> list[str]:
    found: dict[str, Any] = await letta.request("GET", f"/v1/conversations/{conversation_id}")
    return found["in_context_message_ids"]


async def test_a_branch_begins_with_the_same_messages_and_goes_its_own_way(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    source = await spoken_to(letta, agent_id, "first", "second")

    forked = await mcp.ok("fork", conversation_id=source, summary="what if")
    branch = forked.data["conversation_id"]
    await mcp.ok("send_message", conversation_id=branch, message="only in the branch")
    await mcp.ok("send_message", conversation_id=source, message="only in the source")

    assert forked.data["agent_id"] == agent_id
    assert (forked.data["source"], forked.data["shared_messages"]) == (source, 4)
    assert "note" not in forked.data
    assert branch in forked.text
    assert await texts_in(mcp, branch) == ["first", "second", "only in the branch"]
    assert await texts_in(mcp, source) == ["first", "second", "only in the source"]
    rows = (await mcp.ok("list_conversations", agent=agent_id)).data["conversations"]
    assert {row["id"]: row["summary"] for row in rows} == {source: "source", branch: "what if"}


async def test_a_branch_shows_the_parts_of_a_step_in_the_order_of_its_source(
    mcp: Caller, letta: Letta, model: ScriptedModel
) -> None:
    agent_id, _ = await letta.new_agent()
    model.enqueue(
        CallTools((Use("conversation_search", {"query": "invoice"}),), text="Let me look."),
        Say("It is due on Friday.", reasoning="The user asks for a date."),
    )
    source = await spoken_to(letta, agent_id, "When is it due?")

    branch = (await mcp.ok("fork", conversation_id=source)).data["conversation_id"]
    kinds = ["user", "assistant", "reasoning", "tool"]
    listed = [await mcp.ok("list_messages", conversation_id=each, kinds=kinds) for each in (source, branch)]

    shown = [[each["kind"] for each in answer.data["messages"]] for answer in listed]
    assert shown[0] == ["user", "assistant", "tool", "reasoning", "assistant"]
    assert shown[1] == shown[0]


async def test_a_branch_has_no_summary_unless_it_is_given_one(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    source = await spoken_to(letta, agent_id, "first")

    forked = await mcp.ok("fork", conversation_id=source)

    stored = await letta.request("GET", f"/v1/conversations/{forked.data['conversation_id']}")
    assert not stored["summary"]
    assert "summary" not in forked.data


async def test_what_this_server_ignores_of_a_fork_is_said(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    source = await spoken_to(letta, agent_id, "first", "second")
    page = await mcp.ok("list_messages", conversation_id=source, ids=True)
    first_answer = page.data["messages"][1]["id"]

    forked = await mcp.ok("fork", conversation_id=source, at_message=first_answer, hidden=True)

    assert first_answer in page.text
    assert "ignored at_message: the branch holds 2 newer messages" in forked.data["note"]
    assert "ignored hidden" in forked.data["note"]


async def test_a_fork_at_the_newest_message_is_what_was_asked_for(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    source = await spoken_to(letta, agent_id, "first")

    forked = await mcp.ok("fork", conversation_id=source, at_message=(await context_of(letta, source))[-1])

    assert "note" not in forked.data


async def test_a_message_of_another_conversation_is_no_place_to_fork_at(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    source, other = [await spoken_to(letta, agent_id, "hello") for _ in range(2)]
    foreign = (await context_of(letta, other))[-1]

    for wrong in (foreign, UNKNOWN_MESSAGE):
        assert "not in the context" in await mcp.refused("fork", conversation_id=source, at_message=wrong)
    assert "no cursor" in await mcp.refused("fork", conversation_id=source, at_message="../x")
    assert len((await mcp.ok("list_conversations", agent=agent_id)).data["conversations"]) == 2


async def test_the_default_conversation_can_be_forked(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    await mcp.ok("send_message", conversation_id="default", agent=agent_id, message="outside of any")

    forked = await mcp.ok("fork", conversation_id="default", agent=name)

    assert forked.data["shared_messages"] == 2
    assert await texts_in(mcp, forked.data["conversation_id"]) == ["outside of any"]


async def test_an_empty_conversation_can_be_forked(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    source = await letta.new_conversation(agent_id)

    forked = await mcp.ok("fork", conversation_id=source)

    assert forked.data["shared_messages"] == 0
    assert "no messages" in forked.text


async def test_a_branch_of_isolated_blocks_says_that_it_sees_the_agents(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    created = await mcp.ok("create_conversation", agent=agent_id, isolated_blocks=["human"])

    forked = await mcp.ok("fork", conversation_id=created.data["conversation_id"])

    assert "not the isolated ones" in forked.data["note"]


async def test_a_branch_survives_its_source(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    source = await spoken_to(letta, agent_id, "first")
    branch = (await mcp.ok("fork", conversation_id=source)).data["conversation_id"]

    await mcp.ok("delete", conversation_id=source, confirm=True)

    assert await texts_in(mcp, branch) == ["first"]
    assert "no conversation" in await mcp.refused("fork", conversation_id=source)


async def test_a_server_that_takes_the_place_and_the_hiding_is_believed() -> None:
    fake = FakeLetta(ScriptedModel(), cloud=True)
    async with fake.serve() as url, Client(build_server(Settings(base_url=url))) as client:
        mcp = Caller(client)
        source = fake.add_conversation(fake.add_agent("ann"))
        ids = fake.add_messages(source, 4)

        forked = await mcp.ok("fork", conversation_id=source, at_message=ids[1], hidden=True)

        assert forked.data["shared_messages"] == 2
        assert "note" not in forked.data
        assert await texts_in(mcp, forked.data["conversation_id"]) == ["message 0"]


@pytest.mark.fake_only
async def test_a_fork_whose_answer_is_lost_is_not_made_again(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    source = await spoken_to(letta, agent_id, "first")
    letta.fake.drop("POST", f"/v1/conversations/{source}/fork", after_request_is_handled=True)

    refusal = await mcp.refused("fork", conversation_id=source)

    assert "may have been forked" in refusal
    assert len((await mcp.ok("list_conversations", agent=agent_id)).data["conversations"]) == 2


@pytest.mark.fake_only
async def test_a_branch_that_cannot_be_named_is_given_all_the_same(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    source = await spoken_to(letta, agent_id, "first")
    letta.fake.fail("PATCH", "/v1/conversations/*", status=500)

    forked = await mcp.ok("fork", conversation_id=source, summary="named")

    assert "could not be given its summary" in forked.data["note"]
    assert await texts_in(mcp, forked.data["conversation_id"]) == ["first"]
