"""Completion of arguments of resources and prompts."""

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
"""The most values that MCP allows in a completion."""

CONVERSATION_ARGUMENT = "conversation_id"
AGENT_ARGUMENT = "agent"
"""All resources and prompts use these names."""


async def complete_argument(services: Services, params: Mapping[str, Any]) -> Completion:
    """The values for a `completion/complete` request with these parameters; empty for an unknown argument."""
    uri = str(params["ref"].get("uri", "letta:"))
    if not uri.startswith("letta:"):
        return Completion(values=[])
    name, typed = params["argument"]["name"], str(params["argument"]["value"]).strip()
    if name == CONVERSATION_ARGUMENT:
        chosen = text_field(mapping_field(mapping_field(params, "context"), "arguments"), AGENT_ARGUMENT)
        return await _conversations(services, typed, chosen.strip())
    if name == AGENT_ARGUMENT:
        return await _agents(services, typed)
    return Completion(values=[])


async def _conversations(services: Services, typed: str, agent: str) -> Completion:
    """Ids of recent conversations, of the chosen agent if there is one: the id starts with `typed`, or the summary
    contains it."""
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
    """Names of agents that contain `typed`, those that start with it first; the id instead of a name that is not
    unique."""
    page = await services.backend.list_agents(search=typed, limit=COMPLETIONS)
    count = Counter(each.name for each in page.items)
    agents = sorted(page.items, key=lambda each: not each.name.lower().startswith(typed.lower()))
    return Completion(values=[each.name if count[each.name] == 1 else each.id for each in agents], has_more=page.more)
