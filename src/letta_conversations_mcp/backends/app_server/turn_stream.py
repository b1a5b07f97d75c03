"""A turn of the App Server: while it streams, and afterwards in the list of messages. As chunks in Letta's JSON form.

Pure. The server streams every delta of every run of a turn, with states and signals of its own in between; this keeps
what belongs to our turn, and ends it where the server says that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from letta_conversations_mcp.backends.app_server.app_server_json import attempts_of
from letta_conversations_mcp.backends.app_server.conversation_state import LoopState
from letta_conversations_mcp.backends.app_server.failures import STUCK, in_words, innermost
from letta_conversations_mcp.core.message_json import calls_of, mapping_field, text_field, text_of
from letta_conversations_mcp.core.model import Chunk, Run, ToolCall, TurnFailure

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

INTERRUPTED = "Interrupted by user"
"""What the server stores as the result of a call that was waiting when its turn was stopped."""

FORGOTTEN = TurnFailure(
    type="interrupted",
    message="The turn stopped at a tool call that waited for a decision, and the local server has forgotten the "
    "question, as it does when its last client leaves. The call was not run; another message goes on without it.",
)

CUT_OFF = TurnFailure(
    type="interrupted", message=f"The turn was broken off, and its reply may be a part. {STUCK}", stored=True
)


class TurnReader:
    """Follows one turn, from the message that began it.

    A turn has a run for every step, so ours are named after the message: `local-run-` and its client_message_id.
    """

    def __init__(self, run_id: str, *, started: bool) -> None:
        self.run_id = run_id
        self.ended = False
        self._message_id = run_id.removeprefix(RUN_PREFIX)
        self._ours = started
        """Whether the turn that is being streamed is ours: a queued message waits for another turn's end."""
        self._taken = False
        """Whether the server has said that a run took our message, which is then stored."""
        self._announced: dict[str, str] = {}
        """Where in the stream each tool call was announced."""
        self._pieces: dict[str, set[str]] = {}
        """The ids of the messages that each of the server's runs has streamed."""
        self._failure: Mapping[str, object] = {}
        self._last_frame = ""

    def read(self, frame: Mapping[str, object]) -> Iterator[Chunk]:
        """The chunks that a frame holds; none of one that comes twice."""
        key = text_field(frame, "idempotency_key")
        if key and key == self._last_frame:
            return
        self._last_frame = key
        match frame.get("type"):
            case "update_loop_status":
                consumed = mapping_field(mapping_field(frame, "loop_status"), "client_message_ids_by_run_id")
                taken = any(isinstance(ids, list) and self._message_id in ids for ids in consumed.values())
                self._taken, self._ours = self._taken or taken, self._ours or taken
                yield {"message_type": "ping", "run_id": self.run_id}
            case "stream_delta" if self._ours:
                yield from self._delta(mapping_field(frame, "delta"))
            case "turn_finished" if self._ours:
                yield from self._finished(frame)
            case _:
                pass

    def stop_at(self, call: ToolCall) -> Iterator[Chunk]:
        """The end of the turn so far, as the REST API tells it: this call waits for a decision. Nothing when the turn
        is not ours."""
        if not self._ours:
            return
        announced = call.id in self._announced
        asked = {"tool_call_id": call.id, "name": call.name, "arguments": "" if announced else call.arguments}
        piece = self._announced.get(call.id, call.id)
        yield {"message_type": "approval_request_message", "otid": piece, "tool_calls": [asked]}
        yield {"message_type": "stop_reason", "stop_reason": "requires_approval"}
        self.ended = True

    def _delta(self, delta: Mapping[str, object]) -> Iterator[Chunk]:
        kind = text_field(delta, "message_type")
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
            # Not the end: the server may try again, and says so.
            self._failure = delta
        elif kind == "retry":
            self._failure = {}
            yield {"message_type": "retry", "run_id": self.run_id, "pieces": sorted(pieces)}

    def _finished(self, frame: Mapping[str, object]) -> Iterator[Chunk]:
        stop_reason = text_field(frame, "stop_reason") or "end_turn"
        failure = self._failure or innermost(text_field(frame, "error"))
        if words := text_field(failure, "message"):
            kind = text_field(failure, "error_type") or text_field(failure, "type") or stop_reason
            error = {"error_type": kind, "message": in_words(kind, words), "stored": self._taken}
            yield {"message_type": "error_message", **error}
        yield {"message_type": "stop_reason", "stop_reason": stop_reason}
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


def with_run_ids(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Listed messages, oldest first, each with the id of its turn's run: "" for those of a turn whose beginning is not
    listed."""
    run_id = ""
    named: list[Chunk] = []
    for chunk in chunks:
        if chunk.get("message_type") == "user_message":
            run_id = run_id_of([chunk])
        named.append({**chunk, "run_id": run_id})
    return named


def is_of(turn: Sequence[Chunk], run_id: str) -> bool:
    """Whether a run is this turn's: the server stores a message anew, with another id, when it tries again."""
    return run_id == run_id_of(turn) or run_id.removeprefix(RUN_PREFIX) in attempts_of(turn[0])


def run_of(turn: Sequence[Chunk], state: LoopState | None) -> Run:
    """What the list of messages tells of a turn; `state` is that of the newest. One without an answer was stopped in
    the middle, or failed, and one that the server knows of no run for was broken off before its first words."""
    run_id = run_id_of(turn)
    if state is not None and state.pending:
        return Run(id=run_id, status="completed", stop_reason="requires_approval")
    if state is not None and state.active:
        return Run(id=run_id, status="running")
    if turn[-1].get("message_type") == "approval_request_message":
        return Run(id=run_id, status="failed", stop_reason="error", failure=FORGOTTEN)
    if INTERRUPTED in text_of(turn[-1].get("tool_return")):
        return Run(id=run_id, status="cancelled", stop_reason="cancelled")
    if any(text_of(chunk.get("content")) or chunk.get("message_type") in TOOL_KINDS for chunk in turn[1:]):
        if (
            state is not None
            and state.taken
            and state.taken.isdisjoint([*attempts_of(turn[0]), text_field(turn[0], "otid")])
        ):
            return Run(id=run_id, status="failed", stop_reason="error", failure=CUT_OFF)
        return Run(id=run_id, status="completed", stop_reason="end_turn")
    words = "The turn ended without an answer: it was stopped, or the local server was."
    failure = TurnFailure(type="interrupted", message=words, stored=True)
    return Run(id=run_id, status="failed", stop_reason="error", failure=failure)


def shown(turn: Sequence[Chunk], state: LoopState | None) -> list[Chunk]:
    """A turn's messages, with only those calls as requests that wait for a decision that really do: the server lists
    every call as one."""
    pending = {request.call.id for request in state.pending} if state else set[str]()
    chunks: list[Chunk] = []
    for chunk in turn:
        ids = {text_field(each, "tool_call_id") for each in calls_of(chunk)}
        is_call = chunk.get("message_type") == "approval_request_message" and not ids & pending
        chunks.append({**chunk, "message_type": "tool_call_message"} if is_call else chunk)
    return chunks
