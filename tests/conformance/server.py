"""Our server, over HTTP, with the conformance suite's fixtures beside its own tools, and a fake Letta behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

from mcp.server import MCPServer
from mcp_types import CallToolResult, GetPromptResult, InputRequiredResult, Prompt, Tool

from letta_conversations_mcp.http.app import build_app
from letta_conversations_mcp.http.listening import listen
from letta_conversations_mcp.server.app import ConversationServer
from letta_conversations_mcp.server.tasks.handlers import TASK_HANDLERS, TaskHandler
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.base import ToolContext
from tests.conformance.content import JSON_SCHEMA_TOOL, add_content
from tests.conformance.rounds import add_rounds
from tests.conformance.work import TASKED_FIXTURES, add_work
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.loopback import serve_loopback
from tests.rig.model import ScriptedModel


class FixtureServer(ConversationServer):
    """Has what is registered with the SDK too. Our own tools and prompts are not, so that they can be built late."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        add_content(self)
        add_rounds(self)
        add_work(self)

    @cached_property
    def task_handlers(self) -> Mapping[str, TaskHandler]:
        return {**TASK_HANDLERS, **TASKED_FIXTURES}

    async def list_tools(self) -> list[Tool]:
        return [*await super().list_tools(), *await MCPServer.list_tools(self), JSON_SCHEMA_TOOL]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: ToolContext | None = None
    ) -> CallToolResult | InputRequiredResult:
        if name in {tool.name for tool in await MCPServer.list_tools(self)}:
            return await MCPServer.call_tool(self, name, arguments, context)
        return await super().call_tool(name, arguments, context)

    async def list_prompts(self) -> list[Prompt]:
        return [*await super().list_prompts(), *await MCPServer.list_prompts(self)]

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: ToolContext | None = None
    ) -> GetPromptResult | InputRequiredResult:
        if name in {prompt.name for prompt in await MCPServer.list_prompts(self)}:
            return await MCPServer.get_prompt(self, name, arguments, context)
        return await super().get_prompt(name, arguments, context)


@asynccontextmanager
async def fixture_server() -> AsyncGenerator[str]:
    """Serve on a free port; gives the URL of the MCP endpoint."""
    model = ScriptedModel()
    fake = FakeLetta(model)
    async with fake.serve() as letta_url:
        letta = Letta(letta_url, model, fake)
        try:
            agent_id, _ = await letta.new_agent("bookkeeper")
            for summary in ("invoice 4711", "travel expenses"):
                await letta.send(await letta.new_conversation(agent_id, summary), f"About {summary}.")
            settings = Settings(base_url=letta_url, port=0, log_level="ERROR")
            app = build_app(FixtureServer(settings), settings)
            async with serve_loopback(app, listen(settings)) as url:
                yield f"{url}/mcp"
        finally:
            await letta.close()
