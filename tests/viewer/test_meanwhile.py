"""Answers that come after something else has happened: another conversation was opened, a later answer came."""

from __future__ import annotations

import anyio
import pytest
from playwright.async_api import Locator, expect

from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Hold, Say, Use
from tests.viewer.browser import LateAnswer, Viewer

REMEMBER = CallTools((Use("memory_insert", {"label": "human", "new_string": "Likes tea"}),))


async def late(viewer: Viewer, *words: str) -> LateAnswer:
    answer = LateAnswer(*words)
    await viewer.page.route("**/mcp", answer)
    return answer


def button(viewer: Viewer, name: str) -> Locator:
    return viewer.frame.get_by_role("button", name=name, exact=True)


def message(viewer: Viewer) -> Locator:
    return viewer.frame.get_by_label("Message", exact=True)


async def choose(viewer: Viewer, entry: str) -> None:
    await button(viewer, "More").click()
    await button(viewer, entry).click()


async def come_into_view(viewer: Viewer) -> None:
    """What a browser tells the page when it is looked at again."""
    await viewer.page.frames[1].evaluate("document.dispatchEvent(new Event('visibilitychange'))")


async def another_answer(viewer: Viewer) -> None:
    """Wait for an answer that was asked for now, so that what had come before is taken by then."""
    await button(viewer, "Conversations ▾").click()
    await expect(viewer.frame.locator(".choice-row").first).to_be_visible()
    await viewer.page.keyboard.press("Escape")
    await expect(viewer.frame.locator(".choice-row")).to_have_count(0)


async def opened(viewer: Viewer, letta: Letta, *others: str, needs_approval: str = "") -> tuple[str, str]:
    """Opens “the first” of an agent, which has `others` beside it; gives the ids of both."""
    agent_id, _ = await letta.new_agent(needs_approval=needs_approval)
    for other in others:
        await letta.new_conversation(agent_id, other)
    conversation_id = await letta.new_conversation(agent_id, "the first")
    await show_first(viewer, conversation_id)
    return agent_id, conversation_id


async def show_first(viewer: Viewer, conversation_id: str) -> None:
    await viewer.open(conversation_id=conversation_id)
    await expect(message(viewer)).to_be_visible()


async def switch(viewer: Viewer, name: str) -> None:
    await button(viewer, "Conversations ▾").click()
    await viewer.frame.locator(".choice-row").filter(has_text=name).click()
    await expect(viewer.frame.get_by_role("heading", name=name)).to_be_visible()
    await expect(message(viewer)).to_be_visible()


# A later answer has come.


@pytest.mark.fake_only
async def test_a_refresh_that_was_overtaken_does_not_take_newer_messages_away(viewer: Viewer, letta: Letta) -> None:
    conversation_id = letta.fake.add_conversation(letta.fake.add_agent("busy"))
    letta.fake.add_messages(conversation_id, 6)
    await show_first(viewer, conversation_id)
    older = await late(viewer, "after")
    await choose(viewer, "Refresh")
    await older.kept.wait()
    letta.fake.add_messages(conversation_id, 2, text="newer {n}")
    await choose(viewer, "Refresh")
    await expect(viewer.frame.get_by_text("newer 1")).to_be_visible()

    await older.give()
    await another_answer(viewer)

    await expect(viewer.frame.get_by_text("newer 1")).to_be_visible()


async def test_a_name_that_was_read_before_a_renaming_does_not_come_back(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta)
    older = await late(viewer, "describe")
    await viewer.say("hello")
    await older.kept.wait()

    await choose(viewer, "Rename…")
    await viewer.frame.get_by_role("textbox", name="Name").fill("renamed")
    await viewer.page.keyboard.press("Enter")
    await expect(viewer.frame.get_by_role("heading", name="renamed")).to_be_visible()
    await older.give()
    await another_answer(viewer)

    await expect(viewer.frame.get_by_role("heading", name="renamed")).to_be_visible()


