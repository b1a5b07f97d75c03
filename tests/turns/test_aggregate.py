"""From a stream of chunks to one Turn: fragments, kinds, calls, endings; and chunks of any shape."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from letta_client.types import StopReasonType

from letta_conversations_mcp.core.model import Chunk, ToolCall, Turn, TurnFailure, Usage
from letta_conversations_mcp.turns.aggregate import SILENT_KINDS
from tests.rig.captured import STREAMS, builder_of, chunks_of, turn_of


def _piece(kind: str, otid: str, **fields: object) -> Chunk:
    return {"message_type": kind, "id": "message-1", "otid": otid, **fields}


END: Chunk = {"message_type": "stop_reason", "stop_reason": "end_turn"}
fragments = st.lists(st.text(max_size=8), min_size=1, max_size=6)


@given(said=fragments, thought=fragments, arguments=fragments)
def test_fragments_of_tokens_give_what_whole_steps_give(
    said: list[str], thought: list[str], arguments: list[str]
) -> None:
    call = {"tool_call_id": "call-1", "name": "search"}
    first = {**call, "arguments": None}
    by_token = turn_of(
        *[_piece("reasoning_message", "0", reasoning=each) for each in thought],
        *[_piece("assistant_message", "1", content=each) for each in said],
        _piece("tool_call_message", "2", tool_call=first, tool_calls=first),
        *[_piece("tool_call_message", "2", tool_calls={"tool_call_id": "call-1", "arguments": a}) for a in arguments],
        END,
    )
    whole_call = {**call, "arguments": "".join(arguments)}
    by_step = turn_of(
        _piece("reasoning_message", "0", reasoning="".join(thought)),
        _piece("assistant_message", "1", content="".join(said)),
        _piece("tool_call_message", "2", tool_call=whole_call, tool_calls=[whole_call]),
        END,
    )

    assert by_token == by_step
    assert by_step.reply == "".join(said).rstrip()
    assert [call.arguments for call in by_step.tool_calls] == ["".join(arguments)]


def test_what_was_said_before_and_after_a_tool_stands_in_paragraphs() -> None:
    turn = turn_of(
        _piece("assistant_message", "1", content="Let me "),
        _piece("assistant_message", "1", content="look. "),
        _piece("assistant_message", "2", content=""),
        _piece("assistant_message", "3", content="Found it.\n"),
    )

    assert turn.reply == "Let me look.\n\nFound it."


@given(resumed_from=st.integers(0, 8), seen=st.integers(0, 9))
async def test_a_background_stream_that_is_resumed_gives_nothing_twice(resumed_from: int, seen: int) -> None:
    chunks = await chunks_of(STREAMS["40_background_tokens"])
    start = min(resumed_from, seen)

    resumed = turn_of(*chunks[:seen], *chunks[start:])

    assert resumed == turn_of(*chunks)


async def test_a_stream_without_numbers_that_repeats_itself_is_not_taken_for_a_resumed_one() -> None:
    word = _piece("assistant_message", "1", content="ha", seq_id=None)

    assert turn_of(word, word, word).reply == "hahaha"


def test_chunks_of_unknown_kinds_are_counted_and_named_and_change_nothing_else() -> None:
    new = {"message_type": "hologram_message", "content": "?"}
    said = _piece("assistant_message", "1", content="Yes.")

    turn = turn_of(new, said, new, {"message_type": "x" * 10_000}, {"content": "no kind"}, {"message_type": 7}, END)

    assert turn.unknown_kinds == {"hologram_message": 2, "x" * 64: 1, "(none)": 2}
    assert turn.model_copy(update={"unknown_kinds": {}}) == turn_of(said, END)


@pytest.mark.parametrize("kind", sorted(SILENT_KINDS))
def test_kinds_that_belong_to_every_turn_say_nothing(kind: str) -> None:
    said = _piece("assistant_message", "1", content="Yes.")

    assert turn_of({"message_type": kind, "content": "no alert"}, said, END) == turn_of(said, END)


def test_the_message_that_a_turn_answers_is_kept_with_it() -> None:
    said = _piece("assistant_message", "1", content="Yes.")

    assert turn_of({"message_type": "user_message", "content": "Really?"}, said, END).message == "Really?"


json_values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
KINDS = [
    "assistant_message",
    "reasoning_message",
    "hidden_reasoning_message",
    "tool_call_message",
    "approval_request_message",
    "tool_return_message",
    "stop_reason",
    "usage_statistics",
    "error_message",
    "summary_message",
    "user_message",
    "ping",
]
CALL_FIELDS = ["tool_call_id", "name", "arguments", "status", "tool_return"]
TEXT_FIELDS = ["id", "otid", "run_id", "content", "reasoning", "hidden_reasoning", "stop_reason", "message", "detail"]
OTHER_FIELDS = ["tool_call", "tool_calls", "tool_returns", "seq_id", "prompt_tokens", "total_tokens", "summary"]
call_like = st.dictionaries(st.sampled_from(CALL_FIELDS), json_values)
field_values: st.SearchStrategy[object] = json_values | call_like | st.lists(call_like, max_size=3)


@st.composite
def odd_chunks(draw: st.DrawFn) -> Chunk:
    fields = draw(st.dictionaries(st.sampled_from(CALL_FIELDS + TEXT_FIELDS + OTHER_FIELDS), field_values, max_size=8))
    return {**fields, "message_type": draw(st.sampled_from(KINDS) | json_values)}


@given(st.lists(odd_chunks(), max_size=8))
def test_no_chunk_of_any_shape_breaks_a_turn(chunks: list[Chunk]) -> None:
    builder = builder_of([])
    for chunk in chunks:
        builder.add(chunk)
        turn = builder.build()
        assert builder.doing
        assert (turn.status == "running") == (not builder.ended)
        assert Turn.model_validate_json(turn.model_dump_json()) == turn

    builder.add(END)
    assert builder.ended


@pytest.mark.parametrize("as_list", [False, True])
def test_fragments_without_ids_belong_to_the_call_that_was_named_last_in_their_piece(as_list: bool) -> None:
    def fragment(otid: str, **fields: object) -> Chunk:
        return _piece("tool_call_message", otid, tool_calls=[fields] if as_list else fields)

    turn = turn_of(
        fragment("1", tool_call_id="a", name="first"),
        fragment("1", arguments='{"n"'),
        fragment("2", tool_call_id="c", name="elsewhere"),
        fragment("1", arguments=":1}"),
        fragment("1", tool_call_id="b", name="second"),
        fragment("1", arguments='{"n":2}'),
        fragment("2", arguments="{}"),
    )

    assert turn.tool_calls == (
        ToolCall(id="a", name="first", arguments='{"n":1}'),
        ToolCall(id="c", name="elsewhere", arguments="{}"),
        ToolCall(id="b", name="second", arguments='{"n":2}'),
    )


def test_a_call_that_never_had_an_id_is_one_call() -> None:
    turn = turn_of(
        _piece("tool_call_message", "1", tool_call={"name": "search"}),
        _piece("tool_call_message", "1", tool_call={"arguments": "{}"}),
    )

    assert turn.tool_calls == (ToolCall(name="search", arguments="{}"),)


def test_the_results_of_parallel_calls_stand_at_their_calls_in_the_order_of_the_calls() -> None:
    calls = [{"tool_call_id": "a", "name": "one", "arguments": "1"}, {"tool_call_id": "b", "name": "two"}]
    returns = [
        {"tool_call_id": "b", "status": "error", "tool_return": "no"},
        {"tool_call_id": "a", "status": "success", "tool_return": [{"type": "text", "text": "yes"}]},
    ]

    turn = turn_of(
        _piece("tool_call_message", "1", tool_calls=calls), _piece("tool_return_message", "2", tool_returns=returns)
    )

    assert turn.tool_calls == (
        ToolCall(id="a", name="one", arguments="1", status="success", result="yes"),
        ToolCall(id="b", name="two", status="error", result="no"),
    )


def test_the_result_of_a_call_that_was_not_seen_is_kept() -> None:
    turn = turn_of(_piece("tool_return_message", "1", name="search", tool_call_id="a", tool_return="3 hits"))

    assert turn.tool_calls == (ToolCall(id="a", name="search", status="success", result="3 hits"),)


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (("error", "llm_api_error"), "llm_api_error"),
        (("llm_api_error", "error"), "llm_api_error"),
        (("error", "error"), "error"),
        (("max_steps", "end_turn"), "max_steps"),
    ],
)
def test_of_two_stop_reasons_the_more_precise_one_stays(reasons: tuple[str, str], told: str) -> None:
    turn = turn_of(*({"message_type": "stop_reason", "stop_reason": reason} for reason in reasons))

    assert turn.stop_reason == told


PROPER_STOPS = {"end_turn", "tool_rule", "max_steps", "max_tokens_exceeded", "cancelled", "requires_approval"}


@pytest.mark.parametrize("reason", sorted(set(get_args(StopReasonType)) - PROPER_STOPS))
def test_a_turn_that_stopped_in_a_fault_has_failed_whatever_it_said(reason: str) -> None:
    stop = {"message_type": "stop_reason", "stop_reason": reason}

    turn = turn_of(_piece("assistant_message", "1", content="Half a"), stop)

    assert (turn.status, turn.reply) == ("failed", "Half a")


@pytest.mark.parametrize(
    ("reason", "silent", "speaking"),
    [
        ("end_turn", "empty", "completed"),
        ("tool_rule", "empty", "completed"),
        ("max_steps", "empty", "completed"),
        ("max_tokens_exceeded", "empty", "completed"),
        ("cancelled", "cancelled", "cancelled"),
        ("requires_approval", "needs_approval", "needs_approval"),
        ("a_reason_of_tomorrow", "empty", "completed"),
    ],
)
def test_the_status_follows_from_the_stop_reason_and_the_reply(reason: str, silent: str, speaking: str) -> None:
    stop = {"message_type": "stop_reason", "stop_reason": reason}

    assert turn_of(stop).status == silent
    assert turn_of(_piece("assistant_message", "1", content="Yes."), stop).status == speaking


def test_an_error_event_keeps_its_own_words_and_fails_the_turn() -> None:
    event = {"message_type": "error_message", "error_type": "llm_error", "message": "It broke.", "detail": "At 4 <pm>"}

    turn = turn_of(END, event)

    assert turn.status == "failed"
    assert turn.failure == TurnFailure(type="llm_error", message="It broke.", detail="At 4 <pm>")


def test_an_approval_that_was_decided_waits_no_more() -> None:
    request = _piece("approval_request_message", "1", tool_call={"tool_call_id": "a", "name": "rm", "arguments": "{}"})
    other = _piece("tool_call_message", "2", tool_call={"tool_call_id": "b", "name": "ls"})
    result = _piece("tool_return_message", "3", tool_call_id="a", tool_return="done")
    stop = {"message_type": "stop_reason", "stop_reason": "requires_approval"}

    assert [call.name for call in turn_of(request, other, stop).approvals] == ["rm"]
    assert turn_of(request, other).approvals == ()
    assert turn_of(request, other, result, stop).approvals == ()


def test_what_the_agent_is_doing_is_told_for_a_progress_report() -> None:
    call = _piece("tool_call_message", "2", tool_call={"tool_call_id": "a", "name": "search"})
    result = _piece("tool_return_message", "3", tool_call_id="a", tool_return="done")
    word = _piece("assistant_message", "4", content="So")

    assert builder_of([]).doing == "thinking"
    assert builder_of([call]).doing == "running tool search"
    assert builder_of([call, result]).doing == "thinking"
    assert builder_of([call, result, word]).doing == "writing its answer"


def test_an_agent_that_got_a_result_after_it_spoke_is_thinking_again() -> None:
    word = _piece("assistant_message", "1", content="Let me look.")
    call = _piece("tool_call_message", "2", tool_call={"tool_call_id": "a", "name": "search"})
    result = _piece("tool_return_message", "3", tool_call_id="a", tool_return="done")

    assert builder_of([word, call, result]).doing == "thinking"


def test_hidden_thoughts_and_new_summaries_are_taken() -> None:
    turn = turn_of(
        _piece("hidden_reasoning_message", "1", hidden_reasoning="redacted"),
        {"message_type": "summary_message", "summary": "Before: much."},
    )

    assert (turn.reasoning, turn.compacted) == ("redacted", True)


def test_every_number_of_the_usage_is_read_from_its_own_field() -> None:
    numbers = {
        "prompt_tokens": 5,
        "completion_tokens": 4,
        "total_tokens": 9,
        "step_count": 2,
        "context_tokens": 7,
    }

    assert turn_of({"message_type": "usage_statistics", **numbers}).usage == Usage(**numbers)


def test_usage_is_read_and_what_is_no_number_reads_as_nothing() -> None:
    usage = {"message_type": "usage_statistics", "prompt_tokens": 5, "total_tokens": 9, "step_count": True}

    assert turn_of({**usage, "completion_tokens": "4"}).usage == Usage(prompt_tokens=5, total_tokens=9)


def test_a_field_that_has_a_lone_surrogate_breaks_nothing() -> None:
    half = "\ud83d"
    alert = {"message_type": "user_message", "content": f'{{"type":"system_alert","message":"{half}"}}'}

    turn = turn_of(_piece("assistant_message", half, content=half), alert, END)

    assert turn.status == "completed"
