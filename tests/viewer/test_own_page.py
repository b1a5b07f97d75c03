"""The page that `serve --http` offers to people, in a browser and by its headers."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest
from playwright.async_api import Browser, Page, expect
from pydantic import SecretStr

from letta_conversations_mcp.settings import Settings
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.loopback import http_client
from tests.rig.servers import http_server

TOKEN = "a long random text"


@pytest.fixture
async def page(browser: Browser) -> AsyncGenerator[Page]:
    context = await browser.new_context(viewport={"width": 900, "height": 800})
    context.set_default_timeout(HANG_SECONDS * 1000)
    yield await context.new_page()
    await context.close()


async def test_the_page_talks_to_its_own_server(page: Page, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "on our own")
    async with http_server(Settings(base_url=letta.base_url)) as url:
        await page.goto(f"{url}/#conversation={conversation_id}")
        await page.get_by_label("Message", exact=True).fill("hello")
        await page.keyboard.press("Enter")

        await expect(page.get_by_text("echo: hello")).to_be_visible()
        await expect(page).to_have_title("on our own")


async def test_without_an_address_the_conversations_are_listed(page: Page, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    await letta.new_conversation(agent_id, "the newest of all")
    async with http_server(Settings(base_url=letta.base_url)) as url:
        await page.goto(url)
        await page.get_by_role("button", name="the newest of all").click()

        await expect(page.get_by_role("heading", name="the newest of all")).to_be_visible()
        await expect(page).to_have_title("the newest of all")
        await page.go_back()
        await expect(page.get_by_role("heading", name="Conversations")).to_be_visible()
        await expect(page).to_have_title("Letta conversation")
        await expect(page.get_by_role("main")).not_to_match_aria_snapshot(
            "- main:\n  - text: Nothing has been said here yet."
        )


@pytest.mark.fake_only
async def test_going_back_leads_to_the_list_while_a_conversation_is_still_loaded(page: Page, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "slow to load")
    gate = anyio.Event()
    async with http_server(Settings(base_url=letta.base_url)) as url:
        await page.goto(url)
        letta.fake.stall("GET", f"/v1/conversations/{conversation_id}", gate)
        await page.get_by_role("button", name="slow to load").click()
        await expect(page.get_by_text("Loading…", exact=True)).to_be_visible()
        await page.go_back()

        await expect(page.get_by_role("heading", name="Conversations")).to_be_visible()
        gate.set()


async def test_going_back_from_a_link_leads_to_where_one_was(page: Page, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "linked to")
    async with http_server(Settings(base_url=letta.base_url)) as url:
        await page.goto(url)
        await expect(page.get_by_role("heading", name="Conversations")).to_be_visible()
        await page.goto(f"{url}/#conversation={conversation_id}")
        await expect(page.get_by_role("heading", name="linked to")).to_be_visible()
        await expect(page).to_have_url(f"{url}/#conversation={conversation_id}&agent={agent_id}")
        await page.go_back()

        await expect(page.get_by_role("heading", name="Conversations")).to_be_visible()


async def test_going_back_is_noticed_before_an_answer_could_overwrite_the_address(page: Page, letta: Letta) -> None:
    """An answer that came between the change of the address and its notice would be taken for that of the new one."""
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "left again")
    async with http_server(Settings(base_url=letta.base_url)) as url:
        await page.goto(url)
        await page.goto(f"{url}/#conversation={conversation_id}")
        await expect(page.get_by_role("heading", name="left again")).to_be_visible()
        heading: str = await page.evaluate(
            "new Promise((resolve) => { history.back();"
            " addEventListener('popstate', () => resolve(document.querySelector('h1').textContent)); })"
        )

    assert heading == "Conversations"


@pytest.mark.fake_only
async def test_a_conversation_is_begun_only_for_an_agent_that_is_known(page: Page, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "slow to load")
    gate = anyio.Event()
    async with http_server(Settings(base_url=letta.base_url)) as url:
        letta.fake.stall("GET", f"/v1/conversations/{conversation_id}", gate)
        await page.goto(f"{url}/#conversation={conversation_id}")
        fresh = page.get_by_role("button", name="New conversation")

        await page.get_by_role("button", name="Conversations ▾").click()
        await expect(fresh).to_be_disabled()
        gate.set()
        await expect(page.get_by_role("heading", name="slow to load")).to_be_visible()
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Conversations ▾").click()
        await expect(fresh).to_be_enabled()


async def test_a_server_with_a_token_asks_for_it_and_keeps_it_out_of_the_address(page: Page, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "behind the token")
    async with http_server(Settings(base_url=letta.base_url, token=SecretStr(TOKEN))) as url:
        await page.goto(f"{url}/#conversation={conversation_id}")
        await page.get_by_role("textbox", name="Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="behind the token")).to_be_visible()
        assert "token" not in page.url.lower().split("#")[1]


async def test_a_token_in_the_address_is_taken_out_of_it_at_once(page: Page, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "behind the token")
    async with http_server(Settings(base_url=letta.base_url, token=SecretStr(TOKEN))) as url:
        await page.goto(f"{url}/#conversation={conversation_id}&token=a%20long%20random%20text")
        await expect(page.get_by_role("heading", name="behind the token")).to_be_visible()

        assert page.url.startswith(f"{url}/#conversation={conversation_id}")
        await page.go_back()
        assert "token" not in page.url


async def test_a_message_outlasts_the_question_for_another_token(page: Page, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "behind the token")
    async with http_server(Settings(base_url=letta.base_url, token=SecretStr(TOKEN))) as url:
        await page.goto(f"{url}/#conversation={conversation_id}&token=a%20long%20random%20text")
        message = page.get_by_label("Message", exact=True)
        await expect(message).to_be_visible()
        await page.evaluate("sessionStorage.setItem('letta-conversations-token', 'an old one')")
        await message.fill("not to be lost")
        await message.press("Enter")
        await page.get_by_role("textbox", name="Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name="Send again").click()

        await expect(page.get_by_text("echo: not to be lost")).to_be_visible()
    assert await letta.stored_texts(agent_id, conversation_id) == ["not to be lost"]


async def test_the_page_allows_nothing_but_itself_and_answers_only_under_its_names(letta: Letta) -> None:
    async with (
        http_server(Settings(base_url=letta.base_url)) as url,
        http_client() as client,
    ):
        page = await client.get(url)
        foreign = await client.get(url, headers={"Host": "evil.example"})

    policy = page.headers["Content-Security-Policy"]
    assert page.status_code == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert foreign.status_code == 421
    assert "<script>" not in foreign.text


async def test_the_page_itself_needs_no_token_and_the_tools_do(letta: Letta) -> None:
    settings = Settings(base_url=letta.base_url, token=SecretStr(TOKEN))
    async with http_server(settings) as url, http_client() as client:
        page, call = await client.get(url), await client.post(f"{url}/mcp", json={})

    assert (page.status_code, call.status_code) == (200, 401)
    assert TOKEN not in page.text


async def test_a_list_of_all_conversations_names_their_agents(page: Page, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    await letta.new_conversation(agent_id, "whose is this")
    async with http_server(Settings(base_url=letta.base_url)) as url:
        await page.goto(url)

        await expect(page.get_by_role("button", name="whose is this")).to_contain_text(name)