async def test_a_list_shows_what_was_looked_for_last(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta, "green tea", "coffee")
    rows = viewer.frame.locator(".choice-row")
    older = await late(viewer, "list_conversations")
    await button(viewer, "Conversations ▾").click()
    await older.kept.wait()
    await viewer.frame.get_by_label("Find a conversation by name").fill("tea")
    await viewer.page.keyboard.press("Enter")
    await expect(rows).to_have_count(1)

    await older.give()
    refresh = await late(viewer, "view_messages")
    await come_into_view(viewer)
    await refresh.kept.wait()

    await expect(rows).to_have_count(1)
    await refresh.give()


async def test_a_row_can_be_clicked_while_a_name_to_look_for_is_half_typed(viewer: Viewer, letta: Letta) -> None:
    """To leave the field is not to look for what is in it: the rows would change under the pointer."""
    await opened(viewer, letta, "green tea")
    await button(viewer, "Conversations ▾").click()
    row = viewer.frame.locator(".choice-row").filter(has_text="green tea")
    await expect(row).to_be_visible()
    await viewer.frame.get_by_label("Find a conversation by name").fill("gre")

    await row.click()

    await expect(viewer.frame.get_by_role("heading", name="green tea")).to_be_visible()


async def test_an_emptied_field_lists_all_again(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta, "green tea")
    rows = viewer.frame.locator(".choice-row")
    await button(viewer, "Conversations ▾").click()
    name = viewer.frame.get_by_label("Find a conversation by name")
    await name.fill("tea")
    await name.press("Enter")
    await expect(rows).to_have_count(1)

    await name.fill("")

    await expect(rows).to_have_count(2)


@pytest.mark.fake_only
async def test_more_of_a_list_does_not_mix_with_what_was_looked_for_since(viewer: Viewer, letta: Letta) -> None:
    agent_id = letta.fake.add_agent("prolific")
    for number in range(40):
        letta.fake.add_conversation(agent_id, f"number {number}")
    await show_first(viewer, letta.fake.add_conversation(agent_id, "tea"))
    rows = viewer.frame.locator(".choice-row")
    await button(viewer, "Conversations ▾").click()
    await expect(rows).to_have_count(30)
    older = await late(viewer, "list_conversations", "after")
    await viewer.frame.locator(".choices").get_by_role("button", name="More", exact=True).click()
    await older.kept.wait()
    await viewer.frame.get_by_label("Find a conversation by name").fill("tea")
    await viewer.page.keyboard.press("Enter")
    await expect(rows).to_have_count(1)

    await older.give()
    await viewer.frame.get_by_label("Find a conversation by name").fill("number 7")
    await viewer.page.keyboard.press("Enter")

    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("number 7")


@pytest.mark.fake_only
async def test_a_list_that_breaks_off_can_be_gone_on_with(viewer: Viewer, letta: Letta) -> None:
    agent_id = letta.fake.add_agent("prolific")
    for number in range(40):
        letta.fake.add_conversation(agent_id, f"number {number}")
    await show_first(viewer, letta.fake.add_conversation(agent_id, "tea"))
    await button(viewer, "Conversations ▾").click()
    more = viewer.frame.locator(".choices").get_by_role("button", name="More", exact=True)
    await expect(more).to_be_visible()

    viewer.site.refusing = True
    await more.click()
    again = viewer.frame.locator(".choices").get_by_role("button", name="Try again")
    await expect(again).to_be_visible()
    viewer.site.refusing = False
    await again.click()

    await expect(viewer.frame.locator(".choice-row")).to_have_count(41)


# Another conversation was opened.


@pytest.mark.fake_only
async def test_an_export_does_not_wait_for_the_conversation_that_was_left(viewer: Viewer, letta: Letta) -> None:
    agent_id = letta.fake.add_agent("talkative")
    first, second = (letta.fake.add_conversation(agent_id, name) for name in ("the first", "the second"))
    letta.fake.add_messages(first, 120)
    letta.fake.add_messages(second, 180)
    await show_first(viewer, first)
    older = await late(viewer, "before")
    await viewer.frame.get_by_role("main").evaluate("(transcript) => { transcript.scrollTop = 0; }")
    await older.kept.wait()
    await switch(viewer, "the second")

    await choose(viewer, "Export as Markdown")

    await expect(viewer.frame.get_by_role("status")).to_contain_text("Exported 180")
    await older.give()


