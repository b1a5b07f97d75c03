"""What list_messages answers: a page of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from letta_conversations_mcp.conversations.history import HistoryPage
from letta_conversations_mcp.conversations.transcript import (
    CUT,
    MESSAGE_CHARS,
    body,
    cut,
    fit,
    minute,
    rest_of_body,
    to_markdown,
)
from letta_conversations_mcp.core.model import ConversationRef, Message, MessageKind, MessageQuery
from letta_conversations_mcp.tools.results.result import NAME_CHARS, Result

ID_CHARS = 60
"""Characters that its id adds."""


class MessageRow(Result):
    kind: MessageKind
    id: str = ""
    at: Annotated[str, Field(description="omitted: same as above")] = ""
    text: str = ""


class MessageList(Result):
    conversation_id: str
    agent_id: str
    agent_name: str = ""
    messages: tuple[MessageRow, ...] = ()
    older: str = ""
    newer: str = ""
    note: str = ""
    transcript: SkipJsonSchema[Annotated[str, Field(exclude=True)]] = ""

    @classmethod
    def of(
        cls,
        ref: ConversationRef,
        query: MessageQuery,
        page: HistoryPage,
        budget: int,
        *,
        skip_chars: int,
        ids: bool,
        agent_name: str = "",
    ) -> MessageList:
        """The page within `budget` characters: every message, long ones cut."""
        bodies = [rest_of_body(each, skip_chars) for each in page.messages]
        shown = fit(bodies, budget, beside=MESSAGE_CHARS + ID_CHARS * ids)
        return cls(
            conversation_id=ref.conversation_id,
            agent_id=ref.agent_id,
            agent_name=cut(agent_name, NAME_CHARS),
            messages=tuple(
                MessageRow(kind=each.kind, id=each.id if ids else "", at=at, text=text)
                for each, text, at in zip(page.messages, shown, _times(page.messages), strict=True)
            ),
            older=page.older,
            newer=page.newer,
            note=_note(query, page, bodies, shown),
            transcript=to_markdown(page.messages, shown, with_ids=ids),
        )

    def to_text(self) -> str:
        cursors = [
            f"Older: before={self.older!r}." if self.older else "",
            f"Newer: after={self.newer!r}." if self.newer else "",
        ]
        parts = [
            f"[{self.conversation_id} · {self.agent_id}{f' {self.agent_name!r}' if self.agent_name else ''}]",
            self.note,
            " ".join(filter(None, cursors)),
        ]
        return "\n\n".join(filter(None, ["\n".join(filter(None, parts)), self.transcript]))


def _times(messages: Sequence[Message]) -> Iterator[str]:
    """The time of each message; "" for the same minute as the one before it."""
    before = ""
    for message in messages:
        at = minute(message.at)
        yield "" if at == before else at or "unknown"
        before = at


def _note(query: MessageQuery, page: HistoryPage, bodies: Sequence[str], shown: Sequence[str]) -> str:
    """Why the page is empty, or how to read on in what was cut."""
    if not page.messages:
        if page.older if query.order == "desc" else page.newer:
            return "None of the messages looked at is of these kinds; the cursor leads on."
        direction = "older " if query.before else "newer " if query.after else ""
        return f"No {direction}messages."
    cut_ones = [index for index, text in enumerate(shown) if text != bodies[index]]
    if not cut_ones:
        return ""
    first = cut_ones[0]
    following = page.messages[first + 1].id if first + 1 < len(page.messages) else ""
    at = f"before={following!r}, " if following else ""
    unread = len(bodies[first]) - (len(shown[first]) - len(CUT))
    far = len(body(page.messages[first])) - unread
    return (
        f"Cut to fit: {len(cut_ones)} of these messages. "
        f"To read on in the first of them: the same call with {at}limit=1, skip_chars={far}."
    )
