"""Picks one turn out of the frames of its conversation, as chunks in Letta's JSON. Pure.

The server sends every subscriber every delta of every turn in the conversation, no matter who started it, with states
and signals in between. `TurnReader` keeps what belongs to our turn and ends where the server says that the turn
has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from letta_conversations_mcp.backends.app_server.app_server_json import otid_of
from letta_conversations_mcp.backends.app_server.conversation_state import otids_by_run
from letta_conversations_mcp.backends.app_server.error_texts import STALLED, in_words, innermost, is_conflict
from letta_conversations_mcp.core.message_json import calls_of, mapping_field, text_field
from letta_conversations_mcp.core.model import Chunk, ToolCall

PASSED_ON = frozenset(
    {
        "assistant_message",
        "reasoning_message",
        "hidden_reasoning_message",
        "tool_call_message",
        "tool_return_message",
        "usage_statistics",
        "summary_message",
    }
)
RUN_PREFIX = "local-run-"
LONGEST_OUTPUT = "max_tokens_exceeded"


class TurnReader:
    """Follows one turn, which is ours from the frame that says that a run has taken our message.

    The acceptance is no sign of that: another client's turn may run before ours begins, and the server may hold our
    acceptance back until that one has ended. The server says which message a run has taken before its first delta.
    A turn has a run for every step, so our run ids are named after the message: `local-run-` and its otid.
    """

    def __init__(self, run_id: str, *, begun: bool = False) -> None:
        """`begun`: the turn is under way already, as after a decision about a tool call."""
        self.run_id = run_id
        self.ended = False
        self.begun = begun
        """True while the turn that is being streamed is ours."""
        self.conflict = False
        """True if the server did not begin our turn, because of another that runs or ran."""
        self._otid = run_id.removeprefix(RUN_PREFIX)
        self.taken = False
        """True once the server has said that a run took our message, which is then stored."""
        self._announced: dict[str, str] = {}
        """Where in the stream each tool call was announced."""
        self._pieces: dict[str, set[str]] = {}
        """The ids of the messages that each of the server's runs has streamed."""
        self._failure: Mapping[str, object] = {}
        self._last_frame = ""

    def read(self, frame: Mapping[str, object]) -> Iterator[Chunk]:
        """The chunks in a frame; none if it is a repetition."""
        key = text_field(frame, "idempotency_key")
        if key and key == self._last_frame:
            return
        self._last_frame = key
        match frame.get("type"):
            case "update_loop_status":
                taken = otids_by_run(mapping_field(frame, "loop_status")).values()
                self.taken = self.taken or any(self._otid in otids for otids in taken)
                self.begun = self.begun or self.taken
                yield {"message_type": "ping", "run_id": self.run_id}
            case "stream_delta":
                yield from self._delta(mapping_field(frame, "delta"))
            case "turn_finished" if self.begun:
                yield from self._finished(frame)
            case _:
                pass

    def stop_at(self, call: ToolCall) -> Iterator[Chunk]:
        """The end of the turn so far, as the REST API tells it: this call waits for a decision. Nothing when the turn
        is not ours."""
        if not self.begun:
            return
        announced = call.id in self._announced
        asked = {"tool_call_id": call.id, "name": call.name, "arguments": "" if announced else call.arguments}
        piece = self._announced.get(call.id, call.id)
        yield {"message_type": "approval_request_message", "otid": piece, "tool_calls": [asked]}
        yield {"message_type": "stop_reason", "stop_reason": "requires_approval"}
        self.ended = True

    def give_up(self) -> Iterator[Chunk]:
        """The end of a turn whose answer has begun and stalled."""
        yield {"message_type": "error_message", "error_type": "stalled", "message": STALLED, "stored": self.taken}
        yield {"message_type": "stop_reason", "stop_reason": "error"}
        self.ended = True

    def _delta(self, delta: Mapping[str, object]) -> Iterator[Chunk]:
        kind = text_field(delta, "message_type")
        if kind == "loop_error" and self._otid in _otids(delta.get("client_message_ids")):
            # The turn ends before any run has taken its message.
            self.begun = True
            self.conflict = is_conflict(text_field(delta, "message"))
        if not self.begun:
            return
        if kind == "approval_request_message":
            # How the server announces every tool call; when it wants a decision it sends a control_request.
            kind = "tool_call_message"
            piece = text_field(delta, "otid") or text_field(delta, "id")
            self._announced |= {text_field(each, "tool_call_id"): piece for each in calls_of(delta)}
        pieces = self._pieces.setdefault(text_field(delta, "run_id"), set())
        if kind in PASSED_ON:
            pieces.add(text_field(delta, "id"))
            # Numbers count within a run, and a turn has several; nothing of this stream is ever replayed.
            yield {**delta, "message_type": kind, "run_id": self.run_id, "seq_id": None}
        elif kind == "error_message":
            # Not the end: the server may retry, and reports that.
            self._failure = delta
        elif kind == "retry":
            self._failure = {}
            yield {"message_type": "retry", "run_id": self.run_id, "pieces": sorted(pieces)}

    def _finished(self, frame: Mapping[str, object]) -> Iterator[Chunk]:
        stop_reason = text_field(frame, "stop_reason") or "end_turn"
        failure = self._failure or innermost(text_field(frame, "error"))
        words = text_field(failure, "message")
        # The reply is cut off at the model's longest output, which is an end like any other.
        if words and words != f"Unexpected stop reason: {LONGEST_OUTPUT}":
            kind = text_field(failure, "error_type") or text_field(failure, "type") or stop_reason
            error = {"error_type": kind, "message": in_words(kind, words), "stored": self.taken}
            yield {"message_type": "error_message", **error}
        yield {"message_type": "stop_reason", "stop_reason": stop_reason}
        self.ended = True


def _otids(client_message_ids: object) -> list[str]:
    if not isinstance(client_message_ids, list):
        return []
    return [otid_of(str(each)) for each in cast("list[object]", client_message_ids)]
