"""What the agents and conversations are called whose ids an answer holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import anyio

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION

MOST_NAMES = 20
"""Names that one answer asks for: each costs a request. The rest keep their ids alone."""

ONE_SECONDS = 1.0
"""For a name that stands beside a reply."""

SECONDS = 3.0
"""For all names together: an answer does without those that do not come in time."""


async def agent_names(backend: Backend, agent_ids: Iterable[str]) -> dict[str, str]:
    """Names by id, without those that could not be asked."""

    async def name(agent_id: str) -> str:
        return (await backend.get_agent(agent_id)).name

    return await _ask(name, agent_ids)


async def agent_name(backend: Backend, agent_id: str) -> str:
    """The name of one agent beside an answer that others wait for; "" if it does not come at once."""
    with anyio.move_on_after(ONE_SECONDS):
        return (await agent_names(backend, [agent_id])).get(agent_id, "")
    return ""


async def summaries(backend: Backend, conversation_ids: Iterable[str]) -> dict[str, str]:
    """Summaries by id, without those that could not be asked and default conversations, which have none."""

    async def summary(conversation_id: str) -> str:
        return (await backend.get_conversation(conversation_id)).summary

    return await _ask(summary, (each for each in conversation_ids if each != DEFAULT_CONVERSATION))


async def _ask(question: Callable[[str], Awaitable[str]], ids: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}

    async def ask(each: str) -> None:
        with suppress(ConversationError):
            found[each] = await question(each)

    with anyio.move_on_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            for each in list(dict.fromkeys(ids))[:MOST_NAMES]:
                tasks.start_soon(ask, each)
    return found
