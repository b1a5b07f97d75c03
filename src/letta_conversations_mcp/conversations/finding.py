"""Finding a conversation by what a person called it, and checking what a new one needs, before anything is created."""

from __future__ import annotations

import re
from collections.abc import Sequence

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import InvalidArgument
from letta_conversations_mcp.core.model import Agent, Conversation, ConversationQuery

PAGE = 100
"""Conversations asked for at a time when all have to be looked through."""


async def conversations_with_summary(backend: Backend, agent_id: str, summary: str) -> tuple[Conversation, ...]:
    """The agent's conversations with exactly this summary, archived ones too, however many it has.

    The look ends at the first page on which a second one is found: then there is no one to be meant.
    """
    # The server takes the search for an SQL LIKE pattern, so it gets the longest part that has no special characters.
    search = max(re.split(r"[\\%_]", summary), key=len)
    query = ConversationQuery(agent_id=agent_id, search=search, archived="all", limit=PAGE)
    matches: dict[str, Conversation] = {}
    seen: set[str] = set()
    while True:
        page = await backend.list_conversations(query)
        matches |= {each.id: each for each in page.items if each.summary == summary}
        if not page.more or page.items[-1].id in seen or len(matches) > 1:
            return tuple(matches.values())
        seen |= {each.id for each in page.items}
        query = query.model_copy(update={"after": page.items[-1].id})


async def check_blocks(backend: Backend, owner: Agent, wanted: Sequence[str]) -> None:
    """Raises InvalidArgument for a label that the agent lacks: 0.16.8 would refuse it and leave a broken one behind."""
    labels = owner.block_labels
    if labels is None:
        labels = (await backend.get_agent(owner.id)).block_labels
    if labels is None:
        return
    if unknown := [label for label in wanted if label not in labels]:
        has = ", ".join(labels) or "none"
        raise InvalidArgument("isolated_blocks", f"agent {owner.name!r} has no block {unknown[0]!r}; it has: {has}.")
