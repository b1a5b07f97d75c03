"""Reading a whole conversation, however long: oldest first, page by page, every message once.

Messages come as the server lists them: a tool's call and its result are two, and what the server stores as one
(thinking and answer of one step) are several with the same id.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.model import ConversationRef, Message, MessageQuery

PAGE = 100
"""Messages asked for at a time."""

OVERLAP = 25
"""How far each page reaches back into the one before. A fork that was compacted has several messages at the same
place of its list, and a cursor passes over all that share its place (seen on 0.16.8: 3 of 34 were missing)."""


async def read_whole(backend: Backend, ref: ConversationRef, *, after: str = "") -> AsyncGenerator[tuple[Message, ...]]:
    """The messages from the beginning, or those later than the message `after`, some at a time.

    What is appended meanwhile comes too, when it is there before the last page is read.

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