async def test_a_name_that_is_being_typed_is_not_given_to_another_conversation(viewer: Viewer, letta: Letta) -> None:
    agent_id, _ = await opened(viewer, letta)
    second = await letta.new_conversation(agent_id, "the second")
    await choose(viewer, "Rename…")
    await viewer.frame.get_by_role("textbox", name="Name").fill("for the first")

    await viewer.show(conversation_id=second)

    await expect(viewer.frame.get_by_role("heading", name="the second")).to_be_visible()
    await expect(viewer.frame.get_by_role("dialog")).to_have_count(0)


async def test_a_branch_does_not_open_over_what_was_opened_since(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta, "the second")
    fork = await late(viewer, "fork")
    await button(viewer, "Fork").click()
    await fork.kept.wait()
    await switch(viewer, "the second")

    await fork.give()
    await another_answer(viewer)

    await expect(viewer.frame.get_by_role("heading", name="the second")).to_be_visible()
    await expect(viewer.frame.get_by_role("alert")).to_be_hidden()


async def test_a_second_click_makes_no_second_branch(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta)
    fork = await late(viewer, "fork")
    await button(viewer, "Fork").click()
    await fork.kept.wait()

    await button(viewer, "Fork").click()
    await fork.give()

    await expect(viewer.frame.get_by_role("heading", name="the first (branch)")).to_be_visible()
    assert (await viewer.seen())["calls"].count("fork") == 1


async def test_what_is_being_written_stays_with_its_conversation(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta, "the second")
    await message(viewer).fill("half a thought")

    await switch(viewer, "the second")
    await expect(message(viewer)).to_have_value("")
    await switch(viewer, "the first")

    await expect(message(viewer)).to_have_value("half a thought")


async def test_a_message_on_its_way_is_found_again_and_arrives_once(viewer: Viewer, letta: Letta) -> None:
    agent_id, conversation_id = await opened(viewer, letta, "the second")
    refused = await late(viewer, "send_message")
    viewer.site.refusing = True
    await viewer.say("on its way")
    await refused.kept.wait()
    viewer.site.refusing = False

    await switch(viewer, "the second")
    await expect(viewer.frame.get_by_text("on its way")).to_have_count(0)
    await refused.give()
    await switch(viewer, "the first")

    await expect(viewer.frame.get_by_text("echo: on its way")).to_be_visible()
    await expect(viewer.frame.get_by_text("not confirmed")).to_have_count(0)
    assert await letta.stored_texts(agent_id, conversation_id) == ["on its way"]


@pytest.mark.fake_only
async def test_a_message_that_failed_elsewhere_is_there_when_one_comes_back(viewer: Viewer, letta: Letta) -> None:
    agent_id, conversation_id = await opened(viewer, letta, "the second")
    sent = await late(viewer, "send_message")
    letta.fake.fail("POST", f"/v1/conversations/{conversation_id}/messages", status=422, body={"detail": "not today"})
    await viewer.say("not to be lost")
    await sent.kept.wait()
    await switch(viewer, "the second")
    await sent.give()
    await switch(viewer, "the first")

    await expect(viewer.frame.get_by_text("not sent")).to_be_visible()
    await button(viewer, "Send again").click()

    await expect(viewer.frame.get_by_text("echo: not to be lost")).to_be_visible()
    assert await letta.stored_texts(agent_id, conversation_id) == ["not to be lost"]


# A turn has begun or ended.


async def test_a_turn_that_a_refresh_finds_is_followed_to_its_end(viewer: Viewer, letta: Letta) -> None:
    _, conversation_id = await opened(viewer, letta)
    held = Hold(Say("for somebody else"))
    letta.model.enqueue(held)
    async with anyio.create_task_group() as elsewhere:
        elsewhere.start_soon(letta.send, conversation_id, "from elsewhere")
        await letta.model.asked()

        await choose(viewer, "Refresh")
        await expect(viewer.frame.get_by_role("status")).to_contain_text("stop")
        held.gate.set()

    await expect(viewer.frame.get_by_text("for somebody else")).to_be_visible()
    await expect(button(viewer, "Send")).to_be_enabled()


