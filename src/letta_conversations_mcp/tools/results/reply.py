"""What send_message, wait_for_reply and respond_to_approval answer: a turn, within the budget of an answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from pydantic import ConfigDict

from letta_conversations_mcp.conversations.transcript import RESERVED_CHARS, cut, fair_share, length
from letta_conversations_mcp.core.model import ConversationRef, ToolCall, Turn, TurnStatus, Usage
from letta_conversations_mcp.core.quoting import said
from letta_conversations_mcp.core.untrusted import entry, quoted
from letta_conversations_mcp.tools.results.result import NAME_CHARS, Result
from letta_conversations_mcp.turns.recovery import DIED
from letta_conversations_mcp.turns.turn import NO_TRACE, WITHDRAWN

ReplyKind = Literal["reasoning", "tool"]

ANSWERS_CHARS = 120
"""Characters shown of the message that a reply answers: enough to recognise it."""

REPEATED = "This call repeats an earlier one; this is the turn of its message, which was not sent again."

UNCONFIRMED = ("running", "not_confirmed", "unknown")
"""The statuses of a turn whose reply may still grow."""

NOTES_CHARS = 500
"""Characters for the notes and the next step of a reply."""

CALL_CHARS = 150
"""Characters that a tool call needs beside its arguments and result."""


def _texts(schema: dict[str, Any]) -> None:
    """A short schema: field names in the schemas of three tools would cost more tokens than they are worth."""
    schema.clear()
    schema.update({"type": "object", "additionalProperties": {"type": "string"}})


class CallRow(Result):
    model_config = ConfigDict(json_schema_extra=_texts)

    name: str
    status: Literal["pending", "waiting", "success", "error", "denied"]
    arguments: str = ""
    result: str = ""

    def to_text(self) -> str:
        arguments = f"({self.arguments})" if self.arguments else ""
        outcome = OUTCOMES[self.status]
        return f"{self.name}{arguments} → {outcome}" + (f": {self.result}" if self.result else "")


OUTCOMES = {
    "pending": "no result",
    "waiting": "waiting for approval",
    "success": "ok",
    "error": "failed",
    "denied": "denied",
}


class ApprovalRow(Result):
    model_config = ConfigDict(json_schema_extra=_texts)

    tool_call_id: str
    name: str
    arguments: str = ""

    def to_text(self) -> str:
        return f"{self.name}({self.arguments}) · {self.tool_call_id}"


def _numbers(schema: dict[str, Any]) -> None:
    """A short schema, for the same reason."""
    schema.clear()
    schema.update({"type": "object", "additionalProperties": {"type": "integer"}})


class UsageRow(Result):
    model_config = ConfigDict(json_schema_extra=_numbers)

    total_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    step_count: int = 0
    context_tokens: int = 0

    @classmethod
    def of(cls, usage: Usage) -> UsageRow:
        return cls(**usage.model_dump())

    def to_text(self) -> str:
        steps = f" in {self.step_count} steps" if self.step_count > 1 else ""
        context = f"; context now {self.context_tokens}" if self.context_tokens else ""
        spent = f"{self.prompt_tokens} prompt, {self.completion_tokens} completion"
        return f"{self.total_tokens} tokens{steps}: {spent}{context}"


class Reply(Result):
    status: TurnStatus
    conversation_id: str
    agent_id: str
    agent_name: str = ""
    answers: str = ""
    reply: str = ""
    reply_so_far: str = ""
    at: str = ""
    reasoning: str = ""
    stop_reason: str = ""
    run_id: str = ""
    message_key: str = ""
    tool_calls: tuple[CallRow, ...] = ()
    approvals: tuple[ApprovalRow, ...] = ()
    usage: UsageRow | None = None
    note: str = ""
    next: str = ""

    @classmethod
    def of(
        cls,
        turn: Turn,
        ref: ConversationRef,
        kinds: Collection[ReplyKind],
        budget: int,
        *,
        agent_name: str = "",
        branch_of: str = "",
        message_key: str = "",
        notes: Sequence[str] = (),
    ) -> Reply:
        """The turn within `budget` characters. Its tool calls are always named, and shown in full if `kinds` has
        "tool". With `branch_of`, that conversation was busy and this branch of it answered. `notes` are sentences about
        how the message was sent."""
        most_calls = max((budget - RESERVED_CHARS - NOTES_CHARS) // (2 * CALL_CHARS), 1)
        waiting = {call.id for call in turn.approvals}
        calls = [_call_row(call, waiting, in_full="tool" in kinds) for call in turn.tool_calls[:most_calls]]
        left_out = len(turn.tool_calls) - len(calls)
        approvals = [ApprovalRow(tool_call_id=a.id, name=a.name, arguments=a.arguments) for a in turn.approvals]
        texts = [turn.reply, turn.reasoning if "reasoning" in kinds else ""]
        entries = [text for row in (*calls, *approvals) for text in (row.arguments, getattr(row, "result", ""))]
        lengths = [*map(length, texts), *(length(text, as_entry=True) for text in entries)]
        room = budget - RESERVED_CHARS - NOTES_CHARS - CALL_CHARS * (len(calls) + len(approvals))
        share = fair_share(lengths, room)
        reply, reasoning = cut(turn.reply, share), cut(texts[1], share)
        return cls(
            status=turn.status,
            conversation_id=ref.conversation_id,
            agent_id=ref.agent_id,
            agent_name=cut(agent_name, NAME_CHARS),
            answers=cut(" ".join(turn.message.split()), ANSWERS_CHARS),
            reply="" if turn.status in UNCONFIRMED else reply,
            reply_so_far=reply if turn.status in UNCONFIRMED else "",
            at=turn.at,
            reasoning=reasoning,
            stop_reason=turn.stop_reason,
            run_id=turn.run_id,
            message_key=message_key if turn.status in UNCONFIRMED and not turn.run_id else "",
            tool_calls=tuple(_shortened(row, share) for row in calls),
            approvals=tuple(
                row.model_copy(update={"arguments": cut(row.arguments, share, as_entry=True)}) for row in approvals
            ),
            usage=UsageRow.of(turn.usage) if turn.usage else None,
            note=" ".join(
                [
                    *([_branch_note(branch_of, ref)] if branch_of else []),
                    *notes,
                    *_notes(turn, ref, is_cut=max(lengths) > share, left_out=left_out),
                ]
            ),
            next=_next_step(turn, ref, message_key),
        )

    def to_text(self) -> str:
        agent = " ".join(filter(None, [self.agent_id, repr(self.agent_name) if self.agent_name else ""]))
        head = [self.status, self.conversation_id, agent, self.run_id or self.message_key, self.stop_reason]
        ours = [
            f"[{' · '.join(filter(None, head))}]",
            self.note,
            self.next,
            f"({self.usage.to_text()})" if self.usage else "",
        ]
        theirs = [
            ("Waits for a decision:", "\n".join(entry(approval.to_text()) for approval in self.approvals)),
            ("In answer to:", self.answers),
            ("Thinking:", self.reasoning),
            ("Tools:", "\n".join(entry(call.to_text()) for call in self.tool_calls)),
            ("Reply:", self.reply),
            ("Reply so far:", self.reply_so_far),
        ]
        parts = ["\n".join(filter(None, ours)), *(f"{what}\n{quoted(text)}" for what, text in theirs if text)]
        return "\n\n".join(parts)


def _call_row(call: ToolCall, waiting: Collection[str], *, in_full: bool) -> CallRow:
    status = "waiting" if call.status == "pending" and call.id in waiting else call.status
    row = CallRow(name=call.name or "(unnamed)", status=status)
    return row.model_copy(update={"arguments": call.arguments, "result": call.result}) if in_full else row


def _shortened(row: CallRow, share: int) -> CallRow:
    return row.model_copy(
        update={
            "arguments": cut(row.arguments, share, as_entry=True),
            "result": cut(row.result, share, as_entry=True),
        }
    )


def describe_failure(turn: Turn) -> str:
    """Why a turn failed, in a sentence; "" when it did not."""
    if turn.status != "failed":
        return ""
    words = ": ".join(filter(None, [turn.failure.message.rstrip("."), turn.failure.detail])) if turn.failure else ""
    reason = f" ({turn.stop_reason})" if turn.stop_reason else ""
    return f"The turn failed: {said(words)}." if words else f"The turn failed{reason}."


def _branch_note(branch_of: str, ref: ConversationRef) -> str:
    return (
        f"{branch_of} was busy, so a branch of it answered: {ref.conversation_id}. It goes on by that id; {branch_of} "
        "does not have this exchange."
    )


def _notes(turn: Turn, ref: ConversationRef, *, is_cut: bool, left_out: int) -> list[str]:
    """What the reader should know of this turn beside its reply."""
    place = ref.in_call
    notes: list[str] = []
    if turn.repeated:
        again = "" if turn.status == "running" else " To send it again, give the call another message_key."
        notes.append(f"{REPEATED}{again}")
    if turn.note:
        notes.append(turn.note)
    if is_cut:
        notes.append(
            f"Cut to fit; list_messages({place}, limit=5) shows it, with skip_chars the rest of a long message."
        )
    if left_out:
        notes.append(f"{left_out} more tool calls are not shown.")
    if turn.status == "failed":
        notes.append(describe_failure(turn))
    if turn.status == "empty" and turn.stop_reason != "max_steps":
        ran = " after running its tools" if turn.tool_calls else ""
        notes.append(f"The agent ended its turn{ran} without saying anything.")
    if turn.stop_reason == "max_steps":
        notes.append("It stopped because it reached the most steps allowed; another message lets it go on.")
    if turn.stop_reason == "max_tokens_exceeded":
        notes.append("The reply is cut off: the model reached its longest output.")
    if turn.compacted:
        notes.append("During this turn Letta replaced older messages in the context by a summary.")
    if turn.unknown_kinds:
        named = ", ".join(f"{count} × {kind}" for kind, count in turn.unknown_kinds.items())
        notes.append(f"Letta also sent what this version does not know: {said(named)}.")
    return notes


def _next_step(turn: Turn, ref: ConversationRef, message_key: str) -> str:
    place = ref.in_call
    match turn.status:
        case "running":
            run = (
                f", run_id={turn.run_id!r}" if turn.run_id else f", message_key={message_key!r}" if message_key else ""
            )
            return f"Still running. Call wait_for_reply({place}{run}). Do not send the message again."
        case "not_confirmed" if turn.stop_reason == NO_TRACE:
            return (
                "Letta has no message with this key in this conversation: it was never sent, or has not arrived yet. "
                f"To be sure that it arrives once, call send_message({place}, message=…, "
                f"message_key={message_key!r}) with the same message: if it has arrived by then, it is not sent again."
            )
        case "not_confirmed":
            key = f", message_key={message_key!r}" if message_key else ""
            return (
                "Letta has not confirmed the message: it was handed over, or is still being handed over, and Letta has "
                f"named no run. Do not send it again; call wait_for_reply({place}{key}) to learn whether it arrived."
            )
        case "needs_approval":
            return (
                "The agent waits for a decision about this, and takes no message before it. Ask your user, then call "
                f"respond_to_approval({place}, approve=true|false)."
            )
        case "unknown":
            return (
                "The connection broke after the message was handed over, and Letta could not tell whether it took it. "
                f"Look with list_messages({place}) before sending it again."
            )
        case "failed" if turn.stop_reason == DIED:
            stored = "is stored" if turn.failure and turn.failure.stored else "is not stored"
            return f"The message {stored}. cancel({place}) frees the conversation; then " + (
                "send a short message such as 'Please answer.'" if stored == "is stored" else "send it again."
            )
        case "failed" if turn.failure and turn.failure.stored:
            return (
                "The message is stored, and the agent sees it from now on: once the cause is fixed, do not repeat it, "
                "but send a short one such as 'Please answer.'"
            )
        case "failed" if turn.tool_calls or turn.reply:
            return f"Part of the turn may be stored: look with list_messages({place}) before sending the message again."
        case "failed":
            return (
                "Letta keeps nothing of a turn that fails at its first step: once the cause is fixed, "
                "it is safe to send the message again."
            )
        case "cancelled" if turn.stop_reason == WITHDRAWN:
            return "cancel took this message back before it was handed over: Letta never had it."
        case "cancelled":
            return (
                "Somebody stopped this turn. The message may be in the history: look with "
                f"list_messages({place}) before sending it again."
            )
        case _:
            return ""
