"""All tools, in the order in which they are listed. Loaded when they are first asked for."""

from __future__ import annotations

from letta_conversations_mcp.tools.agents import AGENT_TOOLS
from letta_conversations_mcp.tools.approvals import APPROVAL_TOOLS
from letta_conversations_mcp.tools.asking import ASKING_TOOLS
from letta_conversations_mcp.tools.branches import BRANCH_TOOLS
from letta_conversations_mcp.tools.cancelling import CANCEL_TOOLS
from letta_conversations_mcp.tools.changing import CHANGING_TOOLS
from letta_conversations_mcp.tools.conversations import CONVERSATION_TOOLS
from letta_conversations_mcp.tools.describing import DESCRIBING_TOOLS
from letta_conversations_mcp.tools.messages import MESSAGE_TOOLS
from letta_conversations_mcp.tools.searching import SEARCHING_TOOLS
from letta_conversations_mcp.tools.tool import ToolSpec

TOOLS: tuple[ToolSpec, ...] = (
    *CONVERSATION_TOOLS,
    *DESCRIBING_TOOLS,
    *CHANGING_TOOLS,
    *BRANCH_TOOLS,
    *MESSAGE_TOOLS,
    *APPROVAL_TOOLS,
    *CANCEL_TOOLS,
    *ASKING_TOOLS,
    *SEARCHING_TOOLS,
    *AGENT_TOOLS,
)
