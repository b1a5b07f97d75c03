"""The viewer in a real browser: in the frame of a host with the official bridge, or as our server's own page."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
from playwright.async_api import Browser, FrameLocator, Page, Route, async_playwright
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from letta_conversations_mcp.http.app import build_app
from letta_conversations_mcp.http.listening import listen
from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from tests.rig.loopback import serve_loopback
from tests.rig.programs import installed

SOURCES = Path(__file__).parents[2] / "viewer"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOST_PAGE = (
    "<!doctype html><html><head><style>html,body{height:100%;margin:0}</style></head>"
    "<body><script src='/test-host.js'></script></body></html>"
)


@cache
def host_script() -> str:
    """The host's script, built with the packages that the lock file names."""
    if not (SOURCES / "node_modules" / "esbuild").exists():
        subprocess.run(["npm", "ci"], cwd=SOURCES, check=True, capture_output=True)
    built = SOURCES / "node_modules" / ".test-host.js"
    subprocess.run(["node", "build.mjs", "--host", "--outfile", built], cwd=SOURCES, check=True, capture_output=True)
    return built.read_text("utf-8")


@dataclass
class Site:
    """Our server, with the host's page at the same origin. While `refusing`, it answers MCP requests with 503, as a
    proxy in front of a stopped server does."""

    url: str = ""
    refusing: bool = False

    def wrap(self, app: ASGIApp) -> ASGIApp:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"] == "/test-host":
                await HTMLResponse(HOST_PAGE)(scope, receive, send)
            elif scope["type"] == "http" and scope["path"] == "/test-host.js":
                await Response(host_script(), media_type="text/javascript")(scope, receive, send)
            elif scope["type"] == "http" and scope["path"] == "/mcp" and self.refusing:
                await Response("no upstream", 503)(scope, receive, send)
            else:
                await app(scope, receive, send)

        return serve


@asynccontextmanager
async def serve_site(settings: Settings) -> AsyncGenerator[Site]:
    site = Site()
    app = site.wrap(build_app(build_server(settings), settings))
    async with serve_loopback(app, listen(settings.model_copy(update={"port": 0}))) as url:
        site.url = url
        yield site


@asynccontextmanager
async def open_browser() -> AsyncGenerator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=installed("chromium"), args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


class Viewer:
    """The viewer as a person has it in front of them."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page = page
        self.site = site
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if _is_error(message) else None)

    @property
    def frame(self) -> FrameLocator:
        return self.page.frame_locator("iframe")

    async def open(self, *, theme: str = "light", **arguments: str) -> None:
        """Show a conversation as a host does after a model's call of show_conversation."""
        query = urlencode({"server": f"{self.site.url}/mcp", "theme": theme, **arguments})
        await self.page.goto(f"{self.site.url}/test-host?{query}")
        await self.page.wait_for_function("window.seen.ready")

    async def show(self, **arguments: str) -> None:
        """Show another conversation in the frame that is there already."""
        await self.page.evaluate("(given) => show(given)", arguments)

    async def seen(self) -> dict[str, Any]:
        """What the host was asked for."""
        return await self.page.evaluate("window.seen")

    async def say(self, text: str) -> None:
        box = self.frame.locator("footer textarea")
        await box.fill(text)
        await box.press("Enter")


class LateAnswer:
    """A route that keeps the server's answer to the first request whose body has all of `words`, until `give`."""

    def __init__(self, *words: str) -> None:
        self._words = words
        self._met = False
        self._released, self._given = anyio.Event(), anyio.Event()
        self.kept = anyio.Event()

    async def __call__(self, route: Route) -> None:
        body = route.request.post_data or ""
        if self._met or not all(f'"{word}"' in body for word in self._words):
            await route.fallback()
            return
        self._met = True
        response = await route.fetch()
        self.kept.set()
        await self._released.wait()
        await route.fulfill(response=response)
        self._given.set()

    async def give(self) -> None:
        self._released.set()
        await self._given.wait()


def _is_error(message: Any) -> bool:
    # A refused request is logged by the browser itself.
    return message.type == "error" and "Failed to load resource" not in message.text
