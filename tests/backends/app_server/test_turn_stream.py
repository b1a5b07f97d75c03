"""What a turn's frames become: only those of our turn, once, and its end as the App Server tells it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from letta_conversations_mcp.backends.app_server.turn_stream import TurnReader
from letta_conversations_mcp.core.model import Chunk, ToolCall


def ended(error: str) -> Chunk:
    """The error that a turn ends with, of which nothing was told before."""
    chunks = list(TurnReader("m", begun=True).read({"type": "turn_finished", "stop_reason": "error", "error": error}))
    assert chunks[-1] == {"message_type": "stop_reason", "stop_reason": "error"}
    return chunks[0]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("the socket was closed", "the socket was closed."),
        ('"only a string"', '"only a string".'),
        (
            json.dumps({"error": {"error": {"type": "llm_error", "message": "terminated"}}}),
            "no whole answer: terminated",
        ),
        (json.dumps({"error": {"run_id": "local-run-1"}}), "local-run-1"),
        ("ENOSPC: no space left on device, write", "a person has to make room there"),
    ],
)
def test_an_error_is_told_in_words_whatever_its_form(error: str, words: str) -> None:
    chunk = ended(error)

    assert words in str(chunk["message"])
    assert chunk["stored"] is False


def test_a_message_that_a_run_took_is_stored() -> None:
    reader = TurnReader("m", begun=True)
    taken = {"client_message_ids_by_run_id": {"local-run-1": ["m"]}}
    list(reader.read({"type": "update_loop_status", "loop_status": taken}))

    [error, _] = reader.read({"type": "turn_finished", "stop_reason": "error", "error": "boom"})

    assert error["stored"] is True


def test_a_frame_that_comes_twice_is_taken_once() -> None:
    reader = TurnReader("m", begun=True)
    pieces = [
        {
            "type": "stream_delta",
            "idempotency_key": f"stream_delta:{number}:00000000-0000-4000-8000-000000000000",
            "delta": {"message_type": "assistant_message", "id": "1", "content": "ha", "run_id": "local-run-1"},
        }
        for number in (1, 2)
    ]

    chunks = [chunk for piece in pieces for _ in range(2) for chunk in reader.read(piece)]

    assert [chunk["content"] for chunk in chunks] == ["ha", "ha"]


def test_a_queued_turn_takes_nothing_of_the_one_before_it() -> None:
    reader = TurnReader("m", begun=False)
    other = {"type": "stream_delta", "delta": {"message_type": "assistant_message", "id": "1", "content": "not ours"}}

    assert list(reader.read(other)) == []
    assert list(reader.read({"type": "turn_finished", "stop_reason": "end_turn"})) == []
    assert not reader.ended


def delta(kind: str, message_id: str = "1", run: str = "local-run-1", **fields: Any) -> dict[str, Any]:
    return {"type": "stream_delta", "delta": {"message_type": kind, "id": message_id, "run_id": run, **fields}}


def taking(*otids: str) -> dict[str, Any]:
    """The server's word that a run has taken these messages."""
    runs = {f"local-run-{number}": [otid] for number, otid in enumerate(otids)}
    return {"type": "update_loop_status", "loop_status": {"client_message_ids_by_run_id": runs}}


def read(reader: TurnReader, *frames: dict[str, Any]) -> list[Chunk]:
    return [chunk for frame in frames for chunk in reader.read(frame) if chunk["message_type"] != "ping"]


@pytest.mark.parametrize(
    ("taken", "is_ours"),
    [(["other"], False), (["m"], True), (["m~2"], True), (["other", "m"], True), (["m", "other"], True), ([], False)],
)
def test_a_turn_is_ours_from_when_a_run_has_taken_our_message(taken: list[str], is_ours: bool) -> None:
    reader = TurnReader("local-run-m")

    early = read(reader, delta("assistant_message", content="before"))
    chunks = read(reader, taking(*taken), delta("assistant_message", content="after"))
    # A later step of the turn has a run of its own, which lists no message.
    later = read(reader, taking(), delta("assistant_message", content="later", run="local-run-9"))

    assert early == []
    assert [each["content"] for each in chunks + later] == (["after", "later"] if is_ours else [])
    assert {each["run_id"] for each in chunks} <= {"local-run-m"}
    assert (reader.begun, reader.taken) == (is_ours, is_ours)


@pytest.mark.parametrize(
    ("ids", "words", "begun", "conflict"),
    [
        (["m"], "conversation x already has an active run", True, True),
        (["other", "m~3"], "conversation x already has an active run", True, True),
        (["m"], "the disk is full", True, False),
        (["other"], "conversation x already has an active run", False, False),
        ("m", "conversation x already has an active run", False, False),
    ],
)
def test_a_turn_that_could_not_begin_is_ours_only_if_it_names_our_message(
    ids: object, words: str, begun: bool, conflict: bool
) -> None:
    reader = TurnReader("local-run-m")

    assert read(reader, delta("loop_error", client_message_ids=ids, message=words)) == []
    assert (reader.begun, reader.conflict, reader.taken) == (begun, conflict, False)


