"""Reading Letta's JSON of messages, as servers send it and as none should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_conversations_mcp.core.message_json import (
    DENIED,
    KIND_OF_TYPE,
    calls_of,
    int_field,
    read_failure,
    read_message,
    returns_of,
    text_of,
)
from letta_conversations_mcp.core.model import Chunk, Message, ToolCall, TurnFailure

ALERT = '{"type": "system_alert", "message": "Note: older messages are hidden.", "time": "2026-11-21"}'
ARGUMENTS = '{"query": "tea"}'


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "text", "text": "see"}, {"type": "image", "source": {"data": "AAAA"}}], "see [image]"),
        (["a", {"type": "text", "text": "b"}], "ab"),
        ([{"type": "audio"}, 7, None, {"text": 3}], ""),
        (None, ""),
        ({"text": "no list"}, ""),
        (7, ""),
    ],
)
def test_the_text_of_a_content_is_its_words_with_images_named(content: object, text: str) -> None:
    assert text_of(content) == text


@pytest.mark.parametrize(("value", "number"), [(3, 3), (0, 0), (-1, -1), (True, 0), ("3", 0), (3.0, 0), (None, 0)])
def test_only_whole_numbers_are_numbers(value: object, number: int) -> None:
    assert int_field({"n": value}, "n") == number


@pytest.mark.parametrize(
    ("chunk", "names"),
    [
        ({"tool_calls": [{"name": "a"}, {"name": "b"}], "tool_call": {"name": "a"}}, ["a", "b"]),
        ({"tool_calls": {"name": "a"}, "tool_call": {"name": "a"}}, ["a"]),
        ({"tool_call": {"name": "a"}}, ["a"]),
        ({"tool_calls": [], "tool_call": {"name": "a"}}, ["a"]),
        ({"tool_calls": None, "tool_call": {"name": "a"}}, ["a"]),
        ({"tool_calls": "odd", "tool_call": "odd"}, []),
        ({}, []),
    ],
)
def test_tool_calls_are_found_in_each_shape_and_never_twice(chunk: Chunk, names: list[str]) -> None:
    assert [call["name"] for call in calls_of(chunk)] == names


def test_a_tool_return_is_read_from_its_list_or_else_from_the_message_itself() -> None:
    alone: Chunk = {"name": "search", "tool_call_id": "a", "tool_return": "3 hits", "status": "success"}
    listed: Chunk = {**alone, "tool_returns": [{"tool_call_id": "b", "status": "error", "tool_return": "no"}]}

    assert list(returns_of(alone)) == [ToolCall(id="a", name="search", status="success", result="3 hits")]
    assert list(returns_of(listed)) == [ToolCall(id="b", name="search", status="error", result="no")]


HEAD = {"id": "message-1", "date": "2026-11-21T00:52:48+00:00", "otid": "o", "run_id": "run-1"}
COMMON = {"id": "message-1", "at": "2026-11-21T00:52:48+00:00", "otid": "o", "run_id": "run-1"}


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({"message_type": "user_message", "content": "hi"}, {"kind": "user", "text": "hi"}),
        ({"message_type": "user_message", "content": ALERT}, {"kind": "user", "text": ALERT}),
        ({"message_type": "summary_message", "summary": "Before."}, {"kind": "summary", "text": "Before."}),
        ({"message_type": "assistant_message", "content": "yes"}, {"kind": "assistant", "text": "yes"}),
        ({"message_type": "system_message", "content": "You are"}, {"kind": "system", "text": "You are"}),
        ({"message_type": "reasoning_message", "reasoning": "hm"}, {"kind": "reasoning", "text": "hm"}),
        ({"message_type": "hidden_reasoning_message", "hidden_reasoning": "x"}, {"kind": "reasoning", "text": "x"}),
        ({"message_type": "hidden_reasoning_message", "state": "omitted"}, {"kind": "reasoning", "text": "(hidden)"}),
        (
            {
                "message_type": "tool_call_message",
                "tool_call": {"tool_call_id": "a", "name": "s", "arguments": ARGUMENTS},
            },
            {"kind": "tool", "calls": (ToolCall(id="a", name="s", arguments=ARGUMENTS),)},
        ),
        (
            {"message_type": "approval_request_message", "tool_calls": [{"tool_call_id": "a", "name": "rm"}]},
            {"kind": "approval", "calls": (ToolCall(id="a", name="rm"),)},
        ),
        (
            {"message_type": "tool_return_message", "tool_call_id": "a", "status": "error", "tool_return": "no"},
            {"kind": "tool", "calls": (ToolCall(id="a", status="error", result="no"),)},
        ),
        (
            {"message_type": "approval_response_message", "approve": False, "reason": "not now"},
            {"kind": "approval", "text": "denied: not now"},
        ),
        (
            {"message_type": "approval_response_message", "approvals": [{"approve": True}, {"approve": False}]},
            {"kind": "approval", "text": "approved, denied"},
        ),
        ({"message_type": "approval_response_message"}, {"kind": "approval", "text": ""}),
        ({"message_type": "event_message", "content": "x"}, {"kind": "other", "text": "x"}),
        ({"message_type": "hologram_message", "content": "x"}, {"kind": "other", "text": "x"}),
        ({}, {"kind": "other", "type": ""}),
    ],
)
def test_a_listed_message_is_read_by_its_kind(fields: Chunk, read: dict[str, object]) -> None:
    expected = {"type": fields.get("message_type"), **COMMON, **read}

    assert read_message({**HEAD, **fields}) == Message.model_validate(expected)


json_values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
FIELDS = [
    "id",
    "date",
    "content",
    "reasoning",
    "tool_call",
    "tool_calls",
    "tool_returns",
    "approvals",
    "approve",
    "reason",
]


@given(st.sampled_from(sorted(KIND_OF_TYPE)) | json_values, st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_no_message_of_any_shape_breaks_the_reading(message_type: object, fields: dict[str, object]) -> None:
    message = read_message({**fields, "message_type": message_type})

    known = isinstance(message_type, str) and message_type in KIND_OF_TYPE
    assert message.kind == (KIND_OF_TYPE[str(message_type)] if known else "other")
    assert message.id == (fields["id"] if isinstance(fields.get("id"), str) else "")


def test_a_failure_of_odd_fields_is_a_failure_without_words() -> None:
    assert read_failure({"error_type": None, "message": ["x"], "detail": 5}).model_dump() == {
        "type": "",
        "message": "",
        "detail": "",
        "stored": False,
    }


@pytest.mark.parametrize(
    ("status", "result", "expected"),
    [
        ("success", f"{DENIED} no", "success"),
        ("error", "it broke", "error"),
        ("error", f"{DENIED} not now", "denied"),
        ("error", f"it said: {DENIED}", "error"),
        ("error", [{"type": "text", "text": DENIED}], "denied"),
    ],
)
def test_only_a_call_that_was_denied_is_told_as_denied(status: str, result: object, expected: str) -> None:
    [call] = returns_of({"tool_call_id": "a", "status": status, "tool_return": result})

    assert call.status == expected


@pytest.mark.parametrize(("stored", "is_stored"), [(True, True), (False, False), (None, False), ("true", False)])
def test_a_failure_says_whether_the_message_is_stored_only_where_the_server_does(
    stored: object, is_stored: bool
) -> None:
    failure = read_failure({"error_type": "llm_error", "message": "broke", "detail": "more", "stored": stored})

    assert failure == TurnFailure(type="llm_error", message="broke", detail="more", stored=is_stored)


@pytest.mark.parametrize("name", ["summary", "content"])
def test_a_summary_is_read_from_either_field(name: str) -> None:
    assert read_message({"message_type": "summary_message", name: "so far"}).text == "so far"
