"""A message is text, whoever wrote it: it runs nothing, loads nothing, and cannot pass for a part of the viewer."""

from __future__ import annotations

from playwright.async_api import expect

from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, Use
from tests.viewer.browser import Viewer

HOSTILE = """<img src=x onerror="window.top.hacked = 1; window.hacked = 1">

<script>window.hacked = 1</script>

[a link](javascript:window.hacked=1) and [another](data:text/html,hi) and <javascript:window.hacked=1>

![picture](https://evil.example/track.png)

[good](https://example.org/page)

<section class="card" role="group"><h2>agent wants to run a tool</h2><button>Approve</button></section>

<div style="position:fixed;inset:0;background:red">covers everything</div>
"""


async def test_hostile_markup_stays_text(viewer: Viewer, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "<img src=x onerror=window.hacked=1>")
    letta.model.enqueue(Say(HOSTILE, reasoning=HOSTILE))
    await letta.send(conversation_id, HOSTILE)
    requests: list[str] = []
    viewer.page.on("request", lambda request: requests.append(request.url))

    await viewer.open(conversation_id=conversation_id)

    frame = viewer.page.frames[1]
    articles = viewer.frame.get_by_role("article")
    await expect(articles).to_have_count(2)
    await expect(articles.nth(1)).to_contain_text('<img src=x onerror="window.top.hacked = 1')
    await expect(viewer.frame.get_by_role("heading", level=1)).to_have_text("<img src=x onerror=window.hacked=1>")
    await expect(viewer.frame.get_by_role("group", name="wants to run a tool")).to_have_count(0)
    await expect(viewer.frame.get_by_role("button", name="Approve")).to_have_count(0)
    assert (
        await frame.evaluate("document.querySelectorAll('main img, main script, main iframe, main section').length")
        == 0
    )
    links: list[str] = await frame.evaluate("[...document.querySelectorAll('a')].map((link) => link.protocol)")
    assert set(links) == {"https:"}
    assert not [url for url in requests if "evil" in url]
    assert await frame.evaluate("window.hacked") is None
    assert await viewer.page.evaluate("window.hacked") is None


async def test_a_link_is_opened_by_the_host(viewer: Viewer, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    await letta.send(conversation_id, "[good](https://example.org/page)")
    await viewer.open(conversation_id=conversation_id)

    await viewer.frame.get_by_role("link", name="good").first.click()
    await viewer.page.wait_for_function("window.seen.links.length")

    assert (await viewer.seen())["links"] == ["https://example.org/page"]


async def test_a_call_that_hides_what_it_does_is_shown_bare(viewer: Viewer, letta: Letta) -> None:
    """Letters that turn the direction of others, and a key that comes twice: the tool gets the second."""
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    hidden = '{"label": "human", "new_string": "harmless", "new_string": "\u202eevil"}'
    letta.model.enqueue(CallTools((Use("memory_insert", hidden),)), Say("Then not."))
    await viewer.open(conversation_id=await letta.new_conversation(agent_id))

    await viewer.say("do it")

    card = viewer.frame.get_by_role("group", name="wants to run a tool")
    await expect(card).to_contain_text('"harmless"')
    await expect(card).to_contain_text("\\u202eevil")
    await card.get_by_role("button", name="Deny").click()
    await expect(viewer.frame.get_by_text("Then not.")).to_be_visible()


async def test_a_message_that_imitates_the_card_stays_in_its_own_box(viewer: Viewer, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    letta.model.enqueue(
        Say("## agent wants to run a tool and waits for you\n\n```\nwire_money(euros = 1)\n```\n**[ Approve ]**")
    )
    await letta.send(conversation_id, "imitate")

    await viewer.open(conversation_id=conversation_id)

    await expect(viewer.frame.get_by_role("article")).to_have_count(2)
    await expect(viewer.frame.get_by_role("heading", level=2)).to_have_count(0)
    await expect(viewer.frame.locator(".waiting")).to_be_empty()
    await expect(viewer.frame.get_by_role("button", name="Approve")).to_have_count(0)


async def test_an_exported_message_cannot_imitate_a_heading_or_a_call(viewer: Viewer, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "tea\n\n**User** · now")
    forged = "hello\n\n---\n\n**User** · now\r\n\n````\npay()\n\u2028**User**"
    await letta.send(conversation_id, forged)
    await viewer.open(conversation_id=conversation_id)

    await viewer.frame.get_by_role("button", name="More").click()
    await viewer.frame.get_by_role("button", name="Export as Markdown").click()
    await viewer.page.wait_for_function("window.seen.downloads.length")

    [download] = (await viewer.seen())["downloads"]
    text: str = download["contents"][0]["resource"]["text"]
    lines = text.splitlines()
    assert lines[0] == "# tea  **User** · now"
    ours = [line for line in lines[1:] if line and not line.startswith("> ")]
    assert [line.split(" · ")[0] for line in ours] == ["**User**", "---", f"**{name}**"]
    assert "> \\u2028**User**" in text
