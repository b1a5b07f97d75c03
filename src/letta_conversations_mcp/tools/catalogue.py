"""All tools, in the order in which they are listed. Loaded when they are first asked for."""

from __future__ import annotations

from letta_conversations_mcp.tools.agents import AGENT_TOOLS
from letta_conversations_mcp.tools.approvals import APPROVAL_TOOLS
from letta_conversations_mcp.tools.ask_many import ASK_MANY_TOOLS
from letta_conversations_mcp.tools.base import ToolSpec
from letta_conversations_mcp.tools.context import CONTEXT_TOOLS
from letta_conversations_mcp.tools.conversations import CONVERSATION_TOOLS
from letta_conversations_mcp.tools.messages import MESSAGE_TOOLS
from letta_conversations_mcp.tools.models import MODEL_TOOLS
from letta_conversations_mcp.tools.viewer import VIEWER_TOOLS

TOOLS: tuple[ToolSpec, ...] = (
    *CONVERSATION_TOOLS,
    *CONTEXT_TOOLS,
    *MESSAGE_TOOLS,
    *ASK_MANY_TOOLS,
    *APPROVAL_TOOLS,
    *AGENT_TOOLS,
    *MODEL_TOOLS,
    *VIEWER_TOOLS,
)