async def test_a_message_waits_until_the_reply_before_it_is_read(viewer: Viewer, letta: Letta) -> None:
    agent_id, conversation_id = await opened(viewer, letta)
    reply = await late(viewer, "view_messages")
    await viewer.say("first")
    await reply.kept.wait()

    await viewer.say("second")
    await expect(message(viewer)).to_have_value("second")
    await reply.give()
    await expect(viewer.frame.get_by_text("echo: first")).to_be_visible()
    await message(viewer).press("Enter")

    await expect(viewer.frame.get_by_text("echo: second")).to_be_visible()
    assert await letta.stored_texts(agent_id, conversation_id) == ["first", "second"]


async def test_an_approval_that_was_given_does_not_wait_again(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta, needs_approval="memory_insert")
    held = Hold(Say("Noted."))
    letta.model.enqueue(REMEMBER, held)
    await viewer.say("I like tea")
    card = viewer.frame.get_by_role("group", name="wants to run a tool")
    await expect(card).to_be_visible()
    before = await late(viewer, "view_messages")
    await come_into_view(viewer)
    await before.kept.wait()

    await card.get_by_role("button", name="Approve").click()
    await expect(viewer.frame.get_by_role("status")).to_contain_text("stop")
    await before.give()
    await another_answer(viewer)

    await expect(card).to_have_count(0)
    held.gate.set()
    await expect(viewer.frame.get_by_text("Noted.")).to_be_visible()


@pytest.mark.fake_only
async def test_a_message_that_was_refused_outlasts_the_turn_of_somebody_else(viewer: Viewer, letta: Letta) -> None:
    _, conversation_id = await opened(viewer, letta)
    letta.fake.fail("POST", f"/v1/conversations/{conversation_id}/messages", status=422, body={"detail": "not today"})
    await viewer.say("mine")
    await expect(button(viewer, "Send again")).to_be_visible()
    held = Hold(Say("for somebody else"))
    letta.model.enqueue(held)
    async with anyio.create_task_group() as elsewhere:
        elsewhere.start_soon(letta.send, conversation_id, "from elsewhere")
        await letta.model.asked()
        await come_into_view(viewer)
        await expect(viewer.frame.get_by_role("status")).to_contain_text("stop")

        held.gate.set()
    await expect(viewer.frame.get_by_text("for somebody else")).to_be_visible()
    await message(viewer).fill("a draft")
    await button(viewer, "Edit").click()

    await expect(message(viewer)).to_have_value("mine\n\na draft")


# The connection was lost.


async def test_a_decision_that_met_no_server_can_be_made_again(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta, needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER, Say("Then I will not."))
    await viewer.say("I like tea")
    card = viewer.frame.get_by_role("group", name="wants to run a tool")
    await card.get_by_label("Reason").fill("tea is secret")
    viewer.site.refusing = True
    await card.get_by_role("button", name="Deny").click()
    await expect(viewer.frame.get_by_role("status")).to_contain_text("Not connected")
    viewer.site.refusing = False

    await card.get_by_role("button", name="Deny").click()

    await expect(viewer.frame.get_by_text("Then I will not.")).to_be_visible()
    assert "tea is secret" in letta.model.calls[-1].messages[-1][1]


@pytest.mark.fake_only
async def test_a_message_that_could_not_be_loaded_is_not_called_missing(viewer: Viewer, letta: Letta) -> None:
    conversation_id = letta.fake.add_conversation(letta.fake.add_agent("talkative"))
    letta.fake.add_messages(conversation_id, 120, text="word {n}")
    await show_first(viewer, conversation_id)
    await choose(viewer, "Search…")
    await viewer.frame.get_by_role("searchbox", name="Search in this conversation").fill("word 17")
    await viewer.page.keyboard.press("Enter")
    hit = viewer.frame.get_by_role("dialog").get_by_role("button").filter(has_text="word 17").last
    await expect(hit).to_be_visible()

    viewer.site.refusing = True
    await hit.click()

    await expect(viewer.frame.get_by_role("status")).to_contain_text("Not connected")
    await expect(viewer.frame.get_by_role("alert")).to_be_hidden()


async def test_an_empty_conversation_stays_open_when_a_change_fails(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta)
    viewer.site.refusing = True

    await button(viewer, "Fork").click()

    await expect(viewer.frame.get_by_role("status")).to_contain_text("Not connected")
    await expect(viewer.frame.get_by_text("could not be loaded")).to_have_count(0)
