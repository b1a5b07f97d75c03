"""Operations on agents and models, through the App Server."""

from __future__ import annotations

from collections.abc import Sequence

from letta_conversations_mcp.backends.app_server.app_server_json import read_agent
from letta_conversations_mcp.backends.app_server.base import LocalBase
from letta_conversations_mcp.core.errors import NotFound, Refused
from letta_conversations_mcp.core.message_json import mapping_field, mappings, text_field
from letta_conversations_mcp.core.model import Agent, NewAgent, Page


class LocalAgents(LocalBase):
    """Finding and creating agents."""

    async def list_agents(
        self, *, name: str = "", search: str = "", tag: str = "", after: str = "", limit: int = 20
    ) -> Page[Agent]:
        """The server returns all of them in no defined order and ignores filters (measured)."""
        answer = await self._read("agent_list", what="list the agents", query={"limit": 1000})
        agents = [read_agent(each) for each in mappings(answer.get("agents"))]
        agents = [each for each in agents if name in ("", each.name) and search.lower() in each.name.lower()]
        agents = [each for each in agents if not tag or tag in each.tags]
        ids = [each.id for each in agents]
        if after:
            if after not in ids:
                raise NotFound.agent(after)
            agents = agents[ids.index(after) + 1 :]
        return Page(items=tuple(agents[:limit]), more=len(agents) > limit)

    async def get_agent(self, agent_id: str) -> Agent:
        try:
            answer = await self._read("agent_retrieve", what="find the agent", agent_id=agent_id)
        except Refused as error:
            raise NotFound.agent(agent_id) from error
        agent = mapping_field(answer, "agent")
        if not agent:
            raise NotFound.agent(agent_id)
        return read_agent(agent)

    async def create_agent(self, new: NewAgent) -> Agent:
        connection = await self._open()
        blocks = [{"label": label, "value": value} for label, value in new.memory.items()]
        wanted = {"name": new.name, "model": new.model, "description": new.description, "memory_blocks": blocks}
        body = {key: value for key, value in wanted.items() if value}
        answer = await connection.request("agent_create", what="create an agent", body=body)
        return read_agent(mapping_field(answer, "agent"))

    async def delete_agent(self, agent_id: str) -> None:
        """The server deletes its conversations too; the files of its memory stay on the disk."""
        await self.get_agent(agent_id)
        connection = await self._open()
        await connection.request("agent_delete", what="delete the agent", agent_id=agent_id)

    async def list_models(self) -> Sequence[str]:
        answer = await self._read("list_models", what="list the models")
        return [text_field(each, "handle") for each in mappings(answer.get("entries"))]
