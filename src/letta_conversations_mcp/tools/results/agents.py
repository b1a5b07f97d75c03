"""What list_agents and create_agent answer."""

from __future__ import annotations

from collections.abc import Sequence

from letta_conversations_mcp.conversations.transcript import cut
from letta_conversations_mcp.core.model import Agent
from letta_conversations_mcp.tools.results.result import Result, counted

DESCRIPTION_CHARS = 200
"""An agent's description in a list: enough to tell agents apart."""


MOST_TAGS = 10


class AgentRow(Result):
    id: str
    name: str
    model: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, agent: Agent) -> AgentRow:
        return cls(
            id=agent.id,
            name=agent.name,
            model=agent.model,
            description=cut(agent.description, DESCRIPTION_CHARS),
            tags=tuple(cut(each, DESCRIPTION_CHARS) for each in agent.tags[:MOST_TAGS]),
        )

    def to_text(self) -> str:
        description = " ".join(self.description.split())
        tags = f"tags: {', '.join(map(repr, self.tags))}" if self.tags else ""
        parts = [repr(self.name), self.id, self.model, repr(description) if description else "", tags]
        return " · ".join(filter(None, parts))


class AgentList(Result):
    listed: str = ""
    agents: tuple[AgentRow, ...] = ()
    next: str = ""

    @classmethod
    def of(cls, rows: Sequence[AgentRow], total: str, *, more: bool) -> AgentList:
        """A page of a list that has `total` agents."""
        count = total if total == str(len(rows)) else f"{len(rows)} of {total}"
        return cls(
            listed=f"{count} agent{'' if total == '1' else 's'}, newest first.",
            agents=tuple(rows),
            next=f"More: the same call with after={rows[-1].id!r}." if more else "",
        )

    def to_text(self) -> str:
        return "\n".join(filter(None, [self.listed, self.next, *(agent.to_text() for agent in self.agents)]))


class AgentCreated(Result):
    agent_id: str
    name: str
    model: str = ""
    note: str = ""
    next: str = ""

    def to_text(self) -> str:
        made = f"Created agent {self.name!r} ({self.agent_id}) with model {self.model}."
        return "\n".join(filter(None, [made, self.note, self.next]))


class AgentDeleted(Result):
    agent_id: str
    name: str
    conversations: int = 0
    at_least: bool = False

    def to_text(self) -> str:
        count = f"{'at least ' if self.at_least else ''}{counted(self.conversations, 'conversation')}"
        return f"Deleted agent {self.name!r} ({self.agent_id}) and its {count}."
