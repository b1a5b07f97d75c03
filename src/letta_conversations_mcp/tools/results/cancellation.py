"""What cancel answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from letta_conversations_mcp.core.message_json import read_message
from letta_conversations_mcp.core.model import Chunk, ConversationRef
from letta_conversations_mcp.tools.results.result import Result


class Cancellation(Result):
    status: Literal["cancelled", "idle"]
    conversation_id: str
    agent_id: str
    run_ids: tuple[str, ...] = ()
    withdrawn: int = 0
    kept: str = ""
    note: str = ""
    next: str = ""

    @classmethod
    def of(
        cls,
        ref: ConversationRef,
        stopped: Sequence[str],
        chunks: Sequence[Chunk],
        *,
        withdrawn: int,
        waits: bool,
        is_partial: bool,
    ) -> Cancellation:
        """`stopped` are the ids of the runs that were stopped, `chunks` what Letta has of them. `waits`: a tool call
        waits for a decision, which is why nothing could be stopped. `is_partial`: messages that wait in other processes
        were not reached."""
        return cls(
            status="cancelled" if stopped or withdrawn else "idle",
            conversation_id=ref.conversation_id,
            agent_id=ref.agent_id,
            run_ids=tuple(stopped),
            withdrawn=withdrawn,
            kept=_kept(chunks, stopped),
            note="Messages that other processes of this server hold in their queues were not reached."
            if is_partial
            else "",
            next=f"A tool call waits for a decision: respond_to_approval({ref.in_call}, approve=false) denies it, and "
            "the agent goes on without it."
            if waits
            else "",
        )

    def to_text(self) -> str:
        head = [self.status, self.conversation_id, self.agent_id, *self.run_ids]
        what = "The running turn was stopped." if self.run_ids else "Nothing is running here, so nothing was stopped."
        taken_back = f"Taken back before they were handed over: {self.withdrawn} message(s)." if self.withdrawn else ""
        parts = [f"[{' · '.join(head)}]", " ".join(filter(None, [what, taken_back])), self.kept, self.note, self.next]
        return "\n\n".join(filter(None, parts))


def _kept(chunks: Sequence[Chunk], stopped: Sequence[str]) -> str:
    """Which part of the stopped turn is in the history, in a sentence."""
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
