"""Reading a conversation back: one page of the wanted kinds of messages, with cursors in both directions, or all of it.

The server's limit counts stored messages of all kinds, so a page of the wanted kinds can take several requests, up to
MOST_REQUESTS.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass

from letta_conversations_mcp.conversations.lookup import check_conversation_id, locate
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.model import (
    DEFAULT_CONVERSATION,
    ConversationRef,
    Message,
    MessageKind,
    MessageQuery,
    Page,
    ToolCall,
)

DEFAULT_KINDS: frozenset[MessageKind] = frozenset({"user", "assistant", "tool", "approval", "summary", "other"})
"""The kinds shown by default: not the reasoning, and not the system prompt, which is long and always the same."""

MOST_REQUESTS = 6
"""Requests for one page. A page of rare kinds may then hold fewer messages than asked for; its cursors continue."""

PAGE = 100
"""Messages per request."""

OVERLAP = 25
"""How many messages each page overlaps the one before. In a fork that was compacted several messages share a position,
and a cursor skips all that share its position (seen on 0.16.8: 3 of 34 were missing)."""


@dataclass(frozen=True)
class HistoryPage:
    """Messages, oldest first. `older` and `newer` are the cursors to the messages before and after, "" at an end."""

    messages: tuple[Message, ...]
    older: str = ""
    newer: str = ""


async def find_history(
    backend: Backend,
    conversation_id: str,
    agent: str,
    query: MessageQuery,
    kinds: Collection[MessageKind] = DEFAULT_KINDS,
) -> tuple[ConversationRef, HistoryPage]:
    """The conversation that a call names, and one page of it. Raises what `locate` and `read_history` raise."""
    if agent.strip() or conversation_id.strip() == DEFAULT_CONVERSATION:
        ref = await locate(backend, conversation_id, agent)
        return ref, await read_history(backend, ref, query, kinds)
    checked = check_conversation_id(conversation_id)
    owner, page = await backend.list_with_owner(checked, query)
    ref = ConversationRef(conversation_id=checked, agent_id=owner)
    return ref, await _filled(backend, ref, query, kinds, page)


async def read_history(
    backend: Backend, ref: ConversationRef, query: MessageQuery, kinds: Collection[MessageKind] = DEFAULT_KINDS
) -> HistoryPage:
    """One page of a conversation. Raises what the backend's list_messages raises."""
    return await _filled(backend, ref, query, kinds, await backend.list_messages(ref, query))


async def _filled(
    backend: Backend, ref: ConversationRef, query: MessageQuery, kinds: Collection[MessageKind], page: Page[Message]
) -> HistoryPage:
    """The page of these kinds, of which `page`, the answer to `query`, is the beginning."""
    asked = query
    stretch: list[Message] = []
    wanted = 0
    for requests in range(1, MOST_REQUESTS + 1):
        if not page.items:
            break
        wanted += len({each.id for each in page.items if each.kind in kinds})
        stretch = [*page.items, *stretch] if query.order == "desc" else [*stretch, *page.items]
        is_full = wanted >= asked.limit and not _splits_a_call(stretch, query)
        if not page.more or is_full or requests == MOST_REQUESTS:
            break
        cursor = {"before": stretch[0].id} if query.order == "desc" else {"after": stretch[-1].id}
        query = query.model_copy(update={**cursor, "limit": max(asked.limit - wanted, 1)})
        page = await backend.list_messages(ref, query)
    first, last = (stretch[0].id, stretch[-1].id) if stretch else ("", "")
    beyond_older = page.more if asked.order == "desc" else bool(asked.after)
    beyond_newer = page.more if asked.order == "asc" else bool(asked.before)
    return HistoryPage(
        messages=tuple(_with_results([each for each in stretch if each.kind in kinds])),
        older=first if beyond_older else "",
        newer=last if beyond_newer else "",
    )


async def read_whole(backend: Backend, ref: ConversationRef, *, after: str = "") -> AsyncGenerator[tuple[Message, ...]]:
    """All messages, oldest first, or all after the message `after`: page by page, every message once.

    Messages appended while this runs are included if they are there before the last page is read. Messages come as the
    server lists them: a tool's call and its result are two, and what the server stores as one (reasoning and answer of
    one step) are several with the same id.

    Raises:
        NotFound: there is no such conversation, or no message `after` in it.
    """
    before: set[str] = {after}
    while True:
        page = await backend.list_messages(ref, MessageQuery(order="asc", limit=PAGE, after=after))
        fresh = tuple(each for each in page.items if each.id not in before)
        if fresh:
            yield fresh
        if not page.more or not fresh:
            return
        ids = list(dict.fromkeys(each.id for each in page.items))
        before = set(ids)
        after = ids[-OVERLAP] if len(ids) > OVERLAP else ids[-1]


def _splits_a_call(stretch: Sequence[Message], query: MessageQuery) -> bool:
    """True if the page would end between a tool's call and its result."""
    if query.order == "desc":
        return stretch[0].type == "tool_return_message"
    return stretch[-1].type in ("tool_call_message", "approval_request_message")


def _with_results(messages: Sequence[Message]) -> list[Message]:
    """The messages with every tool result attached to its call. A result whose call is on another page stays by
    itself."""
    results = {call.id: call for each in messages for call in each.calls if call.status != "pending" and call.id}
    called = {call.id for each in messages for call in each.calls if call.status == "pending" and call.id}
    merged: list[Message] = []
    for each in messages:
        if not each.calls:
            merged.append(each)
        elif each.calls[0].status == "pending":
            merged.append(each.model_copy(update={"calls": tuple(_answered(call, results) for call in each.calls)}))
        elif rest := tuple(call for call in each.calls if call.id not in called):
            merged.append(each.model_copy(update={"calls": rest}))
    return merged


def _answered(call: ToolCall, results: dict[str, ToolCall]) -> ToolCall:
    result = results.get(call.id)
    return call.model_copy(update={"status": result.status, "result": result.result}) if result else call
