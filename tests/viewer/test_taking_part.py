"""Sending, deciding and changing in the viewer: through the same tools as a model's."""

from __future__ import annotations

import json
import re

import anyio
from playwright.async_api import Locator, Route, expect

from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Hold, Say, Use
from tests.viewer.browser import Viewer

REMEMBER = CallTools((Use("memory_insert", {"label": "human", "new_string": "Likes tea"}),), text="I will note it.")


async def opened(viewer: Viewer, letta: Letta, summary: str = "tea", *, needs_approval: str = "") -> tuple[str, str]:
    agent_id, _ = await letta.new_agent(needs_approval=needs_approval)
    conversation_id = await letta.new_conversation(agent_id, summary)
    await viewer.open(conversation_id=conversation_id)
    await expect(viewer.frame.get_by_label("Message", exact=True)).to_be_visible()
    return agent_id, conversation_id


def card(viewer: Viewer) -> Locator:
    return viewer.frame.get_by_role("group", name="wants to run a tool and waits for you")


async def test_a_message_is_sent_and_its_reply_appears(viewer: Viewer, letta: Letta) -> None:
    agent_id, conversation_id = await opened(viewer, letta)

    await viewer.say("hello <b>there</b>")

    await expect(viewer.frame.get_by_role("article")).to_have_count(2)
    await expect(viewer.frame.get_by_text("echo: hello <b>there</b>")).to_be_visible()
    await expect(viewer.frame.get_by_role("status")).to_contain_text("The reply is complete")
    await expect(viewer.frame.get_by_label("Message", exact=True)).to_have_value("")
    assert await letta.stored_texts(agent_id, conversation_id) == ["hello <b>there</b>"]