def test_a_call_that_waits_for_a_decision_is_the_one_that_was_announced() -> None:
    reader = TurnReader("local-run-m", begun=True)
    call = ToolCall(id="call-1", name="Bash", arguments='{"command": "ls"}')
    announced: dict[str, Any] = {
        "tool_calls": [{"tool_call_id": "call-1", "name": "Bash", "arguments": '{"command": "ls"}'}]
    }

    [first] = read(reader, delta("approval_request_message", otid="piece-1", **announced))
    known = list(reader.stop_at(call))
    unknown: list[Any] = list(TurnReader("local-run-m", begun=True).stop_at(call))
    foreign = TurnReader("local-run-m")

    assert first["message_type"] == "tool_call_message"
    # The arguments are in the stream already, and are not to be there twice.
    assert known[0]["tool_calls"] == [{"tool_call_id": "call-1", "name": "Bash", "arguments": ""}]
    assert [each[0]["otid"] for each in (known, unknown)] == ["piece-1", "call-1"]
    assert [each["arguments"] for each in unknown[0]["tool_calls"]] == ['{"command": "ls"}']
    assert known[1] == unknown[1] == {"message_type": "stop_reason", "stop_reason": "requires_approval"}
    assert reader.ended
    assert list(foreign.stop_at(call)) == []
    assert not foreign.ended


def test_each_call_is_found_where_it_was_announced() -> None:
    reader = TurnReader("local-run-m", begun=True)
    for number, otid in (("1", "piece-1"), ("2", "")):
        call = {"tool_call_id": f"call-{number}", "name": "Bash", "arguments": "{}"}
        read(reader, delta("approval_request_message", f"id-{number}", otid=otid, tool_calls=[call]))

    asked = [next(reader.stop_at(ToolCall(id=f"call-{number}", name="Bash"))) for number in "12"]

    assert [each["otid"] for each in asked] == ["piece-1", "id-2"]


@pytest.mark.parametrize("taken", [["m"], []])
def test_an_answer_that_stalls_ends_its_turn_as_failed(taken: list[str]) -> None:
    reader = TurnReader("local-run-m", begun=True)
    read(reader, taking(*taken))

    error, end = reader.give_up()

    assert (error["error_type"], error["stored"]) == ("stalled", bool(taken))
    assert end == {"message_type": "stop_reason", "stop_reason": "error"}
    assert reader.ended


def test_a_model_that_is_asked_again_takes_back_the_pieces_of_its_run_and_its_error() -> None:
    reader = TurnReader("local-run-m", begun=True)
    finished = {"type": "turn_finished"}

    read(reader, delta("assistant_message", "a"), delta("assistant_message", "c", "run-2"))
    read(reader, delta("assistant_message", "b", "run-2"), delta("error_message", "e", "run-2", message="terminated"))
    [retry] = read(reader, delta("retry", "r", "run-2"))
    end = read(reader, finished)

    assert (retry["message_type"], retry["pieces"]) == ("retry", ["b", "c"])
    assert end == [{"message_type": "stop_reason", "stop_reason": "end_turn"}]


@pytest.mark.parametrize(
    ("frame", "error_type"),
    [
        ({"stop_reason": "end_turn"}, None),
        ({"stop_reason": "error", "error": "Unexpected stop reason: max_tokens_exceeded"}, None),
        ({"stop_reason": "error", "error": "boom"}, "error"),
        ({"stop_reason": "error", "error": '{"type": "llm_error", "message": "terminated"}'}, "llm_error"),
        ({"stop_reason": "error", "error": '{"error_type": "a", "type": "b", "message": "c"}'}, "a"),
    ],
)
def test_only_a_failure_is_an_error(frame: dict[str, str], error_type: str | None) -> None:
    reader = TurnReader("local-run-m", begun=True)

    *errors, end = read(reader, {"type": "turn_finished", **frame})

    assert [each["error_type"] for each in errors] == ([error_type] if error_type else [])
    assert end["stop_reason"] == frame["stop_reason"]
    assert reader.ended


def test_an_error_that_was_told_in_the_stream_is_the_one_that_counts() -> None:
    reader = TurnReader("local-run-m", begun=True)

    read(reader, delta("error_message", error_type="llm_error", message="terminated"))
    error, _ = read(reader, {"type": "turn_finished", "stop_reason": "error", "error": "boom"})

    assert (error["error_type"], "terminated" in str(error["message"])) == ("llm_error", True)


@pytest.mark.parametrize("kind", ["user_message", "approval_response_message", "ping", ""])
def test_nothing_else_is_passed_on(kind: str) -> None:
    assert read(TurnReader("local-run-m", begun=True), delta(kind), {"type": "something_new"}) == []
