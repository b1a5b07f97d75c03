"""The tools that are about agents."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from letta_conversations_mcp.core.addressing import check_agent_id
from letta_conversations_mcp.core.model import Agent
from letta_conversations_mcp.core.transcript import cut
from letta_conversations_mcp.tools.tool import Result, ToolContext, ToolSpec

DESCRIPTION_CHARS = 200
"""An agent's description in a list: enough to tell agents apart."""


class AgentRow(Result):
    id: str
    name: str
    model: str = ""
    description: str = ""

    @classmethod
    def of(cls, agent: Agent) -> AgentRow:
        return cls(
            id=agent.id, name=agent.name, model=agent.model, description=cut(agent.description, DESCRIPTION_CHARS)
        )

    def to_text(self) -> str:
        details = " · ".join(filter(None, [self.model, " ".join(self.description.split())]))
        return f"{self.name} · {self.id}" + (f" · {details}" if details else "")


class AgentList(Result):
    agents: tuple[AgentRow, ...] = ()
    next: str = ""

    def to_text(self) -> str:
        return "\n".join(filter(None, [*(agent.to_text() for agent in self.agents), self.next]))


async def list_agents(
    ctx: ToolContext,
    search: Annotated[str, Field(description="part of the name, such as 'support'; empty for all")] = "",
    limit: Annotated[int, Field(ge=1, le=100)] = 20,
    after: Annotated[str, Field(description="cursor: the id of the last agent on the page before")] = "",
) -> AgentList:
    """Find Letta agents, newest first: id, name, model and description. Use it when the user names an agent that you do
    not know, or asks who is there. Changes nothing. Then send_message(agent=…) or list_conversations(agent=…)."""
    services = ctx.request_context.lifespan_context
    cursor = check_agent_id(after) if after.strip() else ""
    page = await services.backend.list_agents(search=search.strip(), after=cursor, limit=limit)
    rows = tuple(map(AgentRow.of, page.items))
    if not rows:
        hint = " Call it without search to see all." if search else " An agent is made in Letta."
        return AgentList(next=f"No agents{f' with {search!r} in their name' if search else ' on this page'}.{hint}")
    return AgentList(agents=rows, next=f"More: list_agents(after={rows[-1].id!r})." if page.more else "")


AGENT_TOOLS = (ToolSpec(list_agents, title="List agents", read_only=True),)
