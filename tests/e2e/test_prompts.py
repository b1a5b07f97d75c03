"""The prompts that a person chooses, and the completion of their arguments."""

from __future__ import annotations

import uuid

import pytest
from mcp import MCPError
from mcp_types import PromptReference, TextContent

from letta_conversations_mcp.server.prompts import PROMPTS
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.catalogue import TOOLS
from tests.rig.letta_server import Letta
from tests.rig.servers import Caller, Way

NOBODY = "conv-00000000-0000-4000-8000-000000000000"
READING = ["summarise_conversation", "agent_activity"]
WRITING = ["continue_conversation", "hand_over"]


async def prompt(mcp: Caller, name: str, **arguments: str) -> str:
    """What the model gets to read."""
    [message] = (await mcp.client.get_prompt(name, arguments)).messages
    assert message.role == "user"
    assert isinstance(message.content, TextContent)
    return message.content.text


async def completed(mcp: Caller, name: str, argument: str, typed: str, **known: str) -> list[str]:
    ref = PromptReference(type="ref/prompt", name=name)
    result = await mcp.client.complete(ref, {"name": argument, "value": typed}, context_arguments=known or None)
    return result.completion.values


async def a_conversation(letta: Letta, *messages: str, summary: str = "") -> tuple[str, str, str]:
    """(conversation id, agent id, agent name)"""
    agent_id, name = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, summary)
    for message in messages:
        await letta.send(conversation_id, message)
    return conversation_id, agent_id, name


@pytest.mark.all_ways
async def test_the_prompts_are_listed_with_their_arguments(mcp: Caller) -> None:
    listed = (await mcp.client.list_prompts()).prompts

    assert sorted(each.name for each in listed) == sorted(READING + WRITING)
    assert all(each.title and each.description for each in listed)
    arguments = {each.name: [(a.name, a.required) for a in each.arguments or []] for each in listed}
    assert arguments["hand_over"] == [("agent", True), ("what", True)]
    assert arguments["continue_conversation"][0] == ("conversation_id", True)


async def test_a_conversation_is_continued_where_it_stands(mcp: Caller, letta: Letta) -> None:
    conversation_id, agent_id, name = await a_conversation(letta, "the walrus is due")

    text = await prompt(mcp, "continue_conversation", conversation_id=conversation_id)

    assert "echo: the walrus is due" in text
    assert f"a conversation with the Letta agent {name!r} ({agent_id})." in text
    assert f"send_message(conversation_id={conversation_id!r}" in text


