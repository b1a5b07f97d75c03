"""A browser for all tests of the viewer, and a page with our server behind it for each."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from playwright.async_api import Browser, expect

from letta_conversations_mcp.settings import Settings
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.programs import installed
from tests.rig.servers import in_own_task
from tests.viewer.browser import Site, Viewer, open_browser, serve_site

WIDTH, HEIGHT = 900, 900

expect.set_options(timeout=HANG_SECONDS * 1000)


@pytest.fixture(scope="session")
async def browser() -> AsyncGenerator[Browser]:
    for program in ("chromium", "npm"):
        installed(program)
    async with in_own_task(open_browser()) as browser:
        yield browser


@pytest.fixture(scope="session")
async def site(letta_server: Letta) -> AsyncGenerator[Site]:
    async with in_own_task(serve_site(Settings(base_url=letta_server.base_url))) as site:
        yield site


@pytest.fixture
async def viewer(browser: Browser, site: Site, letta: Letta) -> AsyncGenerator[Viewer]:
    """In the frame of a host. Nothing may fail in its script."""
    context = await browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, locale="en-GB", timezone_id="UTC")
    context.set_default_timeout(HANG_SECONDS * 1000)
    viewer = Viewer(await context.new_page(), site)
    yield viewer
    site.refusing = False
    await context.close()
    assert not viewer.errors
