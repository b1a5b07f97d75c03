"""What can stand for an argument of a resource or a prompt, from what a person has typed of it so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mcp_types import Completion

from letta_conversations_mcp.conversations.lookup import find_agent
from letta_conversations_mcp.core.errors import Ambiguous, NotFound
from letta_conversations_mcp.core.message_json import mapping_field, text_field
from letta_conversations_mcp.core.model import ConversationQuery
from letta_conversations_mcp.tools.base import Services

COMPLETIONS = 100
"""The most that MCP lets a completion hold."""

CONVERSATION_ARGUMENTS = ("conversation_id", "conversation")
AGENT_ARGUMENT = "agent"
"""The arguments of our resources and prompts are called the same everywhere."""


async def complete_argument(services: Services, params: Mapping[str, Any]) -> Completion:
    """The values for the argument that a `completion/complete` request is about; none for one that is not ours."""
    uri = str(params["ref"].get("uri", "letta:"))
    if not uri.startswith("letta:"):
        return Completion(values=[])
    name, typed = params["argument"]["name"], str(params["argument"]["value"]).strip()
    if name in CONVERSATION_ARGUMENTS:
        chosen = text_field(mapping_field(mapping_field(params, "context"), "arguments"), AGENT_ARGUMENT)
        return await _conversations(services, typed, chosen.strip())
    if name == AGENT_ARGUMENT:
        return await _agents(services, typed)
    return Completion(values=[])


async def _conversations(services: Services, typed: str, agent: str) -> Completion:
    """The recent conversations, of an agent that was chosen before, whose id begins with what was typed, or whose
    summary contains it."""
    try:
        owner = (await find_agent(services.backend, agent)).id if agent else ""
    except (NotFound, Ambiguous):
        return Completion(values=[])
    page = await services.backend.list_conversations(
        ConversationQuery(agent_id=owner, limit=COMPLETIONS, order_by="last_message_at", archived="all")
    )
    wanted = typed.lower()
    values = [each.id for each in page.items if each.id.startswith(wanted) or wanted in each.summary.lower()]
    return Completion(values=values, has_more=page.more)


async def _agents(services: Services, typed: str) -> Completion:
    """The agents with what was typed in their name, by name, those that begin with it first. Those that share their
    name with another one are told by their id."""
    page = await services.backend.list_agents(search=typed, limit=COMPLETIONS)
    count = Counter(each.name for each in page.items)
    agents = sorted(page.items, key=lambda each: not each.name.lower().startswith(typed.lower()))
    return Completion(values=[each.name if count[each.name] == 1 else each.id for each in agents], has_more=page.more)
