"""The server in a command's own process, whose errors are for a person."""

from __future__ import annotations

from typing import Any, ClassVar

from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, InputRequiredResult, TextContent

from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.server.app import ConversationServer
from letta_conversations_mcp.tools.base import ToolContext

LABEL = "letta-conversations/error"
"""Under which the `_meta` of an error names its class."""


class PersonsServer(ConversationServer):
    """Its errors say what a person can do, not which tool a model can call, and of which class they are."""

    reworded: ClassVar[tuple[type[ConversationError], ...]] = (ConversationError,)
    """Of other errors the person reads what a model would."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: ToolContext | None = None
    ) -> CallToolResult | InputRequiredResult:
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            cause = error.__cause__
            if not isinstance(cause, self.reworded):
                raise
            text = TextContent(type="text", text=cause.for_person)
            return CallToolResult(content=[text], is_error=True, _meta={LABEL: cause.label})
