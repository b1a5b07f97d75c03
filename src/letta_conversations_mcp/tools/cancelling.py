"""The tool that stops a turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from letta_conversations_mcp.conversations.lookup import check_run_id, locate
from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.core.message_json import read_message
from letta_conversations_mcp.core.model import Chunk, ConversationRef
from letta_conversations_mcp.tools.replies import place_of
from letta_conversations_mcp.tools.tool import (
    ConversationArgument,
    DefaultAgentArgument,
    Result,
    ToolContext,
    ToolSpec,
    services_of,
)

SETTLE_SECONDS = 2.0
"""For the end of a turn that was stopped: until then it is not sure what of it stays in the history."""


class Cancellation(Result):
    status: Literal["cancelled", "idle"]
    conversation_id: str
    agent_id: str
    run_ids: tuple[str, ...] = ()
    withdrawn: int = 0
    kept: str = ""
    next: str = ""

    def to_text(self) -> str:
        head = [self.status, self.conversation_id, self.agent_id, *self.run_ids]
        what = "The running turn was stopped." if self.run_ids else "Nothing is running here, so nothing was stopped."
        taken_back = f"Taken back before they were handed over: {self.withdrawn} message(s)." if self.withdrawn else ""
        parts = [f"[{' · '.join(head)}]", " ".join(filter(None, [what, taken_back])), self.kept, self.next]
        return "\n\n".join(filter(None, parts))


async def cancel(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    run_id: Annotated[str, Field(description="only this run; left out: whatever runs")] = "",
) -> Cancellation:
    """Stop the running turn of one conversation, and take back messages queued behind it. Says what stays in the
    history; what the agent did is not undone."""
    services = services_of(ctx)
    wanted = check_run_id(run_id)
    ref = await locate(services.backend, conversation_id, agent)
    # First, or the next of them would begin as soon as the turn before it ends.
    withdrawn = 0 if wanted else services.sender.withdraw_queued(ref)
    try:
        stopped = tuple(await services.backend.cancel(ref, wanted))
    except ConversationError as error:
        if withdrawn:
            error.add(f"Taken back before they were handed over: {withdrawn} message(s).")
        raise
    await services.sender.tell_stopped(ref, stopped, SETTLE_SECONDS)
    pending = () if stopped else await services.backend.list_approvals(ref)
    return Cancellation(
        status="cancelled" if stopped or withdrawn else "idle",
        conversation_id=ref.conversation_id,
        agent_id=ref.agent_id,
        run_ids=stopped,
        withdrawn=withdrawn,
        kept=_kept([chunk for run in stopped for chunk in await services.backend.list_run_chunks(ref, run)], stopped),
        next=_next_step(ref, waits=bool(pending)),
    )


def _kept(chunks: Sequence[Chunk], stopped: Sequence[str]) -> str:
    """What of the stopped turn is in the history."""
    if not stopped:
        return ""
    messages = [read_message(chunk) for chunk in chunks if chunk.get("message_type") != "usage_statistics"]
    if not messages:
        return (
            "Nothing of it is in the history yet. When the model's call that was running has ended, Letta may keep the "
            "message and what the model said."
        )
    calls = {call.id for each in messages for call in each.calls}
    said = sum(each.kind == "assistant" for each in messages)
    parts = [
        "the message" if any(each.kind == "user" for each in messages) else "",
        f"{len(calls)} tool call(s)" if calls else "",
        f"{said} piece(s) of the reply" if said else "",
    ]
    return f"In the history: {', '.join(filter(None, parts)) or 'a part of it'}."


def _next_step(ref: ConversationRef, *, waits: bool) -> str:
    if not waits:
        return ""
    return (
        f"A tool call waits for a decision: respond_to_approval({place_of(ref)}, approve=false) denies it, and the "
        "agent goes on without it."
    )


CANCEL_TOOLS = (ToolSpec(cancel, title="Stop a turn", destructive=True, idempotent=True),)