async def test_the_history_outside_of_conversations_is_continued_by_its_agent(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    await mcp.ok("send_message", conversation_id="default", agent=agent_id, message="outside")

    text = await prompt(mcp, "continue_conversation", conversation_id="default", agent=name)

    assert "echo: outside" in text
    assert f"conversation_id='default', agent={agent_id!r}" in text


async def test_a_hand_over_names_the_agent_by_its_id(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()

    text = await prompt(mcp, "hand_over", agent=name, what="the zebra report")

    assert "the zebra report" in text
    assert f"send_message(agent={agent_id!r}" in text


async def test_a_summary_leads_to_what_is_older(mcp: Caller, letta: Letta) -> None:
    conversation_id, _, _ = await a_conversation(letta, *(f"m{n}" for n in range(30)))

    text = await prompt(mcp, "summarise_conversation", conversation_id=conversation_id)

    assert "echo: m29" in text
    assert "echo: m1\n" not in text
    assert f"list_messages(conversation_id={conversation_id!r}, before='message-" in text


@pytest.mark.parametrize("name", ["continue_conversation", "summarise_conversation"])
async def test_a_transcript_that_is_long_is_cut_to_the_budget(mcp: Caller, letta: Letta, name: str) -> None:
    conversation_id, _, _ = await a_conversation(letta, "x" * 40_000)

    text = await prompt(mcp, name, conversation_id=conversation_id)

    assert len(text) <= 30_000
    assert "cut to fit" in text


async def test_what_an_agent_did_is_looked_up_in_its_conversations(mcp: Caller, letta: Letta) -> None:
    conversation_id, agent_id, name = await a_conversation(letta, "hello", summary="counting of zebras")

    text = await prompt(mcp, "agent_activity", agent=name)

    assert "counting of zebras" in text
    assert conversation_id in text
    assert f"conversation_id='default', agent={agent_id!r}" in text


@pytest.mark.parametrize("name", READING + WRITING)
async def test_a_prompt_names_only_tools_and_arguments_that_there_are(mcp: Caller, letta: Letta, name: str) -> None:
    conversation_id, agent_id, _ = await a_conversation(letta, *(f"m{n}" for n in range(26)))
    values = {"conversation_id": conversation_id, "agent": agent_id, "what": "this"}
    spec = next(each for each in PROMPTS if each.name == name)

    text = await prompt(mcp, name, **{each.name: values[each.name] for each in spec.arguments})

    offered = {tool.name: tool.input_schema["properties"] for tool in (await mcp.client.list_tools()).tools}
    called = [each for each in (spec.fn.__name__ for spec in TOOLS) if f"{each}(" in text]
    assert called
    for tool in called:
        inside = text.split(f"{tool}(")[1].split(")")[0]
        assert {part.split("=")[0].strip() for part in inside.split(",")} <= set(offered[tool])


async def test_a_read_only_server_offers_no_prompt_that_writes(way: Way, letta: Letta) -> None:
    async with way.to(Settings(base_url=letta.base_url, read_only=True)) as mcp:
        listed = (await mcp.client.list_prompts()).prompts
        with pytest.raises(MCPError) as raised:
            await mcp.client.get_prompt("hand_over", {"agent": "a", "what": "b"})

    assert [each.name for each in listed] == READING
    assert raised.value.error.code == -32602


@pytest.mark.all_ways
@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("no_such_prompt", {}, "no_such_prompt"),
        ("continue_conversation", {}, "conversation_id: it is needed"),
        ("hand_over", {"agent": "somebody"}, "what: it is needed"),
        ("hand_over", {"agent": "  ", "what": "this"}, "agent: it is needed"),
        ("agent_activity", {"agent": "a", "more": "b"}, "there is no such argument"),
        ("agent_activity", {"agent": "nobody of this name"}, "nobody of this name"),
        ("continue_conversation", {"conversation_id": "nonsense"}, "no conversation id"),
        ("continue_conversation", {"conversation_id": "default"}, "default"),
        ("summarise_conversation", {"conversation_id": NOBODY}, NOBODY),
    ],
)
async def test_a_wrong_argument_is_explained(mcp: Caller, name: str, arguments: dict[str, str], words: str) -> None:
    with pytest.raises(MCPError, match=words) as raised:
        await mcp.client.get_prompt(name, arguments)

    assert raised.value.error.code == -32602


async def test_a_name_that_agents_share_is_explained(mcp: Caller, letta: Letta) -> None:
    first, name = await letta.new_agent()
    await letta.new_agent(name)

    with pytest.raises(MCPError, match=first):
        await mcp.client.get_prompt("agent_activity", {"agent": name})


async def test_a_conversation_is_completed_by_its_id_and_its_summary(mcp: Caller, letta: Letta) -> None:
    animal = f"okapi {uuid.uuid4().hex[:8]}"
    conversation_id, _, _ = await a_conversation(letta, "so that it is recent", summary=f"Feeding of {animal}")

    assert await completed(mcp, "continue_conversation", "conversation_id", animal.upper()) == [conversation_id]
    assert conversation_id in await completed(mcp, "summarise_conversation", "conversation_id", conversation_id[:20])


async def test_only_conversations_of_the_chosen_agent_complete(mcp: Caller, letta: Letta) -> None:
    mine, _, name = await a_conversation(letta, "hi", summary="Feeding of gnus")
    other, _, _ = await a_conversation(letta, "hi", summary="Feeding of gnus")

    both = await completed(mcp, "continue_conversation", "conversation_id", "gnus")
    chosen = await completed(mcp, "continue_conversation", "conversation_id", "gnus", agent=name)

    assert {mine, other} <= set(both)
    assert chosen == [mine]
    assert await completed(mcp, "continue_conversation", "conversation_id", "gnus", agent="nobody like this") == []


async def test_an_agent_is_completed_by_its_name(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    twin, _ = await letta.new_agent(f"twin of {agent_id}")
    second_twin, _ = await letta.new_agent(f"twin of {agent_id}")

    assert await completed(mcp, "agent_activity", "agent", name[6:]) == [name]
    assert sorted(await completed(mcp, "hand_over", "agent", f"twin of {agent_id}")) == sorted([twin, second_twin])


async def test_what_nobody_can_know_is_not_completed(mcp: Caller) -> None:
    assert await completed(mcp, "hand_over", "what", "the") == []
