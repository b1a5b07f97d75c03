"""Reading a conversation back: one page of the wanted kinds of messages, with cursors in both directions, or all of it.

The server's limit counts stored messages of all kinds, so a page of the wanted kinds can take several requests, up to
MOST_REQUESTS.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.model import ConversationRef, Message, MessageKind, MessageQuery, ToolCall

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


async def read_history(
    backend: Backend, ref: ConversationRef, query: MessageQuery, kinds: Collection[MessageKind] = DEFAULT_KINDS
) -> HistoryPage:
    """One page of a conversation. Raises what the backend's list_messages raises."""
    asked = query
    stretch: list[Message] = []
    wanted = 0
    more = True
    for _ in range(MOST_REQUESTS):
        page = await backend.list_messages(ref, query)
        more = page.more
        if not page.items:
            break
        wanted += len({each.id for each in page.items if each.kind in kinds})
        stretch = [*page.items, *stretch] if query.order == "desc" else [*stretch, *page.items]
        if not more or (wanted >= asked.limit and not _splits_a_call(stretch, query)):
            break
        cursor = {"before": stretch[0].id} if query.order == "desc" else {"after": stretch[-1].id}
        query = query.model_copy(update={**cursor, "limit": max(asked.limit - wanted, 1)})
    first, last = (stretch[0].id, stretch[-1].id) if stretch else ("", "")
    beyond_older = more if asked.order == "desc" else bool(asked.after)
    beyond_newer = more if asked.order == "asc" else bool(asked.before)
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
