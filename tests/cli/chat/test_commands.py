"""The commands of the chat, in a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.chat.virtual_terminal import chat
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Say, ScriptedModel


async def test_conversations_are_listed_begun_named_and_gone_to(letta: Letta) -> None:
    agent_id, agent = await letta.new_agent()
    invoices = await letta.new_conversation(agent_id, "invoice 4711")
    await letta.send(invoices, "about the invoice")
    await letta.new_conversation(agent_id, "holidays")

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("2 conversations")
        await terminal.until("Continuing 'invoice 4711'")
        terminal.enter("/new planning")
        await terminal.until("begins with your next message")
        terminal.enter("hello")
        await terminal.until("echo: hello")
        terminal.enter("/list")
        await terminal.until("● 1 planning")
        await terminal.until("no message yet")
        terminal.enter("/rename plans for May")
        await terminal.until("It is called 'plans for May' now.")
        terminal.enter("/switch holi")
        await terminal.until("'holidays'")
        terminal.enter("/switch 2")
        await terminal.until("echo: about the invoice", times=2)
        terminal.enter("/switch nonsense")
        await terminal.until("No conversation of this agent is called 'nonsense'.")
    assert {each["summary"] for each in await listed(letta, agent_id)} == {"invoice 4711", "holidays", "plans for May"}


async def listed(letta: Letta, agent_id: str) -> list[dict[str, str]]:
    return await letta.request("GET", "/v1/conversations/", params={"agent_id": agent_id})


async def test_agents_are_listed_and_chosen(letta: Letta) -> None:
    _, one = await letta.new_agent()
    _, other = await letta.new_agent()

    async with chat(letta.base_url, "--agent", one) as terminal:
        await terminal.until("begins a conversation")
        terminal.enter(f"/agents {other}")
        await terminal.until(f"1 {other} openai-proxy/fake-1")
        terminal.enter("/agent 1")
        await terminal.until_status(other)
        terminal.enter("hello")
        await terminal.until("echo: hello")
        terminal.enter("/agent nobody at all")
        await terminal.until("There is no agent 'nobody at all'.")


async def test_the_history_the_facts_and_the_search(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id, "ducks")
    await letta.send(conversation, "the mallard has landed")
    await letta.send(conversation, "second message")

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("echo: second message")
        assert "mallard" not in terminal.text
        terminal.enter("/history")
        await terminal.until("echo: the mallard has landed")
        terminal.enter("/history many")
        await terminal.until("/history takes a count")
        terminal.enter("/info")
        await terminal.until(f"conversation {conversation}")
        await terminal.until("name ducks")
        terminal.enter("/search mallard")
        await terminal.until("Messages with 'mallard'")
        await terminal.until("1 ducks")


async def test_a_branch_is_made_and_gone_to(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id, "trunk")
    await letta.send(conversation, "hello")

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("echo: hello")
        terminal.enter("/fork twig")
        await terminal.until("This is 'twig'")
        terminal.enter("only here")
        await terminal.until("echo: only here")
    assert await letta.stored_texts(agent_id, conversation) == ["hello"]


async def test_compacting_shows_the_summary(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id)
    for number in range(3):
        await letta.send(conversation, f"message {number}")

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("echo: message 2")
        terminal.enter("/compact nothing")
        await terminal.until("There are the modes")
        terminal.enter("/compact all")
        await terminal.until("── compacted:")


async def test_deleting_asks_first(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    kept = await letta.new_conversation(agent_id, "kept")
    gone = await letta.new_conversation(agent_id, "gone")

    async with chat(letta.base_url, gone) as terminal:
        await terminal.until("has no message yet")
        terminal.enter("/delete yes")
        await terminal.until("This deletes 'gone'")
        assert len(await listed(letta, agent_id)) == 2
        terminal.enter("/info")
        await terminal.until("name gone")
        terminal.enter("/delete yes")
        await terminal.until("To do it: /delete yes", times=2)
        terminal.enter("/delete yes")
        await terminal.until("Deleted: 'gone'")
        await terminal.until_status("kept")
    assert [each["id"] for each in await listed(letta, agent_id)] == [kept]


async def test_exporting_writes_a_file_and_no_file_twice(
    letta: Letta, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id)
    await letta.send(conversation, "to be kept")
    path = tmp_path / "talk.md"

    async with chat(letta.base_url, conversation, columns=160) as terminal:
        await terminal.until("echo: to be kept")
        terminal.enter(f"/export {path}")
        await terminal.until("Messages written to")
        terminal.enter(f"/export {path}")
        await terminal.until("is there already")
    assert "echo: to be kept" in path.read_text()
    assert capsys.readouterr().err == ""


async def test_the_memory_of_a_conversation_is_compared(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id)
    await letta.send(conversation, "hello")

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("echo: hello")
        terminal.enter("/memory")
        await terminal.until("knows the agent's memory as it is now.")
        await letta.request("PATCH", f"/v1/agents/{agent_id}/core-memory/blocks/human", json={"value": "Name: Bea"})
        terminal.enter("/memory")
        await terminal.until("Name: Bea")
        terminal.enter("/memory refresh")
        await terminal.until("── refreshed:")


async def test_a_running_turn_is_left_behind_when_one_goes_elsewhere(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    here = await letta.new_conversation(agent_id, "here")
    there = await letta.new_conversation(agent_id, "there")
    held = Hold(Say("slow answer"))
    model.enqueue(held, to="slow question")

    async with chat(letta.base_url, here) as terminal:
        await terminal.until("has no message yet")
        terminal.enter("slow question")
        await model.asked()
        terminal.enter(f"/switch {there}")
        await terminal.until_status("there")
        terminal.enter("quick question")
        await terminal.until("echo: quick question")
        held.gate.set()
        await terminal.until("has answered in 'here'")
        assert "slow answer" not in terminal.text
        terminal.enter("/switch here")
        await terminal.until("slow answer")


async def test_a_command_that_cannot_be_carried_out_says_why(letta: Letta) -> None:
    agent_id, agent = await letta.new_agent()
    await letta.new_conversation(agent_id, "plan A")
    await letta.new_conversation(agent_id, "plan B")

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("has no message yet")
        for typed, answer in {
            "/history 1000": "/history takes a count from 1 to 100.",
            "/approve": "Nothing waits for a decision here.",
            "/deny": "Nothing waits for a decision here.",
            "/compact nonsense": "There are the modes",
            "/rename": "Say the name: /rename NAME",
            "/memory x": "/memory says what has changed",
            "/search": "Say what to look for: /search WORDS",
            "/list nonsense": "No conversation is called like that.",
            "/agents nonsense": "No agent is called like that.",
            "/switch plan": "Several are called 'plan'",
            "/show": "The latest reply has neither reasoning nor tool calls.",
            "/cancel": "Nothing is running here, so nothing was stopped.",
        }.items():
            seen = terminal.flat.count(answer)
            terminal.enter(typed)
            await terminal.until(answer, times=seen + 1)
        terminal.enter("/switch default")
        await terminal.until_status("default")
        terminal.enter("/delete yes")
        await terminal.until("The default conversation of an agent cannot be deleted.")
    assert {each["summary"] for each in await listed(letta, agent_id)} == {"plan A", "plan B"}


async def test_a_command_without_a_name_lists_what_there_is(letta: Letta) -> None:
    await letta.new_agent()
    agent_id, agent = await letta.new_agent()
    await letta.new_conversation(agent_id, "plan A")

    async with chat(letta.base_url) as terminal:
        await terminal.until("/agent NUMBER talks with one.")
        terminal.enter("hello")
        await terminal.until("Choose an agent first")
        await terminal.until("you ▸ hello")
        terminal.press("\x15")  # The message is in the input again: Ctrl-U takes it out.
        terminal.enter(f"/agent {agent_id}")
        await terminal.until_status(agent)
        terminal.enter("/agent")
        await terminal.until("/agent NUMBER talks with one.", times=2)
        terminal.enter("/switch")
        await terminal.until("● 1 plan A")
        terminal.enter("/show on")
        await terminal.until("are shown in full from now on")
        terminal.enter("/show off")
        await terminal.until("They are folded again.")
    assert await letta.stored_texts(agent_id, "default") == []


@pytest.mark.parametrize(("typed", "answer"), [("/swich", "Did you mean /switch?"), ("/xyz", "/help lists them.")])
async def test_an_unknown_command_is_no_message(letta: Letta, typed: str, answer: str) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id)

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("has no message yet")
        terminal.enter(typed)
        await terminal.until(f"There is no command {typed}. {answer}")
        terminal.enter("//slash")
        await terminal.until("echo: /slash")
    assert await letta.stored_texts(agent_id, conversation) == ["/slash"]


async def test_help_names_every_command_and_quit_leaves(letta: Letta) -> None:
    _, agent = await letta.new_agent()

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("begins a conversation")
        terminal.enter("/help")
        await terminal.until("/approve [#N …] [REASON]")
        await terminal.until("Ctrl-D leaves.")
        terminal.enter("/quit")
        assert await terminal.ended() == 0
