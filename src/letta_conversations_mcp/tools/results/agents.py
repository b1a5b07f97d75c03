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
        details = " · ".join(filter(None, [self.model, " ".join(self.description.split())]))
        return f"{self.name} · {self.id}" + (f" · {details}" if details else "")


class AgentList(Result):
    agents: tuple[AgentRow, ...] = ()
    next: str = ""

    def to_text(self) -> str:
        return "\n".join(filter(None, [*(agent.to_text() for agent in self.agents), self.next]))


class AgentCreated(Result):
    agent_id: str
    name: str
    model: str = ""
    next: str = ""

    def to_text(self) -> str:
        return f"Created agent {self.name!r} ({self.agent_id}) with model {self.model}.\n{self.next}"
