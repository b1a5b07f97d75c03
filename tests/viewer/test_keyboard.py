"""The viewer without a mouse: what Escape closes, and where the focus is afterwards."""

from __future__ import annotations

import pytest
from playwright.async_api import Locator, expect

from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, Use
from tests.viewer.browser import LateAnswer, Viewer

REMEMBER = CallTools((Use("memory_insert", {"label": "human", "new_string": "Likes tea"}),))


def button(viewer: Viewer, name: str) -> Locator:
    return viewer.frame.get_by_role("button", name=name, exact=True)


async def opened(viewer: Viewer, letta: Letta, *, needs_approval: str = "") -> str:
    agent_id, _ = await letta.new_agent(needs_approval=needs_approval)
    conversation_id = await letta.new_conversation(agent_id, "tea")
    await viewer.open(conversation_id=conversation_id)
    await expect(viewer.frame.get_by_label("Message", exact=True)).to_be_visible()
    return conversation_id


async def choose(viewer: Viewer, entry: str) -> None:
    await button(viewer, "More").press("Enter")
    await button(viewer, entry).press("Enter")


async def test_escape_closes_a_search_at_once_and_the_focus_returns(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta)
    await choose(viewer, "Search…")
    box = viewer.frame.get_by_role("searchbox", name="Search in this conversation")
    await expect(box).to_be_focused()
    await viewer.page.keyboard.type("tea")

    await viewer.page.keyboard.press("Escape")

    await expect(viewer.frame.get_by_role("dialog")).to_have_count(0)
    await expect(button(viewer, "More")).to_be_focused()


async def test_escape_closes_the_list_of_conversations_at_once(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta)
    await button(viewer, "Conversations ▾").press("Enter")
    await expect(viewer.frame.get_by_label("Find a conversation by name")).to_be_focused()
    await viewer.page.keyboard.type("tea")

    await viewer.page.keyboard.press("Escape")

    await expect(viewer.frame.locator(".choice-row")).to_have_count(0)
    await expect(button(viewer, "Conversations ▾")).to_be_focused()


async def test_after_a_name_was_not_given_the_focus_returns(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta)
    await choose(viewer, "Rename…")
    await expect(viewer.frame.get_by_role("textbox", name="Name")).to_be_focused()

    await viewer.page.keyboard.press("Escape")

    await expect(button(viewer, "More")).to_be_focused()
    await expect(viewer.frame.get_by_role("heading", name="tea")).to_be_visible()


async def test_what_was_found_is_read_on_from_there_also_if_it_is_new(viewer: Viewer, letta: Letta) -> None:
    conversation_id = await opened(viewer, letta)
    await letta.send(conversation_id, "the needle")
    await choose(viewer, "Search…")
    await viewer.page.keyboard.type("needle")
    await viewer.page.keyboard.press("Enter")
    await viewer.frame.get_by_role("dialog").get_by_role("button").last.press("Enter")

    await expect(viewer.frame.get_by_role("main")).to_be_focused()


async def test_after_a_branch_was_opened_the_keyboard_goes_on_in_it(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta)

    await button(viewer, "Fork").press("Enter")
    await expect(viewer.frame.get_by_role("heading", name="tea (branch)")).to_be_visible()

    await expect(viewer.frame.get_by_role("main")).to_be_focused()


async def test_after_a_decision_the_keyboard_goes_on_in_the_transcript(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta, needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER, Say("Noted."))
    await viewer.say("I like tea")

    await button(viewer, "Approve").press("Enter")
    await expect(viewer.frame.get_by_text("Noted.")).to_be_visible()

    await expect(viewer.frame.get_by_role("main")).to_be_focused()


async def test_a_reason_is_typed_on_while_the_page_looks_for_news(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta, needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER)
    await viewer.say("I like tea")
    reason = viewer.frame.get_by_label("Reason")
    await expect(reason).to_be_visible()
    answer = LateAnswer("view_messages")
    await viewer.page.route("**/mcp", answer)
    await viewer.page.frames[1].evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await answer.kept.wait()
    await reason.press_sequentially("tea is ")
    await answer.give()
    await reason.press_sequentially("secret")

    await expect(reason).to_have_value("tea is secret")
    await expect(reason).to_be_focused()


@pytest.mark.fake_only
async def test_a_message_that_failed_can_be_sent_again_by_keyboard_after_a_refresh(
    viewer: Viewer, letta: Letta
) -> None:
    conversation_id = await opened(viewer, letta)
    letta.fake.fail("POST", f"/v1/conversations/{conversation_id}/messages", status=422, body={"detail": "not today"})
    await viewer.say("hello")
    await button(viewer, "Send again").focus()
    await letta.send(conversation_id, "news")

    await viewer.page.frames[1].evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect(viewer.frame.get_by_text("echo: news")).to_be_visible()

    await expect(button(viewer, "Send again")).to_be_focused()


async def test_what_is_being_read_stays_unfolded_when_the_turn_goes_on(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta, needs_approval="memory_insert")
    letta.model.enqueue(CallTools((Use("conversation_search", {"query": "oolong"}),)), REMEMBER, Say("Noted."))
    await viewer.say("I like tea")
    await expect(button(viewer, "Approve")).to_be_visible()
    await viewer.frame.get_by_text("conversation_search(“oolong”)").click()
    await expect(viewer.frame.get_by_text('query = "oolong"')).to_be_visible()

    await button(viewer, "Approve").press("Enter")
    await expect(viewer.frame.get_by_text("Noted.")).to_be_visible()

    await expect(viewer.frame.get_by_text('query = "oolong"')).to_be_visible()
