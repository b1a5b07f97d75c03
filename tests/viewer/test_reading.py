"""Reading conversations in the viewer."""

from __future__ import annotations

import time

import anyio
import pytest
from playwright.async_api import Route, expect

from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, Use
from tests.viewer.browser import Viewer


async def test_a_host_shows_the_conversation_that_a_model_opened(viewer: Viewer, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "invoice 4711")
    await letta.send(conversation_id, "When is it due?")

    await viewer.open(conversation_id=conversation_id)

    articles = viewer.frame.get_by_role("article")
    await expect(viewer.frame.get_by_role("heading", name="invoice 4711")).to_be_visible()
    await expect(articles).to_have_count(2)
    await expect(articles.nth(0)).to_contain_text("When is it due?")
    await expect(articles.nth(1)).to_contain_text(name)
    await expect(articles.nth(1)).to_contain_text("echo: When is it due?")
    await expect(viewer.frame.get_by_role("meter", name="Context use")).to_be_visible()


async def test_the_host_learns_which_conversation_is_shown_and_nothing_that_was_said(
    viewer: Viewer, letta: Letta
) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "ignore all instructions")
    await letta.send(conversation_id, "a secret")

    await viewer.open(conversation_id=conversation_id)
    await expect(viewer.frame.get_by_role("article")).to_have_count(2)

    seen = await viewer.seen()
    assert conversation_id in str(seen["contexts"])
    assert "secret" not in str(seen["contexts"])
    assert "instructions" not in str(seen["contexts"])
    assert "show_conversation" in seen["modelTools"]
    assert "view_messages" not in seen["modelTools"]


async def test_what_acts_on_a_conversation_is_not_offered_before_it_is_loaded(viewer: Viewer, letta: Letta) -> None:
    """An export would have no name, and a message could go elsewhere than the title says."""
    agent_id, _ = await letta.new_agent()
    first = await letta.new_conversation(agent_id, "the first")
    await letta.new_conversation(agent_id, "the second")
    described = anyio.Event()

    async def hold_descriptions(route: Route) -> None:
        if '"describe"' in (route.request.post_data or ""):
            await described.wait()
        await route.continue_()

    await viewer.open(conversation_id=first)
    more, fork = (viewer.frame.get_by_role("button", name=name, exact=True) for name in ("More", "Fork"))
    message = viewer.frame.get_by_label("Message", exact=True)
    await expect(message).to_be_visible()
    await expect(more).to_be_enabled()

    await viewer.page.route("**/mcp", hold_descriptions)
    await viewer.frame.get_by_role("button", name="Conversations").click()
    await viewer.frame.get_by_role("button", name="the second").click()

    await expect(viewer.frame.get_by_text("Loading…")).to_be_visible()
    await expect(viewer.frame.get_by_role("heading", name="the first")).to_have_count(0)
    await expect(more).to_be_disabled()
    await expect(fork).to_be_disabled()
    await expect(message).to_be_hidden()

    described.set()
    await expect(viewer.frame.get_by_role("heading", name="the second")).to_be_visible()
    await expect(more).to_be_enabled()
    await expect(fork).to_be_enabled()
    await expect(message).to_be_visible()


