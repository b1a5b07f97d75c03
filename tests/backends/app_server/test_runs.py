"""Listed messages as turns and runs: which message belongs to which turn, and how a turn ended."""

from __future__ import annotations

from typing import Any

import pytest

from letta_conversations_mcp.backends.app_server.app_server_json import with_otid, without_repeats
from letta_conversations_mcp.backends.app_server.conversation_state import ControlRequest, LoopState
from letta_conversations_mcp.backends.app_server.runs import (
    CUT_OFF,
    FORGOTTEN,
    STOPPED_SHORT,
    is_of,
    run_id_of,
    run_of,
    shown,
    turns_of,
    with_run_ids,
)
from letta_conversations_mcp.core.model import Chunk, ToolCall

SILENCE = 60.0
IDLE = LoopState(active=False)
RUNS = LoopState(active=True, silent_seconds=SILENCE)
STALLS = LoopState(active=True, silent_seconds=SILENCE + 1)


def user(text: str, otid: str = "", message_id: str = "") -> Chunk:
    return {"message_type": "user_message", "content": text, "otid": otid, "id": message_id}


def says(text: str) -> Chunk:
    return {"message_type": "assistant_message", "content": text}


def asks(*call_ids: str) -> Chunk:
    return {"message_type": "approval_request_message", "tool_calls": [{"tool_call_id": each} for each in call_ids]}


def returns(text: str) -> Chunk:
    return {"message_type": "tool_return_message", "tool_return": text}


def waiting(*call_ids: str, active: bool = True) -> LoopState:
    return LoopState(active, tuple(ControlRequest(f"request-{each}", ToolCall(id=each)) for each in call_ids))


def test_a_turn_is_what_follows_a_message_up_to_the_next() -> None:
    first, second = [user("a", "otid-a"), says("A"), says("AA")], [user("b", message_id="message-b")]
    listed = [says("of a message that is not listed"), *first, *second]

    assert turns_of(listed) == [first, second]
    assert [run_id_of(each) for each in turns_of(listed)] == ["local-run-otid-a", "local-run-message-b"]
    assert [each["run_id"] for each in with_run_ids(listed)] == ["", *["local-run-otid-a"] * 3, "local-run-message-b"]


@pytest.mark.parametrize(
    ("answer", "state", "status", "why"),
    [
        ([says("yes")], None, "completed", "end_turn"),
        ([says("yes")], IDLE, "completed", "end_turn"),
        ([says("yes")], RUNS, "running", ""),
        ([], RUNS, "running", ""),
        ([says("ye")], STALLS, "failed", "stalled"),
        ([], None, "failed", "interrupted"),
        ([says("")], IDLE, "failed", "interrupted"),
        ([{"message_type": "reasoning_message", "reasoning": "hm"}], IDLE, "failed", "interrupted"),
        ([asks("1"), returns("done")], IDLE, "completed", "end_turn"),
        ([asks("1"), returns("Interrupted by user")], IDLE, "cancelled", "cancelled"),
        # Only the last word of a turn tells how it ended.
        ([asks("1"), returns("Interrupted by user"), says("yes")], IDLE, "completed", "end_turn"),
        ([asks("1")], waiting("1"), "completed", "requires_approval"),
        ([asks("1")], waiting("1", active=False), "completed", "requires_approval"),
        ([asks("1")], IDLE, "failed", "interrupted"),
        ([asks("1")], None, "failed", "interrupted"),
    ],
)
def test_how_a_turn_ended(answer: list[Chunk], state: LoopState | None, status: str, why: str) -> None:
    run = run_of([user("hello", "m"), *answer], state, SILENCE)

    assert (run.id, run.status) == ("local-run-m", status)
    assert why in ((run.failure.type if run.failure else run.stop_reason) or "")
    assert (run.stop_reason == "error") == (run.failure is not None) == (status == "failed")


def test_what_is_said_of_a_turn_that_failed_and_whether_its_message_is_stored() -> None:
    failures = [
        run_of([user("hello", "m"), *answer], state, SILENCE).failure
        for answer, state in (([says("ye")], STALLS), ([asks("1")], IDLE), ([], IDLE))
    ]

    assert failures[:2] == [STOPPED_SHORT, FORGOTTEN]
    assert failures[2]
    assert failures[2].stored
    assert "ended without an answer" in failures[2].message


@pytest.mark.parametrize(
    ("taken", "status"),
    [
        ([], "completed"),
        (["m"], "completed"),
        (["earlier"], "completed"),
        (["other", "m"], "completed"),
        (["other"], "failed"),
    ],
)
def test_an_answer_whose_message_no_run_has_taken_is_a_part_of_one(taken: list[str], status: str) -> None:
    turn = without_repeats([user("hello", "earlier"), user("hello", "m"), says("ye")])

    run = run_of(turn, LoopState(active=False, taken=frozenset(taken)), SILENCE)

    assert run.status == status
    assert run.failure == (CUT_OFF if status == "failed" else None)
    assert run.stop_reason == ("error" if status == "failed" else "end_turn")


def test_a_message_that_is_stored_again_for_another_attempt_is_one_message() -> None:
    listed = [user("hello", "one"), user("hello", "two"), user("hi", "two"), says("yes"), user("hello", "three")]

    [first, second] = turns_of(without_repeats(listed))

    assert [each["content"] for each in first] == ["hi", "yes"]
    assert [is_of(first, f"local-run-{each}") for each in ("one", "two", "three", "")] == [True, True, False, False]
    assert [is_of(second, f"local-run-{each}") for each in ("one", "two", "three", "")] == [False, False, True, False]


@pytest.mark.parametrize(
    ("before", "again"),
    [
        (user("hello", "one"), user("goodbye", "two")),
        (user("hello"), user("hello")),
        ({**user("hello", "one"), "message_type": "assistant_message"}, user("hello", "one")),
        (user("hello", "one"), {**user("hello", "one"), "message_type": "assistant_message"}),
    ],
)
def test_other_messages_are_not_taken_for_a_repetition(before: Chunk, again: Chunk) -> None:
    assert without_repeats([before, again]) == [before, again]


@pytest.mark.parametrize(("sent_as", "otid"), [("m", "m"), ("m~2", "m"), ("m~12", "m"), ("", "")])
def test_every_attempt_at_a_message_bears_its_otid(sent_as: str, otid: str) -> None:
    assert with_otid({"otid": sent_as, "id": "1"}) == {"otid": otid, "id": "1"}


@pytest.mark.parametrize(
    ("state", "kinds"),
    [
        (None, ["tool_call_message", "tool_call_message"]),
        (IDLE, ["tool_call_message", "tool_call_message"]),
        (waiting("2"), ["tool_call_message", "approval_request_message"]),
        (waiting("1", "3"), ["approval_request_message", "approval_request_message"]),
    ],
)
def test_only_calls_that_wait_for_a_decision_are_requests(state: LoopState | None, kinds: list[str]) -> None:
    turn: list[Any] = [user("hello", "m"), asks("1"), asks("2", "3"), says("yes")]

    assert [each["message_type"] for each in shown(turn, state)] == ["user_message", *kinds, "assistant_message"]
