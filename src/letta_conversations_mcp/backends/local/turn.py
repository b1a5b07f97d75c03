"""A turn of the App Server: while it streams, and afterwards in the list of messages. As chunks in Letta's JSON form.

Pure. The server streams every delta of every run of a turn, with states and signals of its own in between; this keeps
what belongs to our turn, and ends it where the server says that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from letta_conversations_mcp.core.model import Chunk, Run, TurnFailure
from letta_conversations_mcp.core.wire import mapping_field, text_field, text_of

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
TOOL_KINDS = frozenset({"tool_call_message", "tool_return_message", "approval_request_message"})
RUN_PREFIX = "local-run-"


class TurnReader:
    """Follows one turn, from the message that began it.

    A turn has a run for every step, so ours are named after the message: `local-run-` and its client_message_id.
    """

    def __init__(self, message_id: str, *, started: bool) -> None:
        self.run_id = RUN_PREFIX + message_id
        self.ended = False
        self._message_id = message_id
        self._ours = started
        """Whether the turn that is being streamed is ours: a queued message waits for another turn's end."""

    def read(self, frame: Mapping[str, object]) -> Iterator[Chunk]:
        """The chunks that a frame holds."""
        match frame.get("type"):
            case "update_loop_status":
                consumed = mapping_field(mapping_field(frame, "loop_status"), "client_message_ids_by_run_id")
                self._ours = self._ours or any(
                    isinstance(ids, list) and self._message_id in ids for ids in consumed.values()
                )
            case "stream_delta" if self._ours:
                yield from self._delta(mapping_field(frame, "delta"))
            case "turn_finished" if self._ours:
                yield from self._finished(frame)
            case _:
                pass

    def _delta(self, delta: Mapping[str, object]) -> Iterator[Chunk]:
        kind = text_field(delta, "message_type")
        if kind == "approval_request_message":
            # How the server announces every tool call; when it wants a decision it sends a control_request.
            kind = "tool_call_message"
        if kind in PASSED_ON:
            # Numbers count within a run, and a turn has several; nothing of this stream is ever replayed.
            yield {**delta, "message_type": kind, "run_id": self.run_id, "seq_id": None}

    def _finished(self, frame: Mapping[str, object]) -> Iterator[Chunk]:
        if error := text_field(frame, "error"):
            yield {"message_type": "error_message", "error_type": text_field(frame, "stop_reason"), "message": error}
        yield {"message_type": "stop_reason", "stop_reason": text_field(frame, "stop_reason") or "end_turn"}
        self.ended = True


def turns_of(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Listed messages, oldest first, by turn: each begins with a user's message."""
    turns: list[list[Chunk]] = []
    for chunk in chunks:
        if chunk.get("message_type") == "user_message":
            turns.append([chunk])
        elif turns:
            turns[-1].append(chunk)
    return turns


def run_id_of(turn: Sequence[Chunk]) -> str:
    """The protocol has no runs to ask for, so a turn is named after the message that began it."""
    return RUN_PREFIX + (text_field(turn[0], "otid") or text_field(turn[0], "id"))


def run_of(turn: Sequence[Chunk], *, active: bool) -> Run:
    """What the list of messages tells of a turn. One without an answer was stopped in the middle, or failed."""
    if active:
        return Run(id=run_id_of(turn), status="running")
    if any(text_of(chunk.get("content")) or chunk.get("message_type") in TOOL_KINDS for chunk in turn[1:]):
        return Run(id=run_id_of(turn), status="completed", stop_reason="end_turn")
    failure = TurnFailure(
        type="interrupted", message="The turn ended without an answer; the local server may have been stopped in it."
    )
    return Run(id=run_id_of(turn), status="failed", stop_reason="error", failure=failure)
