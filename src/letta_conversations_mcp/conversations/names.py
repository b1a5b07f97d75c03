"""Names for the ids of agents and conversations in an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from weakref import WeakKeyDictionary

import anyio

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION

MOST_NAMES = 20
"""Names that are requested for one answer, each with its own request. The rest are shown by id only."""

ONE_SECONDS = 1.0
"""Timeout for a name beside a reply."""

SECONDS = 3.0
"""Timeout for all names together; the answer omits those that are late."""


FRESH_SECONDS = 60.0
"""How long a name beside an answer is believed: every turn and page would cost a request more."""

MOST_KNOWN = 1_000

_known: WeakKeyDictionary[Backend, dict[str, tuple[str, float]]] = WeakKeyDictionary()


async def agent_names(backend: Backend, agent_ids: Iterable[str]) -> dict[str, str]:
    """Names by id, without those that could not be read. They may be `FRESH_SECONDS` old."""
    ids = list(agent_ids)
    names = {each: known for each in ids if (known := _known_name(backend, each))}

    async def name(agent_id: str) -> str:
        return (await backend.get_agent(agent_id)).name

    unknown = [each for each in ids if each not in names]
    if not unknown:
        return names
    asked = await _ask(name, unknown)
    known, now = _known[backend], anyio.current_time()
    if len(known) + len(asked) > MOST_KNOWN:
        known.clear()
    known.update({each: (found, now) for each, found in asked.items() if found})
    return names | asked


async def agent_name(backend: Backend, agent_id: str) -> str:
    """The name of one agent beside an answer that others wait for; "" if it does not come at once."""
    if known := _known_name(backend, agent_id):
        return known
    with anyio.move_on_after(ONE_SECONDS):
        return (await agent_names(backend, [agent_id])).get(agent_id, "")
    return ""


def _known_name(backend: Backend, agent_id: str) -> str:
    """The name of an agent if it was read lately, otherwise ""."""
    name, read_at = _known.setdefault(backend, {}).get(agent_id, ("", 0.0))
    return name if anyio.current_time() - read_at < FRESH_SECONDS else ""


async def summaries(backend: Backend, conversation_ids: Iterable[str]) -> dict[str, str]:
    """Summaries by id, without those that could not be read. Default conversations have none."""

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