async def test_while_the_agent_works_the_viewer_says_so_and_takes_no_second_message(
    viewer: Viewer, letta: Letta
) -> None:
    agent_id, conversation_id = await opened(viewer, letta)
    held = Hold(Say("at last"))
    letta.model.enqueue(held)

    await viewer.say("think about it")
    await expect(viewer.frame.get_by_role("status")).to_contain_text("stop")
    await expect(viewer.frame.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    await expect(viewer.frame.get_by_role("article")).to_have_count(1)
    held.gate.set()

    await expect(viewer.frame.get_by_text("at last")).to_be_visible()
    await expect(viewer.frame.get_by_role("article")).to_have_count(2)
    await expect(viewer.frame.get_by_role("button", name="Send", exact=True)).to_be_enabled()
    assert await letta.stored_texts(agent_id, conversation_id) == ["think about it"]


async def test_a_running_turn_can_be_stopped(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta)
    held = Hold(Say("never said"))
    letta.model.enqueue(held)
    await viewer.say("go on for ever")
    await letta.model.asked()

    await viewer.frame.get_by_role("button", name="stop").click()

    await expect(viewer.frame.get_by_role("alert")).to_contain_text("stopped")
    held.gate.set()
    await expect(viewer.frame.get_by_role("button", name="Send", exact=True)).to_be_enabled()


async def test_a_turn_that_somebody_else_began_is_followed(viewer: Viewer, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("for somebody else"))
    letta.model.enqueue(held)
    async with anyio.create_task_group() as elsewhere:
        elsewhere.start_soon(letta.send, conversation_id, "from elsewhere")
        await letta.model.asked()
        await viewer.open(conversation_id=conversation_id)
        await expect(viewer.frame.get_by_role("status")).to_contain_text("stop")
        held.gate.set()
        await expect(viewer.frame.get_by_text("for somebody else")).to_be_visible()


async def test_an_approval_shows_exactly_what_would_run_and_runs_it_after_a_yes(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta, needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER, Say("Noted."))
    await viewer.say("I like tea")
    await expect(card(viewer)).to_contain_text('memory_insert(\n  label      = "human",\n  new_string = "Likes tea"\n)')
    await expect(viewer.frame.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    assert len(letta.model.calls) == 1

    await card(viewer).get_by_role("button", name="Approve").click()

    await expect(viewer.frame.get_by_text("Noted.")).to_be_visible()
    await expect(card(viewer)).to_have_count(0)
    await expect(viewer.frame.get_by_text("done")).to_be_visible()


async def test_a_denied_call_does_not_run_and_the_agent_reads_the_reason(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta, needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER, Say("Then I will not."))
    await viewer.say("I like tea")

    await card(viewer).get_by_label("Reason").fill("tea is secret")
    await card(viewer).get_by_role("button", name="Deny").click()

    await expect(viewer.frame.get_by_text("Then I will not.")).to_be_visible()
    await expect(card(viewer)).to_have_count(0)
    await expect(viewer.frame.get_by_text("failed")).to_be_visible()
    assert "tea is secret" in letta.model.calls[-1].messages[-1][1]


async def test_what_was_decided_elsewhere_is_not_decided_again(viewer: Viewer, letta: Letta) -> None:
    """The call on the card has been denied, and another one waits by now."""
    _, conversation_id = await opened(viewer, letta, needs_approval="memory_insert")
    other = CallTools((Use("memory_insert", {"label": "human", "new_string": "Likes rum"}),))
    letta.model.enqueue(REMEMBER, other)
    await viewer.say("I like tea")
    await expect(card(viewer)).to_contain_text("Likes tea")
    pending = await letta.request("GET", f"/v1/conversations/{conversation_id}/messages", params={"limit": 1})
    denial = {"type": "approval", "approve": False, "approval_request_id": pending[0]["id"]}
    await letta.begin(conversation_id, denial)

    await card(viewer).get_by_role("button", name="Approve").click()

    await expect(viewer.frame.get_by_role("alert")).to_contain_text("Nothing was decided")
    await expect(card(viewer)).to_contain_text("Likes rum")
    await card(viewer).get_by_role("button", name="Deny").click()
    await expect(card(viewer)).to_have_count(0)


async def test_a_fork_is_shown_and_leaves_the_first_as_it_is(viewer: Viewer, letta: Letta) -> None:
    agent_id, conversation_id = await opened(viewer, letta)
    await viewer.say("before")
    await expect(viewer.frame.get_by_text("echo: before")).to_be_visible()

    await viewer.frame.get_by_role("button", name="Fork", exact=True).click()
    await expect(viewer.frame.get_by_role("alert")).to_contain_text("branch of “tea”")
    await expect(viewer.frame.get_by_role("heading", name="tea (branch)")).to_be_visible()
    await viewer.say("only in the branch")

    await expect(viewer.frame.get_by_text("echo: only in the branch")).to_be_visible()
    await expect(viewer.frame.get_by_text("echo: before")).to_be_visible()
    assert await letta.stored_texts(agent_id, conversation_id) == ["before"]


async def test_another_conversation_of_the_agent_is_switched_to_by_keyboard(viewer: Viewer, letta: Letta) -> None:
    agent_id, _ = await opened(viewer, letta)
    await letta.send(await letta.new_conversation(agent_id, "coffee"), "black")

    await viewer.frame.get_by_role("button", name="Conversations").focus()
    await viewer.page.keyboard.press("Enter")
    await expect(viewer.frame.get_by_role("button", name="coffee")).to_be_visible()
    await viewer.page.keyboard.press("ArrowDown")
    await viewer.page.keyboard.press("Enter")

    await expect(viewer.frame.get_by_role("heading", name="coffee")).to_be_visible()
    await expect(viewer.frame.get_by_text("echo: black")).to_be_visible()


async def test_a_conversation_is_renamed(viewer: Viewer, letta: Letta) -> None:
    _, conversation_id = await opened(viewer, letta)

    await viewer.frame.get_by_role("button", name="More").click()
    await viewer.frame.get_by_role("button", name="Rename…").click()
    await viewer.frame.get_by_role("textbox", name="Name").fill("green tea")
    await viewer.frame.get_by_role("textbox", name="Name").press("Enter")

    await expect(viewer.frame.get_by_role("heading", name="green tea")).to_be_visible()
    assert (await letta.request("GET", f"/v1/conversations/{conversation_id}"))["summary"] == "green tea"


async def test_a_lost_connection_is_said_and_what_was_running_is_there_when_it_is_back(
    viewer: Viewer, letta: Letta
) -> None:
    agent_id, conversation_id = await opened(viewer, letta)
    held = Hold(Say("worth the wait"))
    letta.model.enqueue(held)
    await viewer.say("take your time")
    await letta.model.asked()
    await expect(viewer.frame.get_by_role("status")).to_contain_text("Working")

    viewer.site.refusing = True
    await expect(viewer.frame.get_by_role("status")).to_contain_text("Not connected")
    held.gate.set()
    viewer.site.refusing = False

    await expect(viewer.frame.get_by_text("worth the wait")).to_be_visible()
    await expect(viewer.frame.get_by_role("status")).not_to_contain_text("Not connected")
    assert await letta.stored_texts(agent_id, conversation_id) == ["take your time"]


async def test_a_message_that_met_no_server_is_sent_once_when_it_is_back(viewer: Viewer, letta: Letta) -> None:
    agent_id, conversation_id = await opened(viewer, letta)
    viewer.site.refusing = True
    await viewer.say("sent once")
    await expect(viewer.frame.get_by_role("status")).to_contain_text("Not connected")
    assert await letta.stored_texts(agent_id, conversation_id) == []

    viewer.site.refusing = False

    await expect(viewer.frame.get_by_text("echo: sent once")).to_be_visible()
    assert await letta.stored_texts(agent_id, conversation_id) == ["sent once"]


async def test_a_reply_is_seen_to_grow(viewer: Viewer, letta: Letta) -> None:
    await opened(viewer, letta)
    held = Hold(Say("Found."))
    letta.model.enqueue(CallTools((Use("conversation_search", {"query": "tea"}),), text="I am looking."), held)

    await viewer.say("look for it")

    growing = viewer.frame.locator("article[aria-busy]")
    await expect(growing).to_contain_text("I am looking.")
    await expect(viewer.frame.get_by_role("status")).to_contain_text("Writing its answer")
    held.gate.set()
    await expect(viewer.frame.get_by_text("Found.", exact=True)).to_be_visible()
    await expect(growing).to_have_count(0)


async def test_a_tool_that_only_another_program_can_run_is_never_approved(viewer: Viewer, letta: Letta) -> None:
    """Two calls wait, as with models that call tools in parallel: one of the agent's tool, one of a program's."""
    _, conversation_id = await opened(viewer, letta, needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER)
    await letta.send(conversation_id, "I like tea")

    async def add_foreign_call(route: Route) -> None:
        response = await route.fetch()
        text = await response.text()
        if calls := re.search(r'"approvals": ?\[(?=\{)', text):
            call, end = json.JSONDecoder().raw_decode(text, calls.end())
            foreign = {**call, "name": "open_window", "tool_call_id": "call_foreign", "client_side": True}
            text = f"{text[:end]},{json.dumps(foreign)}{text[end:]}"
        await route.fulfill(response=response, body=text)

    await viewer.page.route("**/mcp", add_foreign_call)
    await viewer.show(conversation_id=conversation_id)
    both = viewer.frame.get_by_role("group", name="wants to run 2 tools")
    await expect(both).to_contain_text("Only the program that offered open_window can run it")
    own, foreign = (both.get_by_role("checkbox", name=f"Let {name} run") for name in ("memory_insert", "open_window"))
    await expect(foreign).to_be_disabled()
    await expect(foreign).not_to_be_checked()
    await expect(both.get_by_role("button", name="Approve 1, deny 1")).to_be_enabled()

    await own.uncheck()

    await expect(both.get_by_role("button", name="Approve")).to_be_disabled()
    await expect(both.get_by_role("button", name="Deny all")).to_be_enabled()
