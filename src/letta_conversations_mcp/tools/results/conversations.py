"""What the tools answer that open, list, change, fork, compact and delete conversations."""

from __future__ import annotations

from letta_conversations_mcp.conversations.transcript import (
    cut,
    minute,
)
from letta_conversations_mcp.core.model import (
    Conversation,
    Deletion,
)
from letta_conversations_mcp.tools.results.result import SUMMARY_CHARS, Result

NAME_CHARS = 80
"""Of an agent's name beside its id."""


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

    def to_text(self) -> str:
        return "\n".join(
            filter(None, [self.listed, *(row.to_text() for row in self.conversations), self.note, self.next])
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


class Compacted(Result):
    conversation_id: str
    messages_before: int
    messages_after: int
    summary: str = ""
    older_listed: bool = True
    note: str = ""

    def to_text(self) -> str:
        older = "stay readable with list_messages" if self.older_listed else "are no longer listed by this backend"
        first = (
            f"Compacted {self.conversation_id}: {self.messages_before} messages in context before, "
            f"{self.messages_after} after. The older ones {older}."
        )
        return "\n".join(
            filter(None, [first, f"Summary that replaces them: {self.summary}" if self.summary else "", self.note])
        )


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


class Recompiled(Result):
    conversation_id: str
    dry_run: bool = False
    changes: str = ""
    prompt: str = ""
    note: str = ""

    def to_text(self) -> str:
        place = f"the copy of the memory in {self.conversation_id}"
        if self.prompt:
            done = f"{'This would be' if self.dry_run else 'Refreshed'} {place}. It is not known what it was before."
        elif self.changes:
            done = f"{'Recompiling would change' if self.dry_run else 'Refreshed'} {place} (- before, + now):"
        else:
            done = (
                f"{'There is nothing to refresh' if self.dry_run else 'Nothing is different'}: {place} was up to date."
            )
        return "\n".join(filter(None, [done, self.changes, self.prompt, self.note]))
