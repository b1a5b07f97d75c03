"""What describe answers."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pydantic_core import to_json

from letta_conversations_mcp.conversations.describe import Description
from letta_conversations_mcp.conversations.transcript import RESERVED_CHARS, cut, length, minute
from letta_conversations_mcp.core.model import ToolCall
from letta_conversations_mcp.core.untrusted import entry, quoted
from letta_conversations_mcp.tools.results.result import Result


class PendingCall(Result):
    tool_call_id: str = ""
    tool: str = ""
    arguments: str = ""

    @classmethod
    def of(cls, call: ToolCall, size: int) -> PendingCall:
        return cls(tool_call_id=call.id, tool=call.name, arguments=cut(call.arguments, size, as_entry=True))

    def to_text(self) -> str:
        return f"{self.tool}({self.arguments}) · {self.tool_call_id}"


def _next_step(facts: Description) -> str:
    here = facts.ref.in_call
    if facts.approvals:
        return f"Ask your user, then call respond_to_approval({here}, approve=true|false)."
    return f"wait_for_reply({here}) gives its reply." if facts.run else f"list_messages({here}) reads it."


NEWEST_IDS = 10
"""Ids of the newest messages in context that the answer lists, for fork; the conversation's resource lists more."""


class Described(Result):
    conversation_id: str
    agent_id: str
    agent_name: str = ""
    summary: str = ""
    description: str = ""
    model: str = ""
    model_is_own: bool = False
    model_settings: dict[str, Any] = Field(default_factory=dict)
    archived: bool = False
    hidden: bool = False
    created_at: str = ""
    created_by: str = ""
    changed_at: str = ""
    changed_by: str = ""
    last_message_at: str = ""
    context_tokens: int | None = None
    context_limit: int | None = None
    messages_in_context: int | None = None
    newest_in_context: tuple[str, ...] = ()
    messages: int | None = None
    by_kind: dict[str, int] = Field(default_factory=dict)
    at_least: bool = False
    isolated_blocks: tuple[str, ...] = ()
    isolated_block_ids: tuple[str, ...] = ()
    memory_as_of: str = ""
    run_id: str = ""
    approvals: tuple[PendingCall, ...] = ()
    unknown: tuple[str, ...] = ()
    note: str = ""
    next: str = ""

    @classmethod
    def of(cls, facts: Description, budget: int) -> Described:
        """The description within `budget` characters."""
        room = budget - RESERVED_CHARS
        own = facts.conversation
        in_context = facts.context_ids
        settings = own.model_settings if own else {}
        fits = length(to_json(settings).decode()) <= room // 8
        return cls(
            conversation_id=facts.ref.conversation_id,
            agent_id=facts.ref.agent_id,
            agent_name=facts.agent.name if facts.agent else "",
            summary=cut(own.summary, room // 8) if own else "",
            description=cut(own.description, room // 8) if own else "",
            model=facts.model,
            model_is_own=bool(own and own.model),
            model_settings=settings if fits else {},
            archived=bool(own and own.archived),
            hidden=bool(own and own.hidden),
            created_at=minute(own.created_at) if own else "",
            created_by=own.created_by if own else "",
            changed_at=minute(own.changed_at) if own else "",
            changed_by=own.changed_by if own else "",
            last_message_at=minute(own.last_message_at) if own else "",
            context_tokens=facts.context.tokens if facts.context else None,
            context_limit=facts.context_limit,
            messages_in_context=None if in_context is None else len(in_context),
            newest_in_context=(in_context or ())[-NEWEST_IDS:],
            messages=facts.messages,
            by_kind=facts.by_kind,
            at_least=facts.more_messages,
            isolated_blocks=tuple(block.label for block in facts.isolated),
            isolated_block_ids=own.isolated_block_ids if own else (),
            memory_as_of=minute(facts.memory_as_of),
            run_id=facts.run.id if facts.run else "",
            approvals=tuple(PendingCall.of(call, room // 4 // len(facts.approvals)) for call in facts.approvals),
            unknown=tuple(facts.unknown),
            note="" if fits else "Its model settings are too long for this answer; its resource has them.",
            next=_next_step(facts),
        )

    def to_text(self) -> str:
        name = f" ({self.summary!r})" if self.summary else ""
        agent = f"agent {self.agent_name!r} ({self.agent_id})" if self.agent_name else self.agent_id
        marks = [mark for mark, on in (("archived", self.archived), ("hidden", self.hidden)) if on]
        settings = f", settings {to_json(self.model_settings).decode()}" if self.model_settings else ""
        waiting = "\n".join(entry(call.to_text()) for call in self.approvals)
        whose = "its own" if self.model_is_own else "the agent's"
        lines = [
            f"{self.conversation_id}{name} of {agent}" + "".join(f" · {mark}" for mark in marks),
            f"Model: {self.model} ({whose}){settings}" if self.model else "",
            self._times(),
            self._context(),
            f"Newest in context: {', '.join(self.newest_in_context)}" if self.newest_in_context else "",
            self._blocks(),
            self._memory(),
            f"A turn is running: {self.run_id}" if self.run_id else "",
            f"Could not be asked: {', '.join(self.unknown)}." if self.unknown else "",
            self.note,
            self.next,
            f"Waits for a decision:\n{quoted(waiting)}" if waiting else "",
            f"Description:\n{quoted(self.description)}" if self.description else "",
        ]
        return "\n".join(filter(None, lines))

    def _times(self) -> str:
        def event(what: str, at: str, by: str) -> str:
            return f"{what} {at}{f' by {by}' if by else ''}" if at else ""

        created = event("Created", self.created_at, self.created_by)
        changed = event("changed", self.changed_at, self.changed_by)
        return ", ".join(filter(None, [created, changed, event("last message", self.last_message_at, "")]))

    def _blocks(self) -> str:
        if not self.isolated_block_ids:
            return ""
        labels = (*map(repr, self.isolated_blocks), *[""] * len(self.isolated_block_ids))
        blocks = (f"{label} {each}".strip() for label, each in zip(labels, self.isolated_block_ids, strict=False))
        return f"Isolated blocks: {', '.join(blocks)}"

    def _memory(self) -> str:
        if not self.memory_as_of:
            return ""
        # Where blocks are isolated a server may put the agent's in their place (0.16.8), and then it is refused.
        refresh = "" if self.isolated_block_ids else "; recompile refreshes it"
        return f"Its copy of the memory is of {self.memory_as_of}{refresh}."

    def _context(self) -> str:
        used = "" if self.context_tokens is None else f"{self.context_tokens} tokens after the last turn"
        limit = f"at most {self.context_limit} tokens" if self.context_limit else ""
        count = "" if self.messages_in_context is None else f"{self.messages_in_context} messages"
        total = "" if self.messages is None else f"{'at least ' if self.at_least else ''}{self.messages} in all"
        if total and self.by_kind:
            total += f" ({', '.join(f'{count} {kind}' for kind, count in self.by_kind.items())})"
        context = ", ".join(filter(None, [count, used, limit]))
        return "; ".join(
            filter(None, [f"Context: {context}" if context else "", f"messages: {total}" if total else ""])
        )
