"""One conversation per key: the name that another program gives to a user, a ticket or a channel.

Where conversations have tags (agents on this machine), the key is the tag `key:…`. Elsewhere Letta has no field for it,
and the key is a mark, `[key: user:4711 #1a2b3c4d]`, at the end of the summary and of the description. Both, because
neither lasts everywhere: 0.16 servers drop descriptions, and programs and people rewrite summaries.

Summaries are often titles that strangers wrote, so a mark counts only with its digest, which is made from the agent's
id, and no other text that we store may end in a mark (`without_mark`). Marks of version 0.1.0 have no digest; they
count for conversations from before 2027, if no other has the key.

When several conversations have the same key, the oldest counts, for everybody.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha256
from weakref import WeakValueDictionary

import anyio

from letta_conversations_mcp.conversations.lookup import conversations_with_summary
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument
from letta_conversations_mcp.core.model import Conversation, ConversationChanges, ConversationQuery, NewConversation
from letta_conversations_mcp.core.quoting import NAME_CHARS, quote

PAGE = 100
"""Conversations per request."""

MOST_PAGES = 50
"""Pages, newest first, that are scanned for a key that is only in a description: servers search summaries only."""

KEY_TAG = "key:"
"""Prefix of the tag that holds a key. Callers cannot set tags with it."""

WITHOUT_DIGEST_BEFORE = "2027"
"""A mark without a digest counts for conversations created before this time. Servers set the time, so it cannot be
forged."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+/-]{0,99}")
_MARK = re.compile(rf"\[key: ({_KEY.pattern})(?: #([0-9a-f]{{8}}))?\]\s*$")

# An entry lives as long as a call holds its lock: calls of this process for the same key wait for each other.
_opening: WeakValueDictionary[tuple[str, str], anyio.Lock] = WeakValueDictionary()


def check_key(key: str) -> str:
    """The key, trimmed. Raises InvalidArgument for a key that could not be recognised within a text."""
    wanted = key.strip()
    if not _KEY.fullmatch(wanted):
        raise InvalidArgument("key", "1 to 100 letters, digits and any of . _ : @ + / - are needed, as in 'user:4711'.")
    return wanted


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags, trimmed. Raises InvalidArgument for an empty tag and for one that would count as a key."""
    wanted = tuple(tag.strip() for tag in tags)
    for tag in wanted:
        if not tag or tag.startswith(KEY_TAG):
            raise InvalidArgument(
                "tags", f"{quote(tag, NAME_CHARS)!r} is no tag: it is empty, or begins with {KEY_TAG!r} like a key."
            )
    return wanted


def without_mark(text: str) -> str:
    """The text, with round brackets instead of square ones around anything at its end that looks like a key's mark."""
    return _MARK.sub(lambda found: f"({found[0].strip()[1:-1]})", text)


def mark(text: str, agent_id: str, key: str) -> str:
    """The text with the mark of this key at its end."""
    found = _MARK.search(text)
    plain = text[: found.start()] if found and found[1] == key else without_mark(text)
    return f"{plain.rstrip()} [key: {key} #{_digest(agent_id, key)}]".lstrip()


def key_of(conversation: Conversation) -> str:
    """The key of a conversation, "" for one without."""
    for tag in conversation.tags:
        if tag.startswith(KEY_TAG):
            return tag.removeprefix(KEY_TAG)
    return _marked_key(conversation, with_digest=True) or _marked_key(conversation, with_digest=False)


async def open_with_key(backend: Backend, new: NewConversation, key: str) -> tuple[Conversation, bool]:
    """The agent's conversation with this key, and True if it existed before."""
    if backend.keeps_tags:
        new = new.model_copy(update={"tags": (*new.tags, KEY_TAG + key)})
    else:
        texts = {name: mark(getattr(new, name), new.agent_id, key) for name in ("summary", "description")}
        new = new.model_copy(update=texts)

    async def matches() -> Sequence[Conversation]:
        return await _keyed(backend, new.agent_id, key)

    return await _open_once(backend, new, f"key {key}", matches)


async def open_with_summary(backend: Backend, new: NewConversation) -> tuple[Conversation, bool, int]:
    """The agent's oldest conversation with exactly this summary, True if it existed before, and how many have the
    summary, as far as they were scanned."""
    found: list[Conversation] = []

    async def matches() -> Sequence[Conversation]:
        found[:] = await conversations_with_summary(backend, new.agent_id, new.summary)
        return found

    conversation, was_there = await _open_once(backend, new, f"summary {new.summary}", matches)
    return conversation, was_there, len(found)


