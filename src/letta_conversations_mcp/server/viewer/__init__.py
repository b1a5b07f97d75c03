"""The viewer as an MCP App (`io.modelcontextprotocol/ui`): its page as a resource, and its tools, which only
clients that show it get. `viewer.html` is built from `viewer/` by `make viewer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcp.server import ServerRequestContext
from mcp.server.apps import APP_MIME_TYPE, Apps, client_supports_apps
from mcp.server.context import CallNext, HandlerResult
from mcp.server.mcpserver.resources import FileResource

from letta_conversations_mcp.tools.base import VIEWER_URI, Services

VIEWER_FILE = Path(__file__).with_name("viewer.html")


def viewer_app() -> Apps:
    """The extension, for the server. It announces the page, whose file is read when a host asks for it."""
    apps = Apps()
    apps.add_resource(
        FileResource(
            uri=VIEWER_URI,
            name="viewer",
            title="Conversation viewer",
            description="The page in which show_conversation shows a conversation.",
            mime_type=APP_MIME_TYPE,
            encoding="utf-8",
            meta={"ui": {"prefersBorder": True}},
            path=VIEWER_FILE,
        )
    )
    return apps


async def hide_viewer_tools(ctx: ServerRequestContext[Services, Any], call_next: CallNext) -> HandlerResult:
    """A middleware: a client that shows no apps would offer the viewer's own tools to its model."""
    result = await call_next(ctx)
    if ctx.method != "tools/list" or not isinstance(result, dict) or client_supports_apps(ctx):
        return result
    return {**result, "tools": [tool for tool in result["tools"] if _is_for_models(tool)]}


def _is_for_models(tool: Mapping[str, Any]) -> bool:
    return "model" in tool.get("_meta", {}).get("ui", {}).get("visibility", ("model",))