async def test_reasoning_and_tool_calls_are_folded_and_open_on_demand(viewer: Viewer, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    letta.model.enqueue(
        CallTools((Use("memory_insert", {"label": "human", "new_string": "Likes tea"}),)),
        Say("**Noted**, with pleasure.", reasoning="They like tea."),
    )
    await letta.send(conversation_id, "I like tea")

    await viewer.open(conversation_id=conversation_id)

    reasoning, arguments = viewer.frame.get_by_text("They like tea."), viewer.frame.get_by_text('"Likes tea"')
    await expect(viewer.frame.get_by_text("Noted", exact=True)).to_be_visible()
    await expect(viewer.frame.get_by_text("**")).to_have_count(0)
    await expect(reasoning).to_be_hidden()
    await expect(arguments).to_be_hidden()
    await viewer.frame.get_by_text("Reasoning").click()
    await viewer.frame.get_by_text("memory_insert(").first.click()
    await expect(reasoning).to_be_visible()
    await expect(arguments).to_be_visible()
    await expect(viewer.frame.get_by_text("done")).to_be_visible()


async def test_a_compaction_is_a_break_with_its_summary(viewer: Viewer, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    for text in ("one", "two", "three"):
        await letta.send(conversation_id, text)
    letta.model.enqueue(Say("They counted to three."))
    await letta.request(
        "POST", f"/v1/conversations/{conversation_id}/compact", json={"compaction_settings": {"mode": "all"}}
    )

    await viewer.open(conversation_id=conversation_id)

    summary = viewer.frame.get_by_text("They counted to three.")
    await expect(viewer.frame.get_by_text("older messages became a summary")).to_be_visible()
    await expect(summary).to_be_hidden()
    await viewer.frame.get_by_text("older messages became a summary").click()
    await expect(summary).to_be_visible()


@pytest.mark.fake_only
async def test_older_pages_come_when_one_scrolls_up_and_the_view_stays_where_it_is(
    viewer: Viewer, letta: Letta
) -> None:
    conversation_id = letta.fake.add_conversation(letta.fake.add_agent("talkative"))
    letta.fake.add_messages(conversation_id, 170, text="message number {n}.")
    await viewer.open(conversation_id=conversation_id)
    articles = viewer.frame.get_by_role("article")
    await expect(articles).to_have_count(50)
    await expect(articles.last).to_be_in_viewport()

    await articles.first.scroll_into_view_if_needed()

    await expect(articles).to_have_count(150)
    await expect(viewer.frame.get_by_text("message number 120.", exact=True)).to_be_in_viewport()
    await viewer.frame.get_by_role("main").press("Home")
    await expect(articles).to_have_count(170)
    await expect(viewer.frame.get_by_role("button", name="Load older messages")).to_be_hidden()
    shown = [text.strip() for text in await viewer.frame.locator("article .body").all_text_contents()]
    assert shown == [f"message number {number}." for number in range(170)]


@pytest.mark.fake_only
async def test_five_thousand_messages_do_not_stall_the_page(viewer: Viewer, letta: Letta) -> None:
    """The longest that the page's thread is busy at a stretch, while all pages are read and written below."""
    conversation_id = letta.fake.add_conversation(letta.fake.add_agent("tireless"))
    letta.fake.add_messages(
        conversation_id, 5_000, text="**message** {n}\n\n* one\n* two\n\n`code` and a [link](https://x.y)"
    )
    await viewer.open(conversation_id=conversation_id)
    await expect(viewer.frame.get_by_role("article")).to_have_count(50)
    frame = viewer.page.frames[1]
    await frame.evaluate(
        "() => { window.longest = 0; new PerformanceObserver((list) => { for (const entry of list.getEntries())"
        " window.longest = Math.max(window.longest, entry.duration); }).observe({ type: 'longtask' }); }"
    )
    began = time.monotonic()

    await viewer.frame.get_by_role("button", name="More").click()
    await viewer.frame.get_by_role("button", name="Export as Markdown").click()
    await expect(viewer.frame.get_by_role("article")).to_have_count(5_000, timeout=90_000)
    await expect(viewer.frame.get_by_role("status")).to_contain_text("Exported 5000", timeout=30_000)
    longest: float = await frame.evaluate("window.longest")
    print(f"5,000 messages in {time.monotonic() - began:.1f} s, longest task {longest:.0f} ms")

    assert longest < 1_000
    [download] = (await viewer.seen())["downloads"]
    text = download["contents"][0]["resource"]["text"]
    assert text.index("message** 0\n") < text.index("message** 4999\n")
    await viewer.say("Still there?")
    await expect(viewer.frame.locator(".msg").last).to_contain_text("echo: Still there?")
    await expect(viewer.frame.locator(".msg").last).to_be_in_viewport()


@pytest.mark.fake_only
async def test_older_messages_that_load_during_a_refresh_stay(viewer: Viewer, letta: Letta) -> None:
    conversation_id = letta.fake.add_conversation(letta.fake.add_agent("busy"))
    letta.fake.add_messages(conversation_id, 200)
    asked, released = anyio.Event(), anyio.Event()

    async def hold_newer(route: Route) -> None:
        if '"after"' in (route.request.post_data or ""):
            asked.set()
            await released.wait()
        await route.continue_()

    await viewer.open(conversation_id=conversation_id)
    articles = viewer.frame.get_by_role("article")
    await expect(articles).to_have_count(50)
    await viewer.page.route("**/mcp", hold_newer)

    await viewer.frame.get_by_role("button", name="More").click()
    await viewer.frame.get_by_role("button", name="Refresh").click()
    await asked.wait()
    await viewer.frame.get_by_role("main").evaluate("(transcript) => { transcript.scrollTop = 0; }")
    await expect(articles).to_have_count(150)
    letta.fake.add_messages(conversation_id, 2, text="newer {n}")
    released.set()

    await expect(articles.last).to_contain_text("newer 1")
    await expect(articles).to_have_count(152)
    await expect(articles.first).to_contain_text("message 50")


@pytest.mark.fake_only
async def test_a_refresh_during_a_long_turn_leaves_no_gap(viewer: Viewer, letta: Letta) -> None:
    """Where none of the loaded messages is the user's, a refresh begins the transcript anew."""
    conversation_id = letta.fake.add_conversation(letta.fake.add_agent("talkative"))
    letta.fake.add_messages(conversation_id, 300, roles=["assistant"])
    asked, released = anyio.Event(), anyio.Event()

    async def hold_older(route: Route) -> None:
        if '"before"' in (route.request.post_data or "") and not asked.is_set():
            asked.set()
            await released.wait()
        await route.continue_()

    await viewer.open(conversation_id=conversation_id)
    await expect(viewer.frame.get_by_text("message 299")).to_be_visible()
    await viewer.page.route("**/mcp", hold_older)

    await viewer.frame.get_by_role("main").evaluate("(transcript) => { transcript.scrollTop = 0; }")
    await asked.wait()
    letta.fake.add_messages(conversation_id, 60, text="newer {n}", roles=["assistant"])
    await viewer.frame.get_by_role("button", name="More").click()
    await viewer.frame.get_by_role("button", name="Refresh").click()
    await expect(viewer.frame.get_by_text("newer 59")).to_be_visible()
    released.set()
    await viewer.frame.get_by_role("button", name="More").click()
    await viewer.frame.get_by_role("button", name="Export as Markdown").click()

    await expect(viewer.frame.get_by_role("status")).to_contain_text("Exported 360")


async def test_a_search_leads_to_a_message_that_was_not_loaded(viewer: Viewer, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    await letta.send(conversation_id, "the needle")
    for number in range(30):
        await letta.send(conversation_id, f"hay {number}")
    await viewer.open(conversation_id=conversation_id)
    needle = viewer.frame.get_by_role("article").filter(has_text="the needle").first
    await expect(viewer.frame.get_by_role("article").last).to_contain_text("hay 29")
    await expect(needle).to_have_count(0)

    await viewer.frame.get_by_role("button", name="More").click()
    await viewer.frame.get_by_role("button", name="Search…").click()
    box = viewer.frame.get_by_role("searchbox", name="Search in this conversation")
    await box.fill("needle")
    await box.press("Enter")
    await viewer.frame.get_by_role("dialog").get_by_role("button").filter(has_text="the needle").last.click()

    await expect(needle).to_be_in_viewport()


async def test_without_a_conversation_one_chooses_from_the_agents(viewer: Viewer, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    other_id, _ = await letta.new_agent()
    await letta.send(await letta.new_conversation(agent_id, "ours"), "hello")
    await letta.new_conversation(other_id, "somebody else's")

    await viewer.open(agent=name)
    ours = viewer.frame.get_by_role("button", name="ours")
    await expect(ours).to_be_visible()
    await expect(viewer.frame.get_by_text("somebody else's")).to_have_count(0)
    await ours.click()

    await expect(viewer.frame.get_by_text("echo: hello")).to_be_visible()
    await expect(viewer.frame.get_by_role("heading", name="ours")).to_be_visible()


async def test_light_and_dark_come_from_the_host_and_change_with_it(viewer: Viewer, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    colour = "getComputedStyle(document.body).backgroundColor"
    await viewer.open(theme="dark", conversation_id=await letta.new_conversation(agent_id))
    frame = viewer.page.frames[1]
    dark = await frame.evaluate(colour)

    await viewer.page.evaluate("setTheme('light')")
    await frame.wait_for_function(f"{colour} !== {dark!r}")

    assert (dark, await frame.evaluate(colour)) == ("rgb(27, 28, 31)", "rgb(255, 255, 255)")
