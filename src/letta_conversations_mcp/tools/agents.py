"""The tools that are about agents."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from letta_conversations_mcp.conversations.lookup import (
    check_agent_id,
)
from letta_conversations_mcp.core.errors import InvalidArgument, Refused
from letta_conversations_mcp.core.model import (
    NewAgent,
)
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.base import (
    LimitArgument,
    ToolContext,
    ToolSpec,
    services_of,
)
from letta_conversations_mcp.tools.results.agents import AgentCreated, AgentList, AgentRow

MADE_IN_LETTA = "A person makes one in Letta, or starts this MCP server with --create-agents"


async def list_agents(
    ctx: ToolContext,
    search: Annotated[str, Field(description="part of the name, such as 'support'")] = "",
    limit: LimitArgument = 20,
    after: Annotated[str, Field(description="cursor: last id of the page before")] = "",
) -> AgentList:
    """Find Letta agents, newest first: id, name, model and description. Use it when the user names an agent that you
    do not know, or asks."""
    services = services_of(ctx)
    cursor = check_agent_id(after) if after.strip() else ""
    page = await services.backend.list_agents(search=search.strip(), after=cursor, limit=limit)
    rows = tuple(map(AgentRow.of, page.items))
    if not rows:
        return AgentList(next=_no_agents(services.settings, search.strip(), cursor))
    return AgentList(agents=rows, next=f"More: list_agents(after={rows[-1].id!r})." if page.more else "")


def _no_agents(settings: Settings, search: str, cursor: str) -> str:
    if search:
        return f"No agents with {search!r} in their name. Call it without search to see all."
    if cursor:
        return "No more agents."
    return f"There are no agents yet. {'create_agent makes one' if CREATE.is_offered(settings) else MADE_IN_LETTA}."


async def create_agent(
    ctx: ToolContext,
    name: Annotated[str, Field(description="what it is called", min_length=1, max_length=200)],
    model: Annotated[str, Field(description="provider/model; left out: the first in list_models")] = "",
    description: Annotated[str, Field(description="what it is for, in a sentence", max_length=5_000)] = "",
    persona: Annotated[str, Field(description="who it is, how it behaves", max_length=20_000)] = "",
    human: Annotated[str, Field(description="what it knows of the user", max_length=20_000)] = "",
) -> AgentCreated:
    """Create a Letta agent. Use it when the user has no agent yet or asks for another one; each call makes a new
    one."""
    backend = services_of(ctx).backend
    if taken := (await backend.list_agents(name=name, limit=1)).items:
        raise InvalidArgument("name", f"there is an agent of this name: {taken[0].id}. Use it, or choose another name.")
    handle = model.strip()
    if not handle:
        models = await backend.list_models()
        if not models:
            raise Refused("create an agent", "there is no model for it", backend.no_models_advice)
        handle = models[0]
    memory = {"persona": persona or f"I am {name}.", "human": human or "Nothing is known about the user yet."}
    agent = await backend.create_agent(NewAgent(name=name, model=handle, description=description, memory=memory))
    return AgentCreated(
        agent_id=agent.id,
        name=agent.name,
        model=agent.model or handle,
        next=f"Talk with it: send_message(agent={agent.id!r}, message=…).",
    )


CREATE = ToolSpec(create_agent, title="Create an agent", makes_agents=True)
AGENT_TOOLS = (ToolSpec(list_agents, title="List agents", read_only=True), CREATE)
