"""What list_agents and create_agent answer."""

from __future__ import annotations

from letta_conversations_mcp.conversations.transcript import (
    cut,
)
from letta_conversations_mcp.core.model import (
    Agent,
)
from letta_conversations_mcp.tools.results.result import Result

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
        description = " ".join(self.description.split())
        parts = [repr(self.name), self.id, self.model, repr(description) if description else ""]
        return " · ".join(filter(None, parts))


class AgentList(Result):
    agents: tuple[AgentRow, ...] = ()
    next: str = ""

    def to_text(self) -> str:
        return "\n".join(filter(None, [self.next, *(agent.to_text() for agent in self.agents)]))


class AgentCreated(Result):
    agent_id: str
    name: str
    model: str = ""
    next: str = ""

    def to_text(self) -> str:
        return f"Created agent {self.name!r} ({self.agent_id}) with model {self.model}.\n{self.next}"
