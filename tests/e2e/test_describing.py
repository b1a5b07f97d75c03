"""Describing one conversation in full."""

from __future__ import annotations

import anyio
import pytest

from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Hold, Say, ScriptedModel, Use
from tests.rig.servers import Caller


async def test_a_conversation_is_told_in_full(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    created = await mcp.ok(
        "create_conversation",
        agent=agent_id,
        summary="invoice 4711",
        model="openai-proxy/fake-2",
        isolated_blocks=["human"],
    )
    conversation_id = created.data["conversation_id"]
    for text in ("one", "two"):
        await mcp.ok("send_message", conversation_id=conversation_id, message=text)

    told = await mcp.ok("describe", conversation_id=conversation_id)

    facts = {key: told.data[key] for key in ("agent_id", "agent_name", "summary", "model", "model_is_own")}
    assert facts == {
        "agent_id": agent_id,
        "agent_name": name,
        "summary": "invoice 4711",
        "model": "openai-proxy/fake-2",
        "model_is_own": True,
    }
    assert (told.data["messages_in_context"], told.data["messages"]) == (4, 4)
    assert told.data["context_limit"] == 30000
    assert 0 < told.data["context_tokens"] < 30000
    assert told.data["isolated_blocks"] == ["human"]
    assert told.data["memory_as_of"] == told.data["created_at"]
    assert {"run_id", "approvals", "unknown"} & set(told.data) == set()
    for words in (
        "invoice 4711",
        "its own",
        "4 messages",
        "Isolated blocks: 'human' block-",
        "4 in all (2 user, 2 agent)",
    ):
        assert words in told.text
    assert told.data["isolated_block_ids"] == created.data["isolated_block_ids"]
    listed = await mcp.ok("list_messages", conversation_id=conversation_id, ids=True)
    assert told.data["newest_in_context"] == [each["id"] for each in listed.data["messages"]]
    assert told.data["created_by"].startswith("user-")
    assert f"Created {told.data['created_at']} by user-" in told.text
    assert f"changed {told.data['changed_at']} by user-" in told.text


async def test_a_new_conversation_is_told_without_what_is_not_known(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)

    told = await mcp.ok("describe", conversation_id=conversation_id)

    assert told.data["model"] == "openai-proxy/fake-1"
    assert (told.data["messages"], told.data["messages_in_context"]) == (0, 0)
    assert {"summary", "context_tokens", "last_message_at", "model_is_own"} & set(told.data) == set()


async def test_the_default_conversation_is_told_by_its_agent(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    await mcp.ok("send_message", conversation_id="default", agent=agent_id, message="hello")

    told = await mcp.ok("describe", conversation_id="default", agent=name)

    assert (told.data["conversation_id"], told.data["agent_id"]) == ("default", agent_id)
    assert (told.data["messages"], told.data["messages_in_context"]) == (2, 2)
    assert told.data["context_tokens"] > 0
    assert f"agent={agent_id!r}" in told.data["next"]


async def test_a_compaction_shows_in_what_is_in_context(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    for number in range(3):
        await letta.send(conversation_id, f"message {number}")
    await mcp.ok("compact", conversation_id=conversation_id, mode="all")

    told = await mcp.ok("describe", conversation_id=conversation_id)

    assert (told.data["messages_in_context"], told.data["messages"]) == (1, 7)
    assert told.data["by_kind"] == {"user": 3, "agent": 3, "summary": 1}


async def test_a_running_turn_is_told(mcp: Caller, letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    held = Hold(Say("at last"))
    model.enqueue(held)
    running = await mcp.running(agent=agent_id, message="think")
    place = {"conversation_id": running.data["conversation_id"]}

    told = await mcp.ok("describe", **place)
    held.gate.set()
    await mcp.ok("wait_for_reply", **place)

    assert told.data["run_id"] == running.data["run_id"]
    assert "wait_for_reply" in told.data["next"]
    assert "run_id" not in (await mcp.ok("describe", **place)).data


async def test_a_call_that_waits_for_a_decision_is_told(mcp: Caller, letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    arguments = {"label": "human", "new_string": "Likes tea"}
    model.enqueue(CallTools((Use("memory_insert", arguments),)))
    sent = await mcp.ok("send_message", agent=agent_id, message="I like tea")

    told = await mcp.ok("describe", conversation_id=sent.data["conversation_id"])

    [call] = told.data["approvals"]
    assert call["tool"] == "memory_insert"
    assert "Likes tea" in call["arguments"]
    assert call["tool_call_id"] in told.text
    assert f"respond_to_approval(conversation_id={sent.data['conversation_id']!r}, approve=" in told.data["next"]


async def test_a_deleted_conversation_is_not_described(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    await mcp.ok("delete", conversation_id=conversation_id, confirm=True)

    assert "no conversation" in await mcp.refused("describe", conversation_id=conversation_id)


@pytest.mark.fake_only
async def test_a_question_that_fails_leaves_the_other_answers(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "named")
    letta.fake.fail("GET", "/v1/runs/", status=404, body={"detail": "no"}, times=2)

    with anyio.fail_after(HANG_SECONDS):
        told = await mcp.ok("describe", conversation_id=conversation_id)

    assert told.data["agent_name"] == name
    assert told.data["unknown"] == ["how full its context is", "whether a turn runs"]
    assert "Could not be asked" in told.text


@pytest.mark.fake_only
async def test_a_long_history_is_counted_as_far_as_one_request_goes(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    letta.fake.add_messages(conversation_id, 700)

    told = await mcp.ok("describe", conversation_id=conversation_id)

    assert (told.data["messages"], told.data["at_least"]) == (500, True)
    assert told.data["messages_in_context"] == 700
    assert "at least 500 in all" in told.text
