"""The pictures of docs/images: `python -m tests.viewer.screenshots` takes them all again, with the fake Letta."""

from __future__ import annotations

import asyncio
from itertools import product
from pathlib import Path

from playwright.async_api import Browser, expect

from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Hold, Say, ScriptedModel, Use
from tests.viewer.browser import Site, Viewer, open_browser, serve_site

IMAGES = Path(__file__).parents[2] / "docs" / "images"

QUESTION = "When is invoice 4711 due, and what else is open for that supplier?"
ANSWER = """Invoice **4711** is due on **Friday, 4 December** (318 €). Two more are open for the same supplier:

| Invoice | Due | Amount |
|---|---|---:|
| `4712` | 15 March | 96 € |
| `4730` | 31 March | 1,204 € |

Shall I pay 4711 today?"""
WIRE = CallTools(
    (
        Use(
            "wire_money",
            {"to": "ACME GmbH, DE89 3704 0044 0532 0130 00", "euros": 318, "reason": "invoice 4711"},
        ),
    ),
    text="I have prepared the transfer. It needs your approval.",
)
SIZES = {"wide": (900, 900), "narrow": (390, 844)}


async def picture(browser: Browser, site: Site, letta: Letta, theme: str, size: str) -> None:
    agent_id = await bookkeeper(letta)
    model = letta.model
    width, height = SIZES[size]
    context = await browser.new_context(viewport={"width": width, "height": height}, locale="en-GB", timezone_id="UTC")
    viewer = Viewer(await context.new_page(), site)
    page = viewer.page

    async def take(state: str) -> None:
        await page.screenshot(path=IMAGES / f"viewer-{state}-{theme}-{size}.png", animations="disabled")

    conversation_id = await letta.new_conversation(agent_id, "invoice 4711")
    model.enqueue(
        CallTools((Use("conversation_search", {"query": "4711"}),)),
        Say(ANSWER, reasoning="The user asks for one due date, and for the supplier's other invoices."),
    )
    await letta.send(conversation_id, QUESTION)
    await viewer.open(theme=theme)
    await expect(viewer.frame.get_by_role("button", name="invoice 4711")).to_be_visible()
    await take("choose")

    await viewer.open(theme=theme, conversation_id=conversation_id)
    await expect(viewer.frame.get_by_role("article")).to_have_count(2)
    await take("read")

    model.enqueue(WIRE)
    await viewer.say("Pay 4711 today, please.")
    await expect(viewer.frame.get_by_role("group", name="wants to run")).to_be_visible()
    await take("approval")

    held = Hold(Say("Thank you. The payment of 318 € for invoice 4711 is on its way."))
    model.enqueue(held)
    await viewer.frame.get_by_role("button", name="Approve").click()
    await expect(viewer.frame.get_by_role("status")).to_contain_text("working")
    await take("working")
    held.gate.set()
    await expect(viewer.frame.get_by_role("status")).to_contain_text("complete")

    await viewer.frame.get_by_role("button", name="Conversations").click()
    await expect(viewer.frame.get_by_role("button", name="invoice 4711").first).to_be_visible()
    await take("switch")
    await page.keyboard.press("Escape")

    await viewer.frame.get_by_role("button", name="Fork", exact=True).click()
    await expect(viewer.frame.get_by_role("alert")).to_contain_text("branch")
    site.refusing = True
    await viewer.say("Is there anything due next week?")
    await expect(viewer.frame.get_by_role("status")).to_contain_text("Not connected")
    await take("offline")
    site.refusing = False
    await context.close()


async def bookkeeper(letta: Letta) -> str:
    """An agent that asks before it pays, with some conversations, beside another agent with one."""
    await letta.new_conversation(letta.fake.add_agent("travel desk"), "night train to Vienna")
    agent_id = letta.fake.add_agent("bookkeeper", ["wire_money"])
    letta.fake.add_tool(agent_id, "wire_money", "Transfer 2026-0815 was accepted.")
    for summary in ("supplier master data", "VAT return, third quarter", "travel expenses Berlin"):
        await letta.new_conversation(agent_id, summary)
    return agent_id


async def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    async with open_browser() as browser:
        for theme, size in product(("light", "dark"), SIZES):
            model = ScriptedModel()
            fake = FakeLetta(model)
            async with fake.serve() as url, serve_site(Settings(base_url=url)) as site:
                letta = Letta(url, model, fake)
                await picture(browser, site, letta, theme, size)
                await letta.close()


if __name__ == "__main__":
    asyncio.run(main())
