"""Tool calls that wait for a person's decision: which they are, and what one answer decides about them.

Pure. A decision is never made up: what nobody approved is denied, or not decided at all.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

from letta_conversations_mcp.core.errors import InvalidArgument, NothingPending, quote
from letta_conversations_mcp.core.model import Approvals, Chunk, Decision, Message, ToolCall

NOT_NAMED = "It was not among the calls that were approved."
"""The reason of a denial that follows from approving others."""


def pending_calls(messages: Sequence[Message]) -> tuple[ToolCall, ...]:
    """The calls that wait, from a conversation's newest messages, oldest first.

    A pending request is the last message but for the summary of a compaction (seen on 0.16.8). The run does not tell:
    it can be cancelled while the request goes on to wait.
    """
    for message in reversed(messages):
        if message.type == "approval_request_message":
            return tuple(call.model_copy(update={"asked_by": message.id}) for call in message.calls)
        if message.kind != "summary":
            break
    return ()


def decide(
    conversation_id: str,
    pending: Sequence[ToolCall],
    *,
    approve: bool,
    reason: str,
    call_ids: Collection[str] = (),
    otid: str = "",
) -> Approvals:
    """One answer to all pending calls, because a server takes none for some of them only (seen on 0.16.8).

    With `call_ids` an approval is for these, and the others are denied. Decisions that may be handed over twice need an
    `otid` of their own.

    Raises:
        NothingPending: no call waits, or not one that was named.
        InvalidArgument: only some are to be denied, which would approve the others unasked; or one that is approved
            cannot be run by the server.
    """
    ids = [each.id for each in pending]
    if not ids or not set(call_ids) <= set(ids):
        raise NothingPending(conversation_id, ids)
    chosen = set(call_ids) or set(ids)
    if not approve and chosen != set(ids):
        raise InvalidArgument(
            "tool_call_ids",
            f"Letta takes one answer for all {len(ids)} calls that wait together. To let some run, name those with "
            "approve=true: the others are denied. To deny all, leave tool_call_ids out.",
        )
    for call in pending:
        if approve and call.id in chosen and call.client_side:
            raise InvalidArgument(
                "approve",
                f"{quote(call.name, 80)!r} is no tool of the agent's but of the client that sent the message: only "
                "that client can run it and give Letta its result. approve=false lets the agent go on without it.",
            )
    decisions = tuple(
        Decision(
            tool_call_id=each,
            approve=approve and each in chosen,
            reason=reason if each in chosen else NOT_NAMED,
        )
        for each in ids
    )
    return Approvals(decisions=decisions, otid=otid or str(uuid.uuid4()), calls=tuple(pending))


def check_pending(conversation_id: str, pending: Sequence[ToolCall], approvals: Approvals) -> None:
    """Raises NothingPending unless exactly these calls wait. Asked as late as can be: to an answer that comes too late
    Letta runs a turn about nothing (seen on 0.16.8). Ids alone do not tell: some models give every call the same."""
    if set(map(_identity, pending)) != set(map(_identity, approvals.calls)):
        raise NothingPending(conversation_id, [each.id for each in pending])


def _identity(call: ToolCall) -> tuple[str, ...]:
    return (call.asked_by, call.id, call.name, call.arguments)


def calls_chunk(calls: Sequence[ToolCall]) -> Chunk:
    """The decided calls as the beginning of the turn's second half, which else tells results without their calls."""
    listed = [{"tool_call_id": each.id, "name": each.name, "arguments": each.arguments} for each in calls]
    return {"message_type": "tool_call_message", "otid": "decided", "tool_calls": listed}
