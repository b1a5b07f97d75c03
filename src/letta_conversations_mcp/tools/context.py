"""The tools that are about the context of a conversation: compacting it, and refreshing its copy of the memory."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from letta_conversations_mcp.conversations import compaction, memory
from letta_conversations_mcp.conversations.lookup import locate
from letta_conversations_mcp.conversations.transcript import RESERVED_CHARS, cut
from letta_conversations_mcp.core.model import CompactionMode, CompactionSettings
from letta_conversations_mcp.tools.base import (
    ConversationArgument,
    DefaultAgentArgument,
    ToolContext,
    ToolSpec,
    services_of,
)
from letta_conversations_mcp.tools.progress import heartbeat
from letta_conversations_mcp.tools.results.context import Compacted, Recompiled

KEPT_LESS = 3
"""Messages by which a server may miss `keep_percent` without a word: it cuts only before an answer of the agent."""


async def compact(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    mode: Annotated[
        CompactionMode | None, Field(description="replace all or the oldest; self_…: by the agent itself")
    ] = None,
    keep_percent: Annotated[int | None, Field(ge=5, le=95, description="messages to keep, in sliding modes")] = None,
    model: Annotated[str, Field(description="provider/model that writes it")] = "",
    prompt: Annotated[str, Field(description="instructions for the summary", max_length=50_000)] = "",
    clip_chars: Annotated[int | None, Field(ge=1, description="longest summary")] = None,
) -> Compacted:
    """Replace the older messages in a Letta conversation's context by a summary, to make room. Cannot be undone: the
    agent loses the details."""
    services = services_of(ctx)
    ref = await locate(services.backend, conversation_id, agent)
    wanted = CompactionSettings(
        mode=mode, model=model.strip(), prompt=prompt, clip_chars=clip_chars, keep_percent=keep_percent
    )
    async with heartbeat(ctx, "writing the summary"):
        done = await compaction.compact(services.backend, ref, wanted)
    room = services.settings.max_output_chars - RESERVED_CHARS
    summary = cut(done.summary, room)
    notes = ["The summary is longer; list_messages(kinds=['summary']) shows it."] if summary != done.summary else []
    if keep_percent and done.after < done.before * keep_percent / 100 - KEPT_LESS:
        notes.append("The server kept less than was asked for: it replaces more when the context stays too full.")
    return Compacted(
        conversation_id=ref.conversation_id,
        messages_before=done.before,
        messages_after=done.after,
        summary=summary,
        older_listed=done.older_listed,
        note=" ".join(notes),
    )


async def recompile(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    dry_run: Annotated[bool, Field(description="only tell")] = False,
) -> Recompiled:
    """Refresh a Letta conversation's copy of its agent's memory, for an agent that does not know there what it learned
    since. Returns what changed."""
    services = services_of(ctx)
    ref = await locate(services.backend, conversation_id, agent)
    done = await memory.recompile(services.backend, ref, dry_run=dry_run)
    room = services.settings.max_output_chars - RESERVED_CHARS
    text = done.prompt.strip() if done.changes is None else done.changes
    shown = cut(text, room // 2)
    return Recompiled(
        conversation_id=ref.conversation_id,
        dry_run=dry_run,
        changes="" if done.changes is None else shown,
        prompt=shown if done.changes is None else "",
        note="Cut to fit." if shown != text else "",
    )


CONTEXT_TOOLS = (
    ToolSpec(compact, title="Compact a Letta conversation", destructive=True),
    ToolSpec(recompile, title="Refresh a Letta conversation's memory", idempotent=True),
)
