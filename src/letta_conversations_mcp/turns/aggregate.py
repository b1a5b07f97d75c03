"""Builds one Turn from a stream of chunks.

Pure: no I/O, no clock, no waiting. Accepts a chunk of any shape. The Turn can be built after every chunk, so a stream
that breaks still yields what it delivered.

Pieces are grouped by (message_type, otid), because all parts of a step share one `id` (measured on Letta 0.16.8); tool
calls by (otid, tool_call_id). In step mode every piece arrives whole, in token mode as fragments.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal, cast

from letta_conversations_mcp.core.message_json import (
    calls_of,
    int_field,
    read_failure,
    returns_of,
    text_field,
    text_of,
)
from letta_conversations_mcp.core.model import Chunk, ToolCall, Turn, TurnFailure, TurnStatus, Usage

FAILED_STOPS = frozenset(
    {
        "error",
        "llm_api_error",
        "invalid_llm_response",
        "invalid_tool_call",
        "no_tool_call",
        "insufficient_credits",
        "context_window_overflow_in_system_prompt",
    }
)
"""The stop reasons of a turn that failed: all that letta-client 1.12 lists, except those of a normal end."""

SILENT_KINDS = frozenset({"ping", "system_message", "event_message", "approval_response_message"})
"""Kinds of chunks that say nothing about the outcome of a turn."""


class _Call:
    """A tool call whose fragments are still arriving."""

    __slots__ = ("arguments", "id", "name", "needs_approval", "result", "status")

    def __init__(self, call_id: str) -> None:
        self.id = call_id
        self.name = ""
        self.arguments: list[str] = []
        self.status: Literal["pending", "success", "error", "denied"] = "pending"
        self.result = ""
        self.needs_approval = False

    def build(self) -> ToolCall:
        return ToolCall(
            id=self.id,
            name=self.name,
            arguments="".join(self.arguments),
            status=self.status,
            result=self.result,
        )


class TurnBuilder:
    """Collects the chunks of one turn."""

    def __init__(self) -> None:
        self.run_id = ""
        self.stop_reason = ""
        self.failure: TurnFailure | None = None
        self.last_seq = 0
        """The number of the last chunk, in a stream that numbers them: where to resume it."""
        self._message = ""
        self._at = ""
        self._replies: dict[str, list[str]] = {}
        self._reasonings: dict[str, list[str]] = {}
        self._calls: list[_Call] = []
        self._call_of_piece: dict[tuple[str, str], _Call] = {}
        self._call_of_id: dict[str, _Call] = {}
        self._usage: Usage | None = None
        self._compacted = False
        self._unknown: Counter[str] = Counter()
        self._last_kind = ""

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk."""
        if self._seen(chunk):
            return
        self.run_id = self.run_id or text_field(chunk, "run_id")
        self._at = text_field(chunk, "date") or self._at
        kind = text_field(chunk, "message_type")
        self._last_kind = kind if kind != "ping" else self._last_kind
        piece = text_field(chunk, "otid") or text_field(chunk, "id")
        match kind:
            case "assistant_message":
                self._replies.setdefault(piece, []).append(text_of(chunk.get("content")))
            case "reasoning_message":
                self._reasonings.setdefault(piece, []).append(text_field(chunk, "reasoning"))
            case "hidden_reasoning_message":
                self._reasonings.setdefault(piece, []).append(text_field(chunk, "hidden_reasoning"))
            case "tool_call_message" | "approval_request_message":
                self._add_calls(piece, chunk, needs_approval=kind == "approval_request_message")
            case "tool_return_message":
                self._add_returns(chunk)
            case "stop_reason":
                # A turn that breaks inside the agent loop sends "error" and then the precise reason, or the reverse.
                reason = text_field(chunk, "stop_reason")
                if self.stop_reason in ("", "error"):
                    self.stop_reason = reason
            case "usage_statistics":
                self._usage = _read_usage(chunk)
            case "error_message":
                self.failure = read_failure(chunk)
            case "retry":
                self._forget(chunk.get("pieces"))
            case "summary_message":
                self._compacted = True
            case "user_message":
                self._message = self._message or text_of(chunk.get("content"))
            case _ if kind in SILENT_KINDS:
                pass
            case _:
                self._unknown[kind[:64] or "(none)"] += 1

    @property
    def ended(self) -> bool:
        """True once the server has said how the turn ended."""
        return bool(self.stop_reason) or self.failure is not None

    @property
    def doing(self) -> str:
        """What the agent was doing last, in a few words, for a progress report."""
        pending = [call.name for call in self._calls if call.status == "pending" and call.name]
        if pending:
            return f"running tool {', '.join(pending)}"
        return "writing its answer" if self._last_kind == "assistant_message" else "thinking"

    def reply_tail(self, chars: int) -> str:
        """The end of what the agent has said so far, at most this many characters."""
        if not self._replies:
            return ""
        fragments = next(reversed(self._replies.values()))
        return "".join(fragments[-chars:])[-chars:]

    def build(self) -> Turn:
        """The turn so far. Before its end the status is "running"."""
        reply = _paragraphs(self._replies)
        waiting = self._calls_awaiting_decision()
        return Turn(
            status=self._status(reply, waiting),
            message=self._message,
            reply=reply,
            at=self._at,
            reasoning=_paragraphs(self._reasonings),
            stop_reason=self.stop_reason,
            run_id=self.run_id,
            tool_calls=tuple(call.build() for call in self._calls),
            approvals=tuple(call.build() for call in waiting),
            usage=self._usage,
            failure=self.failure,
            compacted=self._compacted,
            unknown_kinds=dict(self._unknown),
        )

    def _seen(self, chunk: Chunk) -> bool:
        """True for a chunk that a resumed stream repeats: background streams number their chunks."""
        seq = int_field(chunk, "seq_id")
        if seq == 0:
            return False
        if seq <= self.last_seq:
            return True
        self.last_seq = seq
        return False

    def _forget(self, pieces: object) -> None:
        """Drop what a step wrote before it failed and was retried."""
        for piece in cast("list[str]", pieces) if isinstance(pieces, list) else ():
            self._replies.pop(piece, None)
            self._reasonings.pop(piece, None)

    def _add_calls(self, piece: str, chunk: Chunk, *, needs_approval: bool) -> None:
        for fragment in calls_of(chunk):
            call_id = text_field(fragment, "tool_call_id")
            # A fragment without an id continues the latest call of its piece.
            call = self._call_of_piece.get((piece, call_id))
            if call is None:
                call = _Call(call_id)
                self._calls.append(call)
                self._call_of_id[call_id] = call
            self._call_of_piece[piece, call_id] = self._call_of_piece[piece, ""] = call
            call.name = call.name or text_field(fragment, "name")
            call.arguments.append(text_field(fragment, "arguments"))
            call.needs_approval = call.needs_approval or needs_approval

    def _add_returns(self, chunk: Chunk) -> None:
        for returned in returns_of(chunk):
            call = self._call_of_id.get(returned.id)
            if call is None:
                call = self._call_of_id[returned.id] = _Call(returned.id)
                self._calls.append(call)
            call.name = call.name or returned.name
            call.status = returned.status
            call.result = returned.result

    def _calls_awaiting_decision(self) -> list[_Call]:
        if self.stop_reason != "requires_approval":
            return []
        return [call for call in self._calls if call.needs_approval and call.status == "pending"]

    def _status(self, reply: str, waiting: list[_Call]) -> TurnStatus:
        if waiting or self.stop_reason == "requires_approval":
            return "needs_approval"
        if self.stop_reason == "cancelled":
            return "cancelled"
        if self.failure is not None or self.stop_reason in FAILED_STOPS:
            return "failed"
        if not self.stop_reason:
            return "running"
        return "completed" if reply else "empty"


def _paragraphs(pieces: dict[str, list[str]]) -> str:
    texts = ("".join(fragments).rstrip() for fragments in pieces.values())
    return "\n\n".join(text for text in texts if text)


def _read_usage(chunk: Chunk) -> Usage:
    return Usage(
        prompt_tokens=int_field(chunk, "prompt_tokens"),
        completion_tokens=int_field(chunk, "completion_tokens"),
        total_tokens=int_field(chunk, "total_tokens"),
        step_count=int_field(chunk, "step_count"),
        context_tokens=int_field(chunk, "context_tokens"),
    )
