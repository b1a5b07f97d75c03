"""What the tools that create, list, update, fork and delete conversations answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from letta_conversations_mcp.conversations.transcript import RESERVED_CHARS, cut, length, minute
from letta_conversations_mcp.core.model import Agent, Conversation, ConversationQuery, Deletion, Order, OrderBy, Page
from letta_conversations_mcp.tools.results.result import NAME_CHARS, SUMMARY_CHARS, Result

ORDERS: dict[OrderBy, str] = {
    "created_at": "opened",
    "last_message_at": "last message",
    "last_run_completion": "last finished turn",
}
ENDS: dict[Order, str] = {"desc": "latest", "asc": "earliest"}


class ConversationRow(Result):
    id: str
    summary: str = ""
    agent_id: str = ""
    agent_name: str = ""
    model: str = ""
    last_message_at: str = ""
    created_at: str = ""
    archived: bool = False

    @classmethod
    def of(cls, conversation: Conversation, *, with_agent: bool, agent_name: str = "") -> ConversationRow:
        return cls(
            id=conversation.id,
            summary=cut(conversation.summary, SUMMARY_CHARS),
            agent_id=conversation.agent_id if with_agent else "",
            agent_name=cut(agent_name, NAME_CHARS),
            model=conversation.model,
            last_message_at=minute(conversation.last_message_at),
            created_at="" if conversation.last_message_at else minute(conversation.created_at),
            archived=bool(conversation.archived),
        )

    def to_text(self) -> str:
        when = (
            f"last message {self.last_message_at}" if self.last_message_at else f"no message, created {self.created_at}"
        )
        parts = [
            self.id,
            repr(self.summary) if self.summary else "(no summary)",
            " ".join(filter(None, [self.agent_id, repr(self.agent_name) if self.agent_name else ""])),
            self.model,
            when,
            "archived" if self.archived else "",
        ]
        return " · ".join(filter(None, parts))


class ConversationList(Result):
    listed: str = ""
    conversations: tuple[ConversationRow, ...] = ()
    note: str = ""
    next: str = ""

    @classmethod
    def of(
        cls,
        page: Page[Conversation],
        query: ConversationQuery,
        owner: Agent | None,
        names: Mapping[str, str],
        budget: int,
        counted: tuple[int, bool],
    ) -> ConversationList:
        """As many rows of the page as fit into `budget` characters. `owner` is the agent whose conversations they are;
        without one, the rows name their agents, by `names`. `counted` is how many the list has, and whether it has
        more."""
        items, by_message = page.items, query.order_by == "last_message_at"
        # Conversations without a message come last here; one as a cursor would start the list again (seen on 0.16.8).
        shown = tuple(each for each in items if each.last_message_at) if by_message else items
        left_out = len(shown) < len(items)
        note = _note(query, items, left_out=left_out)
        if not shown:
            return cls(note=note, next="" if left_out else _next_if_empty(query))
        rows = [
            ConversationRow.of(each, with_agent=owner is None, agent_name=names.get(each.agent_id, ""))
            for each in shown
        ]
        room = budget - RESERVED_CHARS
        while len(rows) > 1 and sum(length(row.model_dump_json(exclude_defaults=True)) for row in rows) > room:
            rows.pop()
        more = (page.more and not left_out) or len(rows) < len(shown)
        if more and query.order_by != "created_at" and not rows[-1].last_message_at:
            more, note = False, "The rest has never had a message; order_by='created_at' lists all."
        total, uncounted = counted
        # A full page may be the last: a server does not say so.
        more = more and (uncounted or bool(query.after) or len(rows) < total)
        count = f"{len(rows)}" if len(rows) == total else f"{len(rows)} of {total}{' or more' if uncounted else ''}"
        whose = f" of agent {cut(owner.name, NAME_CHARS)!r} ({owner.id})" if owner else " of all agents"
        end = ", more follow" if more else ", no more" if query.after or page.more is False else ""
        return cls(
            listed=f"{count} conversation{'' if total == 1 else 's'}{whose}, {ORDERS[query.order_by]} "
            f"{ENDS[query.order]} first{end}.",
            conversations=tuple(rows),
            note=note,
            next=f"More: the same call with after={rows[-1].id!r}." if more else "",
        )

    def to_text(self) -> str:
        return "\n".join(
            filter(None, [self.listed, self.note, self.next, *(row.to_text() for row in self.conversations)])
        )


def _note(query: ConversationQuery, items: Sequence[Conversation], *, left_out: bool) -> str:
    """What the reader should know of a page of conversations."""
    notes: list[str] = []
    if query.archived == "only" and items and all(each.archived is None for each in items):
        notes.append("This Letta server does not archive conversations; all are listed.")
    if left_out:
        notes.append("Conversations without a message are left out; order_by='created_at' has them.")
    return " ".join(notes)


def _next_if_empty(query: ConversationQuery) -> str:
    scope = " of this agent" if query.agent_id else ""
    match = " match" if query.search and not query.after else ""
    return (
        f"No {'more ' if query.after else ''}conversations{scope}{match}. "
        "create_conversation or send_message(agent=…) opens one."
    )


class Created(Result):
    conversation_id: str
    agent_id: str
    agent_name: str = ""
    summary: str = ""
    reused: bool = False
    isolated_block_ids: tuple[str, ...] = ()
    note: str = ""
    next: str = ""

    def to_text(self) -> str:
        named = f" ({self.summary!r})" if self.summary else ""
        whose = f"of agent {self.agent_name!r} ({self.agent_id})"
        first = f"{'Found' if self.reused else 'Created'} conversation {self.conversation_id}{named} {whose}."
        blocks = f"Isolated blocks: {', '.join(self.isolated_block_ids)}." if self.isolated_block_ids else ""
        return "\n".join(filter(None, [first, blocks, self.note, self.next]))


class Deleted(Result):
    conversation_id: str
    outcome: Deletion
    summary: str = ""
    note: str = ""

    def to_text(self) -> str:
        named = f" ({self.summary!r})" if self.summary else ""
        if self.outcome == "hidden":
            return (
                f"Hid conversation {self.conversation_id}{named}: this backend cannot delete. It is no longer listed; "
                "its messages stay on the disk, and its id still works."
            )
        return " ".join(filter(None, [f"Deleted conversation {self.conversation_id}{named}.", self.note]))


class Forked(Result):
    conversation_id: str
    agent_id: str
    source: str
    summary: str = ""
    shared_messages: int | None = None
    note: str = ""
    next: str = ""

    def to_text(self) -> str:
        named = f" ({self.summary!r})" if self.summary else ""
        shared = {None: "the messages", 0: "no messages", 1: "the one message"}.get(
            self.shared_messages, f"the {self.shared_messages} messages"
        )
        first = (
            f"Forked {self.source}: the branch is {self.conversation_id}{named} of {self.agent_id}. It begins with "
            f"{shared} in context; what is said from now on stays in each, and the agent's memory is shared."
        )
        return "\n".join(filter(None, [first, self.note, self.next]))


class Updated(Result):
    conversation_id: str
    changed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    summary: str = ""
    archived: bool | None = None
    model: str = ""

    def to_text(self) -> str:
        now = [
            repr(self.summary) if self.summary else "no summary",
            {True: "archived", False: "not archived", None: ""}[self.archived],
            f"model {self.model}" if self.model else "",
        ]
        lost = f" This Letta server ignored: {', '.join(self.ignored)}." if self.ignored else ""
        done = f"Updated {self.conversation_id}: {', '.join(self.changed)}."
        return f"{done} It is now: {', '.join(filter(None, now))}.{lost}"
