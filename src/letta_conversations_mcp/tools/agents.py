"""The tools that are about agents."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from letta_conversations_mcp.conversations.lookup import check_agent_cursor, count_all_conversations, find_agent
from letta_conversations_mcp.conversations.transcript import cut
from letta_conversations_mcp.conversations.update import check_model
from letta_conversations_mcp.core.errors import InvalidArgument, NotConfirmed, Refused
from letta_conversations_mcp.core.model import NewAgent
from letta_conversations_mcp.core.quoting import NAME_CHARS
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.base import (
    AgentArgument,
    ConfirmArgument,
    LimitArgument,
    ToolContext,
    ToolSpec,
    services_of,
)
from letta_conversations_mcp.tools.results.agents import AgentCreated, AgentDeleted, AgentList, AgentRow

MADE_IN_LETTA = "A person makes one in Letta, or starts this MCP server with --create-agents"


COUNTED = 100
"""Agents that are counted for "20 of 38"."""


async def list_agents(
    ctx: ToolContext,
    search: Annotated[str, Field(description="part of the name, such as 'support'")] = "",
    tag: Annotated[str, Field(description="has this tag")] = "",
    limit: LimitArgument = 20,
    after: Annotated[str, Field(description="last id of the page before")] = "",
) -> AgentList:
    """Find Letta agents, newest first. Use it when the user names an agent that you do not know, or asks which there
    are."""
    services = services_of(ctx)
    cursor = check_agent_cursor(after)
    search, tag = search.strip(), tag.strip()
    page = await services.backend.list_agents(search=search, tag=tag, after=cursor, limit=limit)
    rows = tuple(map(AgentRow.of, page.items))
    if not rows:
        return AgentList(next=_no_agents(services.settings, search, tag, cursor))
    total, more = str(len(rows)), page.more
    if more or cursor:
        counted = await services.backend.list_agents(search=search, tag=tag, limit=COUNTED)
        total = f"{len(counted.items)}{' or more' if counted.more else ''}"
        more = more and counted.items[-1:] != page.items[-1:]
    return AgentList.of(rows, total, more=more)


def _no_agents(settings: Settings, search: str, tag: str, cursor: str) -> str:
    named = [f"{search!r} in their name"] if search else []
    tagged = [f"the tag {tag!r}"] if tag else []
    if wanted := " and ".join(named + tagged):
        return f"No {'more ' if cursor else ''}agents with {wanted}. list_agents() shows all."
    if cursor:
        return "No more agents."
    return f"There are no agents yet. {'create_agent makes one' if CREATE.is_offered(settings) else MADE_IN_LETTA}."


async def create_agent(
    ctx: ToolContext,
    name: Annotated[str, Field(description="what it is called", min_length=1, max_length=200)],
    model: Annotated[str, Field(description="default: the first of list_models")] = "",
    description: Annotated[str, Field(description="what it is for, in a sentence", max_length=5_000)] = "",
    persona: Annotated[str, Field(description="who it is, how it behaves", max_length=20_000)] = "",
    human: Annotated[str, Field(description="what it knows of the user", max_length=20_000)] = "",
) -> AgentCreated:
    """Create a Letta agent, when the user has none yet or asks for another. Refused if there is one of this name."""
    backend = services_of(ctx).backend
    if taken := (await backend.list_agents(name=name, limit=1)).items:
        raise InvalidArgument("name", f"there is an agent of this name: {taken[0].id}. Use it, or choose another name.")
    handle = model.strip()
    if not handle:
        models = await backend.list_models()
        if not models:
            raise Refused("create an agent", "there is no model for it", backend.no_models_advice)
        handle = models[0]
    else:
        await check_model(backend, handle)
    memory = {"persona": persona or f"I am {name}.", "human": human or "Nothing is known about the user yet."}
    agent = await backend.create_agent(NewAgent(name=name, model=handle, description=description, memory=memory))
    return AgentCreated(
        agent_id=agent.id,
        name=agent.name,
        model=agent.model or handle,
        note=backend.new_agent_note,
        next=f"Talk with it: send_message(agent={agent.id!r}, message=…).",
    )


async def delete_agent(ctx: ToolContext, agent: AgentArgument, confirm: ConfirmArgument = False) -> AgentDeleted:
    """Delete a Letta agent with its memory and ALL of its conversations, for everybody and for good. Only when the user
    asked for it."""
    backend = services_of(ctx).backend
    owner = await find_agent(backend, agent)
    count, more = await count_all_conversations(backend, owner.id)
    conversations = f"{'at least ' if more else ''}{count} conversation{'' if count == 1 else 's'}"
    if not confirm:
        raise NotConfirmed(
            f"This would delete the agent {cut(owner.name, NAME_CHARS)!r} ({owner.id}), what it remembers and its "
            f"{conversations}, for everybody and for good."
        )
    await backend.delete_agent(owner.id)
    return AgentDeleted(agent_id=owner.id, name=cut(owner.name, NAME_CHARS), conversations=count, at_least=more)


CREATE = ToolSpec(create_agent, title="Create a Letta agent", manages_agents=True)
AGENT_TOOLS = (
    ToolSpec(list_agents, title="List Letta agents", read_only=True),
    CREATE,
    ToolSpec(
        delete_agent,
        title="Delete a Letta agent",
        destructive=True,
        idempotent=True,
        deletes=True,
        manages_agents=True,
    ),
)
