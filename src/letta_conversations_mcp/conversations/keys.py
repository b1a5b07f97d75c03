"""One conversation per key: the caller's own name for a user, a ticket or a channel.

Letta has no field for a key, so it is stored as a mark, `[key: …]`, at the end of both summary and description: 0.16
servers and Letta Code drop descriptions, and programs and people overwrite summaries. Our own `update` keeps the mark.
If several conversations have the same key, everybody uses the oldest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from weakref import WeakValueDictionary

import anyio

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument
from letta_conversations_mcp.core.model import Conversation, ConversationQuery, NewConversation

PAGE = 100
"""Conversations asked for at a time."""

MOST_PAGES = 50
"""Pages, newest first, scanned for a key that is only in a description: servers search summaries only."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+/-]{0,99}")
_MARK = re.compile(rf"\[key: ({_KEY.pattern})\]\s*$")

# A lock lives as long as a call holds it: calls of this process for the same key run one after the other.
_opening: WeakValueDictionary[tuple[str, str], anyio.Lock] = WeakValueDictionary()


def check_key(key: str) -> str:
    """The key, trimmed. Raises InvalidArgument for one that could not be recognised within a text."""
    wanted = key.strip()
    if not _KEY.fullmatch(wanted):
        raise InvalidArgument("key", "1 to 100 letters, digits and any of . _ : @ + / - are needed, as in 'user:4711'.")
    return wanted


def one_at_a_time(agent_id: str, key: str) -> anyio.Lock:
    """The lock for calls that look for a conversation and create it if there is none."""
    return _opening.setdefault((agent_id, key), anyio.Lock())


def mark(text: str, key: str) -> str:
    return f"{_MARK.sub('', text).rstrip()} [key: {key}]".lstrip()


def key_of(conversation: Conversation) -> str:
    """The key of a conversation, "" for one without."""
    found = _MARK.search(conversation.summary) or _MARK.search(conversation.description)
    return found[1] if found else ""


async def open_with_key(backend: Backend, new: NewConversation, key: str) -> tuple[Conversation, bool]:
    """The agent's conversation with this key, and True if it existed before.

    Two processes that both find none both create one, look again, and agree on the oldest. Each deletes its own if it
    is not the oldest. (If a server stores a conversation more slowly than the other process creates one and looks, the
    two may return different ones once; from then on the oldest is used.)
    """
    async with one_at_a_time(new.agent_id, key):
        if found := await find_with_key(backend, new.agent_id, key):
            return found, True
        marked = {"summary": mark(new.summary, key), "description": mark(new.description, key)}
        made = await backend.create_conversation(new.model_copy(update=marked))
        try:
            first = _oldest([made, *await _keyed(backend, new.agent_id, key, search=f"[key: {key}]")])
        except ConversationError:
            # It was created, and the next call with this key finds it.
            return made, False
        if first.id == made.id:
            return made, False
        await _withdraw(backend, made.id)
        return first, True


async def find_with_key(backend: Backend, agent_id: str, key: str) -> Conversation | None:
    """The agent's conversation of this key. By the summary, which the server searches; else by the description, in all
    that are listed."""
    found = await _keyed(backend, agent_id, key, search=f"[key: {key}]")
    if not found:
        found = await _keyed(backend, agent_id, key)
    return _oldest(found) if found else None


async def _keyed(backend: Backend, agent_id: str, key: str, *, search: str = "") -> list[Conversation]:
    query = ConversationQuery(agent_id=agent_id, search=search, archived="all", limit=PAGE)
    found: list[Conversation] = []
    for _ in range(MOST_PAGES):
        page = await backend.list_conversations(query)
        found += [each for each in page.items if key_of(each) == key]
        # A server that knows no archive keeps no descriptions either (0.16.8).
        without_descriptions = all(each.archived is None and not each.description for each in page.items)
        if not page.more or (not search and without_descriptions):
            break
        query = query.model_copy(update={"after": page.items[-1].id})
    return found


def _oldest(conversations: Iterable[Conversation]) -> Conversation:
    return min(conversations, key=lambda each: (each.created_at, each.id))


async def _withdraw(backend: Backend, conversation_id: str) -> None:
    """Delete a conversation that is not needed after all, unless it has messages already. A failure does no harm."""
    try:
        if not (await backend.get_conversation(conversation_id)).last_message_at:
            await backend.delete_conversation(conversation_id)
    except ConversationError:
        pass
