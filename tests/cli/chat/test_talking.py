"""Talking in a terminal: replies as they grow, what is folded, and what waits."""

from __future__ import annotations

import pytest

from tests.cli.chat.virtual_terminal import ALT_ENTER, CTRL_C, CTRL_D, CTRL_O, TAB, UP, chat
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Hold, Refuse, Say, ScriptedModel, Use


async def test_a_reply_is_shown_with_its_markdown_rendered(letta: Letta, model: ScriptedModel) -> None:
    _, agent = await letta.new_agent()
    model.enqueue(Say("Due on **Friday**:\n\n| Invoice | Due |\n|---|---|\n| 4711 | 4 December |\n\n- one\n- two"))

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("Your first message begins a conversation.")
        terminal.enter("When is it due?")
        await terminal.until("• two")

        assert "you ▸ When is it due?" in terminal.text
        assert "  Due on Friday:" in terminal.text
        assert "  4711      4 December" in terminal.text
        assert "**" not in terminal.text
        assert "|---|" not in terminal.text
        assert terminal.flat.count("Due on Friday") == 1


async def test_what_the_agent_says_is_shown_before_its_turn_ends(letta: Letta, model: ScriptedModel) -> None:
    _, agent = await letta.new_agent()
    held = Hold(Say("It is due on Friday."))
    model.enqueue(CallTools((Use("conversation_search", {"query": "4711"}),), "Let me look."), held)

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("begins a conversation")
        terminal.enter("When is 4711 due?")
        await terminal.until("Let me look.")
        await terminal.until('▸ conversation_search("4711") done')
        await terminal.until_status("Ctrl-C stops waiting")

        assert "It is due on Friday." not in terminal.text
        held.gate.set()
        await terminal.until("It is due on Friday.")
        await terminal.until_status("/help")
        assert terminal.flat.count("Let me look.") == 1
        assert terminal.flat.count("conversation_search") == 1


async def test_reasoning_is_folded_and_shown_on_request(letta: Letta, model: ScriptedModel) -> None:
    _, agent = await letta.new_agent()
    model.enqueue(Say("On Friday.", reasoning="The ledger says the fourth."))

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("begins a conversation")
        terminal.enter("When?")
        await terminal.until("On Friday.")
        await terminal.until("▸ reasoning")
        assert "The ledger says" not in terminal.text

        terminal.press(CTRL_O)
        await terminal.until("The ledger says the fourth.")


async def test_messages_wait_for_the_one_before_them(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id)
    held = Hold(Say("first answer"))
    model.enqueue(held, Say("second answer"))

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("has no message yet")
        terminal.enter("one")
        await terminal.until_status("Ctrl-C stops waiting")
        terminal.enter("two")
        await terminal.until("next: two")
        assert await letta.stored_texts(agent_id, conversation) in ([], ["one"])

        held.gate.set()
        await terminal.until("second answer")
        assert terminal.text.index("first answer") < terminal.text.index("you ▸ two")
        assert "next: two" not in terminal.text
    assert await letta.stored_texts(agent_id, conversation) == ["one", "two"]


async def test_ctrl_c_stops_waiting_and_the_reply_is_shown_all_the_same(letta: Letta, model: ScriptedModel) -> None:
    _, agent = await letta.new_agent()
    held = Hold(Say("late answer"))
    model.enqueue(held)

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("begins a conversation")
        terminal.enter("hello")
        await model.asked()
        await terminal.until_status("Ctrl-C stops waiting")
        terminal.press(CTRL_C)
        await terminal.until("Not waiting any more")
        await terminal.until_status("/cancel stops it")

        held.gate.set()
        await terminal.until("late answer")


async def test_ctrl_c_twice_leaves_and_says_how_to_come_back(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id)
    held = Hold(Say("there it is"))
    model.enqueue(held)

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("has no message yet")
        terminal.enter("hello")
        await model.asked()
        terminal.press(CTRL_C)
        await terminal.until("Ctrl-C again leaves")
        terminal.press(CTRL_C)
        assert await terminal.ended() == 0
        assert "The agent goes on" in terminal.flat
        assert f"chat {conversation}" in terminal.flat
    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until_status("busy with another message")
        held.gate.set()
        await terminal.until("there it is")
        await terminal.until_status("/help")
        assert terminal.flat.count("there it is") == 1
        assert terminal.flat.count("you ▸ hello") == 1