async def _open_once(
    backend: Backend, new: NewConversation, name: str, matches: Callable[[], Awaitable[Sequence[Conversation]]]
) -> tuple[Conversation, bool]:
    """The oldest match, or a new conversation; and True if it existed before.

    Two processes that both find none both create one, look again, and agree on the oldest; the process that created the
    other deletes it. (If a server takes longer to store a conversation than the other process takes to create one and
    look, they may return two once; from then on the oldest counts.)
    """
    async with _opening.setdefault((new.agent_id, name), anyio.Lock()):
        if found := await matches():
            return _oldest(found), True
        made = await backend.create_conversation(new)
        try:
            first = _oldest([made, *await matches()])
        except ConversationError:
            # The conversation exists, and the next call finds it.
            return made, False
        if first.id == made.id:
            return made, False
        await _withdraw(backend, made.id)
        return first, True


def key_changes(backend: Backend, agent_id: str, key: str) -> ConversationChanges:
    """The changes that give a key to a new conversation without summary and tags."""
    if backend.keeps_tags:
        return ConversationChanges(tags=(KEY_TAG + key,))
    return ConversationChanges(summary=mark("", agent_id, key))


async def find_with_key(backend: Backend, agent_id: str, key: str) -> Conversation | None:
    """The agent's conversation with this key, if any."""
    found = await _keyed(backend, agent_id, key)
    return _oldest(found) if found else None


async def _keyed(backend: Backend, agent_id: str, key: str) -> Sequence[Conversation]:
    """The conversations with this key: by tag; else by summary, which the server searches; else by description,
    scanning the list. Marks without a digest count last."""
    if backend.keeps_tags:
        query = ConversationQuery(agent_id=agent_id, tag=KEY_TAG + key, with_hidden=True, archived="all", limit=PAGE)
        if tagged := (await backend.list_conversations(query)).items:
            return tagged
    elif (found := await _marked(backend, agent_id, key, search=f"[key: {key} #"))[0]:
        return found[0]
    _, old = await _marked(backend, agent_id, key, search=f"[key: {key}]")
    described, described_old = await _marked(backend, agent_id, key)
    return described or [*old, *described_old]


async def _marked(
    backend: Backend, agent_id: str, key: str, *, search: str = ""
) -> tuple[list[Conversation], list[Conversation]]:
    """Those with the key in a mark with a digest, and those with it in a mark without."""
    query = ConversationQuery(agent_id=agent_id, search=search, archived="all", limit=PAGE)
    found: tuple[list[Conversation], list[Conversation]] = ([], [])
    for _ in range(MOST_PAGES):
        page = await backend.list_conversations(query)
        for each in page.items:
            if _marked_key(each, with_digest=True) == key:
                found[0].append(each)
            elif _marked_key(each, with_digest=False) == key:
                found[1].append(each)
        # A server that cannot archive keeps no descriptions either (0.16.8).
        without_descriptions = all(each.archived is None and not each.description for each in page.items)
        if not page.more or (not search and without_descriptions):
            break
        query = query.model_copy(update={"after": page.items[-1].id})
    return found


def _marked_key(conversation: Conversation, *, with_digest: bool) -> str:
    for text in (conversation.summary, conversation.description):
        found = _MARK.search(text)
        if not found:
            continue
        key, digest = found.groups()
        if with_digest and digest == _digest(conversation.agent_id, key):
            return key
        if not with_digest and not digest and conversation.created_at < WITHOUT_DIGEST_BEFORE:
            return key
    return ""


def _digest(agent_id: str, key: str) -> str:
    return sha256(f"{agent_id} {key}".encode()).hexdigest()[:8]


def _oldest(conversations: Iterable[Conversation]) -> Conversation:
    return min(conversations, key=lambda each: (each.created_at, len(each.id), each.id))


async def _withdraw(backend: Backend, conversation_id: str) -> None:
    """Delete a conversation that lost the race, unless it is already in use. A failure does no harm."""
    try:
        if not (await backend.get_conversation(conversation_id)).last_message_at:
            await backend.delete_conversation(conversation_id)
    except ConversationError:
        pass
