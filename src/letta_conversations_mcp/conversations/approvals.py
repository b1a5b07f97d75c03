"""Tool calls that wait for a person's decision, and how one answer becomes a decision about each of them.

Pure. Nothing is approved by default: a call that nobody approved is denied, or stays undecided.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

from letta_conversations_mcp.core.errors import InvalidArgument, NothingPending
from letta_conversations_mcp.core.model import Approvals, Chunk, Decision, Message, ToolCall
from letta_conversations_mcp.core.quoting import quote

NOT_NAMED = "It was not among the calls that were approved."
"""The reason given for denying a call because others were approved."""


def pending_calls(messages: Sequence[Message]) -> tuple[ToolCall, ...]:
    """The calls that wait, found in a conversation's newest messages (oldest first).

    A pending request is the last message, apart from the summary of a compaction (0.16.8). The state of the run does
    not show it: a run can be cancelled while its request still waits.
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
    """One answer to all pending calls: a server does not accept decisions about some of them (0.16.8).

    With `call_ids`, these are approved and the others denied. Pass an `otid` if the answer may be handed over twice.

    Raises:
        NothingPending: no call waits, or a named one does not.
        InvalidArgument: only some are to be denied, which would approve the others unasked; or the server cannot run an
            approved one.
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
    """Raises NothingPending unless exactly these calls wait. Check as late as possible: Letta runs an empty turn for an
    answer that comes too late (0.16.8). Ids are not enough, because some models give every call the same id."""
    if set(map(_identity, pending)) != set(map(_identity, approvals.calls)):
        raise NothingPending(conversation_id, [each.id for each in pending])


def _identity(call: ToolCall) -> tuple[str, ...]:
    return (call.asked_by, call.id, call.name, call.arguments)


def calls_chunk(calls: Sequence[ToolCall]) -> Chunk:
    """The decided calls as a chunk to put before the rest of their turn, whose stream has only their results."""
    listed = [{"tool_call_id": each.id, "name": each.name, "arguments": each.arguments} for each in calls]
    return {"message_type": "tool_call_message", "otid": "decided", "tool_calls": listed}