async def test_cancel_stops_the_turn(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id)
    held = Hold(Say("never wanted"))
    model.enqueue(held)

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("has no message yet")
        terminal.enter("hello")
        await model.asked()
        terminal.enter("/cancel")
        await terminal.until("The turn was stopped.")
        held.gate.set()
        await terminal.until_status("/help")
        terminal.enter("and now?")
        await terminal.until("echo: and now?")
        assert "never wanted" not in terminal.text


async def test_a_turn_that_fails_says_why_and_what_is_safe(letta: Letta, model: ScriptedModel) -> None:
    _, agent = await letta.new_agent()
    model.enqueue(Refuse(400, "the model is tired"))

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("begins a conversation")
        terminal.enter("hello")
        await terminal.until("✗ The turn failed")
        await terminal.until("safe to send the message again")
        terminal.enter("again")
        await terminal.until("echo: again")


async def test_input_of_several_lines_and_its_history(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id)
    await letta.send(conversation, "said before")

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("echo: said before")
        await terminal.until_status("/help")
        terminal.press(UP)
        await terminal.until("you ▸ said before", times=2)
        terminal.press(CTRL_C)
        terminal.press(f"line one{ALT_ENTER}line two\r")
        await terminal.until("echo: line one")
    assert await letta.stored_texts(agent_id, conversation) == ["said before", "line one\nline two"]


async def test_a_paste_of_several_lines_is_not_sent_by_itself(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id)

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("has no message yet")
        terminal.press("\x1b[200~first\nsecond\x1b[201~")
        await terminal.until("you ▸ first second")
        terminal.press("\r")
        await terminal.until("echo: first")
    assert await letta.stored_texts(agent_id, conversation) == ["first\nsecond"]


async def test_commands_agents_and_conversations_are_completed(letta: Letta) -> None:
    agent_id, agent = await letta.new_agent()
    await letta.new_conversation(agent_id, "invoice 4711")
    await letta.new_conversation(agent_id, "holidays")

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("has no message yet")
        terminal.press("/sw")
        await terminal.until("go to another conversation")
        terminal.press(TAB)
        terminal.press("invo")
        await terminal.until("invoice 4711 no message yet")
        terminal.press(f"{TAB}\r\r")
        await terminal.until("'invoice 4711' (conv-")
        terminal.press(f"/agent {agent[:9]}")
        await terminal.until("openai-proxy/fake-1", times=2)


async def test_ctrl_d_leaves(letta: Letta) -> None:
    _, agent = await letta.new_agent()

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("begins a conversation")
        terminal.press(CTRL_D)
        assert await terminal.ended() == 0


@pytest.mark.fake_only
async def test_a_message_to_a_server_that_is_away_comes_back_into_the_input(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id)
    letta.fake.fail("POST", f"/v1/conversations/{conversation}/messages", status=400, body={"detail": "not now"})

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("has no message yet")
        terminal.enter("precious words")
        await terminal.until("not now")
        await terminal.until("you ▸ precious words", times=2)
        terminal.press("\r")
        await terminal.until("echo: precious words")
    assert await letta.stored_texts(agent_id, conversation) == ["precious words"]


@pytest.mark.fake_only
async def test_a_reply_whose_stream_broke_is_there_once(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id)
    held = Hold(Say("after the break"))
    model.enqueue(CallTools((Use("conversation_search", {"query": "x"}),), "Before the break."), held)
    letta.fake.drop("POST", f"/v1/conversations/{conversation}/messages", after_events=5)

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("has no message yet")
        terminal.enter("hello")
        await model.asked(2)
        held.gate.set()
        await terminal.until("after the break")
        await terminal.until_status("/help")
        assert terminal.flat.count("after the break") == 1
        assert terminal.flat.count("Before the break.") == 1
    assert await letta.stored_texts(agent_id, conversation) == ["hello"]
