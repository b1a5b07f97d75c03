"""The one place where the parts are put together: settings in, MCP server out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mcp.server import CacheHint, MCPServer

from letta_conversations_mcp import __version__
from letta_conversations_mcp.backends.open import open_backend
from letta_conversations_mcp.core.sending import open_sender
from letta_conversations_mcp.resources import add_resources
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.agents import AGENT_TOOLS
from letta_conversations_mcp.tools.conversations import CONVERSATION_TOOLS
from letta_conversations_mcp.tools.messages import MESSAGE_TOOLS
from letta_conversations_mcp.tools.tool import ConversationTool, Services

INSTRUCTIONS = (
    "Talk with Letta agents, which remember for months. An agent has many conversations: separate message threads that "
    "share its memory. send_message(agent=…) opens one and answers with its conversation_id; keep that id and pass it "
    "to continue. list_agents and list_conversations find what is there. When a reply takes long, send_message answers "
    "running: call wait_for_reply and never send the same message again."
)

TOOLS: tuple[ConversationTool, ...] = (*CONVERSATION_TOOLS, *MESSAGE_TOOLS, *AGENT_TOOLS)

HOUR_MS = 3_600_000


def build_server(settings: Settings) -> MCPServer[Services]:
    """A server for these settings; it serves over any transport of the SDK, and opens its backend when that starts."""

    @asynccontextmanager
    async def lifespan(_: MCPServer[Services]) -> AsyncGenerator[Services]:
        async with open_backend(settings) as backend, open_sender(backend) as sender:
            yield Services(backend, sender, settings)

    server = MCPServer[Services](
        "letta-conversations",
        title="Letta conversations",
        description="Conversations with Letta agents",
        instructions=INSTRUCTIONS,
        version=__version__,
        tools=[tool for tool in TOOLS if not settings.read_only or is_read_only(tool)],
        lifespan=lifespan,
        log_level=settings.log_level,
        cache_hints={
            "server/discover": CacheHint(ttl_ms=HOUR_MS, scope="public"),
            "tools/list": CacheHint(ttl_ms=HOUR_MS, scope="public"),
            "resources/templates/list": CacheHint(ttl_ms=HOUR_MS, scope="public"),
            "prompts/list": CacheHint(ttl_ms=HOUR_MS, scope="public"),
        },
    )
    add_resources(server)
    return server


def is_read_only(tool: ConversationTool) -> bool:
    return tool.annotations is not None and tool.annotations.read_only_hint is True
