"""Sending to an agent opens a conversation, which the call can name and give a key."""

from __future__ import annotations

import pytest

from tests.rig.letta_server import MODEL, Letta
from tests.rig.servers import Caller


async def test_the_conversation_that_is_opened_gets_the_summary(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()

    sent = await mcp.ok("send_message", agent=name, message="hello", summary="invoice 4711")
    listed = await mcp.ok("list_conversations", agent=agent_id)

    assert [(each["id"], each["summary"]) for each in listed.data["conversations"]] == [
        (sent.data["conversation_id"], "invoice 4711")
    ]


async def test_a_key_finds_the_conversation_again_instead_of_opening_one(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    other, _ = await letta.new_agent()

    first = await mcp.ok("send_message", agent=name, message="hello", key="user:4711", summary="Ann")
    second = await mcp.ok("send_message", agent=agent_id, message="me again", key="user:4711")
    created = await mcp.ok("create_conversation", agent=agent_id, key="user:4711")
    elsewhere = await mcp.ok("send_message", agent=other, message="hello", key="user:4711")
    without = await mcp.ok("send_message", agent=agent_id, message="hello")

    place = first.data["conversation_id"]
    assert second.data["conversation_id"] == created.data["conversation_id"] == place
    assert created.data["summary"].startswith("Ann [key: user:4711")
    assert len({place, elsewhere.data["conversation_id"], without.data["conversation_id"]}) == 3
    assert await letta.stored_texts(agent_id, place) == ["hello", "me again"]


async def test_a_summary_with_a_message_key_is_kept(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    sent = await mcp.ok("send_message", agent=agent_id, message="hello", summary="tea", message_key="m1")
    again = await mcp.ok("send_message", agent=agent_id, message="hello", summary="tea", message_key="m1")
    listed = await mcp.ok("list_conversations", agent=agent_id)

    assert again.data["conversation_id"] == sent.data["conversation_id"]
    [row] = listed.data["conversations"]
    assert row["summary"].startswith("tea [key: message:")


@pytest.mark.parametrize("named", [{"summary": "x"}, {"key": "x"}])
async def test_a_conversation_that_is_continued_is_given_neither(
    mcp: Caller, letta: Letta, named: dict[str, str]
) -> None:
    agent_id, _ = await letta.new_agent()
    place = await letta.new_conversation(agent_id, "before")

    one = await mcp.refused("send_message", conversation_id=place, message="hello", **named)
    many = await mcp.refused("ask_many", conversation_ids=[place], message="hello", **named)

    [argument] = named
    assert one.startswith(f"{argument}: ")
    assert many.startswith(f"{argument}: ")
    assert await letta.stored_texts(agent_id, place) == []


async def test_a_key_that_cannot_be_one_is_refused_before_anything_is_opened(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    refusals = [
        await mcp.refused("send_message", agent=agent_id, message="hello", key="no spaces"),
        await mcp.refused("ask_many", agents=[agent_id], message="hello", key="no spaces"),
    ]

    assert all(each.startswith("key: ") for each in refusals)
    assert "conversations" not in (await mcp.ok("list_conversations", agent=agent_id)).data


async def test_everybody_who_is_asked_gets_the_summary_and_the_key(mcp: Caller, letta: Letta) -> None:
    agents = [await letta.new_agent() for _ in range(2)]
    place = await letta.new_conversation(agents[0][0], "before")
    wanted = {"message": "hello", "agents": [name for _, name in agents], "summary": "round", "key": "round:1"}

    first = await mcp.ok("ask_many", **wanted, conversation_ids=[place])
    second = await mcp.ok("ask_many", **wanted)

    opened = [row["conversation_id"] for row in first.data["replies"]]
    assert opened[2] == place
    assert [row["conversation_id"] for row in second.data["replies"]] == opened[:2]
    for agent_id, _ in agents:
        listed = (await mcp.ok("list_conversations", agent=agent_id, search="round")).data["conversations"]
        assert [each["summary"].startswith("round [key: round:1") for each in listed] == [True]


async def test_the_answers_name_the_agent(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()

    opened = await mcp.ok("send_message", agent=agent_id, message="hello")
    place = {"conversation_id": opened.data["conversation_id"]}
    continued = await mcp.ok("send_message", **place, message="again")
    waited = await mcp.ok("wait_for_reply", **place)
    asked = await mcp.ok("ask_many", agents=[name], conversation_ids=[place["conversation_id"]], message="all")

    for answer in (opened, continued, waited):
        assert answer.data["agent_name"] == name
        assert f"{agent_id} {name!r}" in answer.text
    assert [row["agent_name"] for row in asked.data["replies"]] == [name, name]
    assert asked.text.count(f"{agent_id} {name!r}") == 2


async def test_a_model_for_one_message_goes_without_the_conversations_settings_and_says_so(
    mcp: Caller, letta: Letta
) -> None:
    agent_id, _ = await letta.new_agent()
    settings = {"provider_type": "openai", "temperature": 0.2}
    warm = await mcp.ok("create_conversation", agent=agent_id, model=MODEL, model_settings=settings)
    plain = await mcp.ok("create_conversation", agent=agent_id)
    other = {"message": "hello", "model": "openai-proxy/fake-2"}

    without = await mcp.ok("send_message", conversation_id=warm.data["conversation_id"], **other)
    with_them = await mcp.ok("send_message", conversation_id=warm.data["conversation_id"], message="hello")
    neither = await mcp.ok("send_message", conversation_id=plain.data["conversation_id"], **other)

    assert "without the conversation's model_settings" in without.data["note"]
    assert "note" not in with_them.data
    assert "note" not in neither.data
