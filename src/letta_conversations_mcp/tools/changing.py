"""The tools that change a conversation itself: what it is called and answered by, and its copy of the memory."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from letta_conversations_mcp.conversations import memory
from letta_conversations_mcp.conversations import update as changing
from letta_conversations_mcp.conversations.lookup import check_conversation_id, locate
from letta_conversations_mcp.conversations.transcript import cut
from letta_conversations_mcp.core.model import ConversationChanges
from letta_conversations_mcp.tools.tool import (
    RESERVED_CHARS,
    SUMMARY_CHARS,
    ConversationArgument,
    DefaultAgentArgument,
    Result,
    ToolContext,
    ToolSpec,
    services_of,
)


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


async def update(
    ctx: ToolContext,
    conversation_id: Annotated[str, Field(description="conv-… id")],
    summary: Annotated[str | None, Field(description="new name; '' clears it", max_length=10_000)] = None,
    description: Annotated[str | None, Field(description="'' clears it", max_length=50_000)] = None,
    archived: Annotated[Literal["yes", "no"] | None, Field(description="yes archives, no restores")] = None,
    model: Annotated[str | None, Field(description="provider/model; '': the agent's")] = None,
    model_settings: Annotated[dict[str, Any], Field(description="as in create_conversation")] = {},
    context_window_limit: Annotated[int | None, Field(ge=1, le=10_000_000, description="tokens")] = None,
) -> Updated:
    """Rename, describe, archive or restore a conversation, or change its model or context window. Only what is given
    changes; says what the server ignored."""
    backend = services_of(ctx).backend
    changes = ConversationChanges(
        summary=summary,
        description=description,
        archived=None if archived is None else archived == "yes",
        model=None if model is None else model.strip(),
        model_settings=model_settings or None,
        context_window_limit=context_window_limit,
    )
    done = await changing.update(backend, check_conversation_id(conversation_id), changes)
    now = done.conversation
    return Updated(
        conversation_id=now.id,
        changed=done.changed,
        ignored=done.ignored,
        summary=cut(now.summary, SUMMARY_CHARS),
        archived=now.archived,
        model=now.model,
    )


async def recompile(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    dry_run: Annotated[bool, Field(description="only tell what would change")] = False,
) -> Recompiled:
    """Refresh a conversation's copy of the agent's memory, which is of when it was opened: for an agent that does not
    know in an old conversation what it learned since. Returns what changed."""
    services = services_of(ctx)
    ref = await locate(services.backend, conversation_id, agent)
    done = await memory.recompile(services.backend, ref, dry_run=dry_run)
    room = services.settings.max_output_chars - RESERVED_CHARS
    told = done.prompt.strip() if done.changes is None else done.changes
    shown = cut(told, room // 2)
    notes = [
        "Cut to fit." if shown != told else "",
        f"It holds the agent's own value of {', '.join(done.shared)}, not this conversation's isolated one: a fault of "
        "this Letta server."
        if done.shared
        else "",
    ]
    return Recompiled(
        conversation_id=ref.conversation_id,
        dry_run=dry_run,
        changes="" if done.changes is None else shown,
        prompt=shown if done.changes is None else "",
        note=" ".join(filter(None, notes)),
    )


CHANGING_TOOLS = (
    ToolSpec(update, title="Change a conversation", idempotent=True),
    ToolSpec(recompile, title="Refresh a conversation's memory", idempotent=True),
)
