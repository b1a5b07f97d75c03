"""`message_key`: one message for one key, in this process and in every other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from letta_conversations_mcp.settings import Settings
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Say
from tests.rig.servers import Caller, connect


@asynccontextmanager
async def another_process(letta: Letta) -> AsyncGenerator[Caller]:
    """A server that remembers no call of the others."""
    async with connect(Settings(base_url=letta.base_url), "memory", "legacy") as client:
        yield Caller(client)


async def test_a_key_names_the_same_message_in_another_process_after_its_turn(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    call = {"conversation_id": await letta.new_conversation(agent_id), "message": "Pay it", "message_key": "invoice 7"}
    async with another_process(letta) as first:
        paid = await first.ok("send_message", **call)
    async with another_process(letta) as second:
        again = await second.ok("send_message", **call)
        waited = await second.ok("wait_for_reply", conversation_id=call["conversation_id"], message_key="invoice 7")

    assert paid.data["run_id"] == again.data["run_id"] == waited.data["run_id"]
    assert "not sent again" in again.data["note"]
    assert await letta.stored_texts(agent_id, call["conversation_id"]) == ["Pay it"]


async def test_a_key_names_the_same_message_while_its_turn_runs(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    call = {"conversation_id": await letta.new_conversation(agent_id), "message": "Think", "message_key": "k"}
    held = Hold(Say("At last."))
    letta.model.enqueue(held)
    replies: list[str] = []

    async def ask(client: Caller) -> None:
        replies.append((await client.ok("send_message", **call)).data["reply"])

    async with (
        another_process(letta) as first,
        another_process(letta) as second,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ask, first)
        await letta.model.asked()
        tasks.start_soon(ask, second)
        await second.until_reported("looking")
        held.gate.set()

    assert replies == ["At last.", "At last."]
    assert await letta.stored_texts(agent_id, call["conversation_id"]) == ["Think"]


async def test_a_key_finds_the_conversation_that_was_opened_for_its_message(letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    opened: list[str] = []
    for _ in range(2):
        async with another_process(letta) as client:
            answer = await client.ok("send_message", agent=name, message="Hello", message_key="once")
            opened.append(answer.data["conversation_id"])

    assert opened[0] == opened[1]
    assert await letta.stored_texts(agent_id, opened[0]) == ["Hello"]


async def test_a_key_is_refused_for_another_text(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    call = {"conversation_id": await letta.new_conversation(agent_id), "message_key": "k"}
    async with another_process(letta) as client:
        await client.ok("send_message", **call, message="Pay it")
    async with another_process(letta) as client:
        assert "message_key" in await client.refused("send_message", **call, message="Pay it twice, please")

    assert await letta.stored_texts(agent_id, call["conversation_id"]) == ["Pay it"]


async def test_two_keys_with_the_same_text_are_two_messages(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    for key in ("first", "second"):
        answer = await mcp.ok("send_message", conversation_id=conversation_id, message="Go on", message_key=key)
        assert "note" not in answer.data

    assert await letta.stored_texts(agent_id, conversation_id) == ["Go on", "Go on"]


async def test_ask_many_asks_each_once_for_a_key(letta: Letta) -> None:
    agents = [await letta.new_agent() for _ in range(2)]
    call = {"message": "What is new?", "agents": [name for _, name in agents], "message_key": "monday"}
    rows: list[list[str]] = []
    for _ in range(2):
        async with another_process(letta) as client:
            answer = await client.ok("ask_many", **call)
            rows.append([row["conversation_id"] for row in answer.data["replies"]])

    assert rows[0] == rows[1]
    for (agent_id, _), conversation_id in zip(agents, rows[0], strict=True):
        assert await letta.stored_texts(agent_id, conversation_id) == ["What is new?"]


async def test_a_key_that_letta_has_not_seen_is_to_be_sent_with_the_same_key(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id), "message_key": "never sent"}

    answer = await mcp.ok("wait_for_reply", **place)
    sent = [await mcp.ok("send_message", **place, message="Pay it") for _ in range(2)]

    assert answer.data["status"] == "not_confirmed"
    assert "was never sent, or has not arrived yet" in answer.data["next"]
    assert (
        f"send_message(conversation_id='{place['conversation_id']}', message=…, message_key='never sent')"
        in (answer.data["next"])
    )
    assert sent[0].data["run_id"] == sent[1].data["run_id"]
    assert await letta.stored_texts(agent_id, place["conversation_id"]) == ["Pay it"]


@pytest.mark.parametrize("key", ["x" * 201])
async def test_a_key_has_a_longest_length(mcp: Caller, key: str) -> None:
    assert "message_key" in await mcp.refused("send_message", agent="any", message="hello", message_key=key)


@asynccontextmanager
async def busy(letta: Letta) -> AsyncGenerator[tuple[Caller, dict[str, str]]]:
    """A process whose own turn runs in a conversation, and a call that makes a branch there."""
    conversation = await letta.new_conversation((await letta.new_agent())[0])
    held = Hold(Say("the first answer"))
    letta.model.enqueue(held, to="first")
    async with another_process(letta) as process:
        await process.running(conversation_id=conversation, message="first")
        yield process, {"conversation_id": conversation, "message": "Pay it", "message_key": "k", "on_busy": "fork"}
        held.gate.set()


async def test_a_key_names_the_same_message_in_a_branch_too(letta: Letta) -> None:
    async with busy(letta) as (first, call):
        paid = (await first.ok("send_message", **call)).data
        async with another_process(letta) as second:
            again = (await second.ok("send_message", **call)).data

    branch = paid["conversation_id"]
    assert branch != call["conversation_id"]
    assert (branch, paid["run_id"]) == (again["conversation_id"], again["run_id"])
    assert (await letta.stored_texts(paid["agent_id"], branch)).count("Pay it") == 1


@pytest.mark.fake_only
async def test_nothing_is_sent_in_a_branch_that_cannot_be_given_its_key(letta: Letta) -> None:
    """Another process could not find it, and would send the message once more."""
    async with busy(letta) as (first, call):
        letta.fake.fail("PATCH", "/v1/conversations/*", status=500)
        refusal = await first.refused("send_message", **call)
        sent = (await first.ok("send_message", **call)).data
        there = await letta.request("GET", "/v1/conversations/", params={"agent_id": sent["agent_id"]})

    assert "Nothing was sent" in refusal
    assert "may have been" not in refusal
    assert {each["id"] for each in there} == {call["conversation_id"], sent["conversation_id"]}
    assert sent["reply"] == "echo: Pay it"
