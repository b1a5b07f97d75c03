"""What a turn's frames become, in forms of an error that the App Server seldom has."""

from __future__ import annotations

import json

import pytest

from letta_conversations_mcp.backends.app_server.turn_stream import TurnReader
from letta_conversations_mcp.core.model import Chunk


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
