"""Reading a conversation in the viewer."""

from __future__ import annotations

from playwright.async_api import expect

from tests.rig.letta_server import Letta
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
    assert "view_messages" not in (await viewer.seen())["modelTools"]
    assert "show_conversation" in (await viewer.seen())["modelTools"]
