"""The viewer as a page of `serve --http`, for people whose client shows no apps.

The same file as the MCP App. It needs no token, because it has no content of its own: it requests everything from /mcp,
with a token if the server needs one.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache

from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from letta_conversations_mcp.server.viewer import VIEWER_FILE

VIEWER_PATH = "/"


def viewer_route(security: TransportSecuritySettings) -> Route:
    """Serves the page under the names that the server has."""
    check = TransportSecurityMiddleware(security)

    async def show(request: Request) -> Response:
        refused = await check.validate_request(request)
        return refused or HTMLResponse(_page(), headers=_headers())

    return Route(VIEWER_PATH, show, methods=["GET"])


@cache
def _page() -> str:
    return VIEWER_FILE.read_text("utf-8")


@cache
def _headers() -> dict[str, str]:
    """Only the page's own script and style run, and it connects only to the server that it comes from."""
    [style] = re.findall(r"<style>(.*?)</style>", _page(), re.DOTALL)
    [script] = re.findall(r"<script>(.*?)</script>", _page(), re.DOTALL)
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cache-Control": "no-cache",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
