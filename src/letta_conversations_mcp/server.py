"""The one place where the parts are put together: settings in, MCP server out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

from mcp.server import CacheHint, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, GetPromptResult, InputRequiredResult, Tool

from letta_conversations_mcp import __version__
from letta_conversations_mcp.backends.open import open_backend
from letta_conversations_mcp.core.sending import open_sender
from letta_conversations_mcp.resources import add_resources
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.agents import AGENT_TOOLS, CREATE_AGENT
from letta_conversations_mcp.tools.conversations import CONVERSATION_TOOLS
from letta_conversations_mcp.tools.messages import MESSAGE_TOOLS
from letta_conversations_mcp.tools.tool import ConversationTool, Services, ToolContext, ToolSpec

INSTRUCTIONS = (
    "Talk with Letta agents, which remember for months. An agent has many conversations: separate message threads that "
    "share its memory. send_message(agent=…) opens one and answers with its conversation_id; keep that id and pass it "
    "to continue. list_agents and list_conversations find what is there. When a reply takes long, send_message answers "
    "running: call wait_for_reply and never send the same message again."
)

TOOLS: tuple[ToolSpec, ...] = (*CONVERSATION_TOOLS, *MESSAGE_TOOLS, *AGENT_TOOLS)

HOUR_MS = 3_600_000


class ConversationServer(MCPServer[Services]):
    """An MCP server with our tools, built when they are first asked for: deriving their schemas takes longer than
    everything else of ours at a start, and a client asks for them a moment after its first answer.
    """

    def __init__(self, settings: Settings) -> None:
        @asynccontextmanager
        async def lifespan(_: MCPServer[Services]) -> AsyncGenerator[Services]:
            async with open_backend(settings) as backend, open_sender(backend) as sender:
                yield Services(backend, sender, settings)

        super().__init__(
            "letta-conversations",
            title="Letta conversations",
            description="Conversations with Letta agents",
            instructions=INSTRUCTIONS,
            version=__version__,
            lifespan=lifespan,
            log_level=settings.log_level,
            cache_hints={
                "server/discover": CacheHint(ttl_ms=HOUR_MS, scope="public"),
                "tools/list": CacheHint(ttl_ms=HOUR_MS, scope="public"),
                "resources/templates/list": CacheHint(ttl_ms=HOUR_MS, scope="public"),
                "prompts/list": CacheHint(ttl_ms=HOUR_MS, scope="public"),
            },
        )
        self._specs = [spec for spec in TOOLS if _is_offered(spec, settings)]
        add_resources(self)

    @cached_property
    def tools(self) -> dict[str, ConversationTool]:
        """The tools by name, in the order in which they are listed."""
        return {tool.name: tool for tool in (spec.build() for spec in self._specs)}

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: ToolContext | None = None
    ) -> GetPromptResult | InputRequiredResult:
        # The SDK answers an unknown prompt with an internal error and a traceback in the log.
        if name not in {prompt.name for prompt in await self.list_prompts()}:
            raise MCPError(code=INVALID_PARAMS, message=f"There is no prompt {name[:80]!r}.")
        return await super().get_prompt(name, arguments, context)

    async def list_tools(self) -> list[Tool]:
        return [tool.listed() for tool in self.tools.values()]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: ToolContext | None = None
    ) -> CallToolResult | InputRequiredResult:
        tool = self.tools.get(name)
        if tool is None:
            raise ToolError(f"There is no tool {name[:80]!r}. There are: {', '.join(self.tools)}.")
        if context is None:
            raise ToolError("A tool is called by a client of this server.")
        return await tool.run(arguments, context, convert_result=True)


def _is_offered(spec: ToolSpec, settings: Settings) -> bool:
    if spec is CREATE_AGENT and not (settings.uses_local or settings.create_agents):
        return False
    return spec.read_only or not settings.read_only


def build_server(settings: Settings) -> ConversationServer:
    """A server for these settings; it serves over any transport of the SDK, and opens its backend when that starts."""
    return ConversationServer(settings)
