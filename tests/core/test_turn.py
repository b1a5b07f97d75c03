"""From a stream of chunks to one Turn: real streams, whole, cut and in pieces; and odd chunks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from letta_client.types import StopReasonType

from letta_conversations_mcp.core.model import Chunk, ToolCall, Turn, TurnFailure, Usage
from letta_conversations_mcp.core.turn import SILENT_KINDS
from tests.core.captured import STREAMS, builder_of, chunks_of, turn_of


@dataclass(frozen=True)
class Expected:
    """The facts of a captured turn. `reply` is the whole reply, or how it begins when `reply_goes_on`; `calls` are
    (name, arguments, status); `failure` is (type, a part of its detail)."""

    status: str = "completed"
    stop_reason: str = "end_turn"
    reply: str = ""
    reply_goes_on: bool = False
    reasoning: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    failure: tuple[str, str] | None = None
    compacted: bool = False
    tokens: int | None = None
    approvals: tuple[str, ...] = field(default=())


def _tool_result(call: tuple[str, str, str], tokens: int, reply: str = 'tool result: {\n  "status": "OK"') -> Expected:
    return Expected(reply=reply, reply_goes_on=True, calls=(call,), tokens=tokens)


def _failed(kind: str, detail: str, stop_reason: str = "llm_api_error", reply: str = "") -> Expected:
    return Expected("failed", stop_reason, reply, failure=(kind, detail))


def _waits_for(name: str, arguments: str, call_id: str, tokens: int) -> Expected:
    calls = ((name, arguments, "pending"),)
    return Expected("needs_approval", "requires_approval", calls=calls, tokens=tokens, approvals=(call_id,))


SEARCH = "conversation_search"
OK_ARGUMENTS = '{"label":"human","new_string":"OK"}'
SUMMARISED = "echo: Note: prior messages have been hidden from view"

CAPTURED = {
    "01_default_echo": Expected(reply="echo: hello", tokens=682),
    "02_stream_tokens": Expected(reply="echo: hello there my dear friend", tokens=697),
    "03_nopings": Expected(reply="echo: hello", tokens=700),
    "05_input": Expected(reply="echo: hello by input", tokens=714),
    "10_reason_step": Expected(
        reply="reasoned: the sky is blue", reasoning="I think about: the sky is blue", tokens=691
    ),
    "11_reason_tokens": Expected(
        reply="reasoned: the sky is blue", reasoning="I think about: the sky is blue", tokens=703
    ),
    "12_tool_step": _tool_result((SEARCH, '{"query": "hello"}', "success"), 1789),
    "13_tool_tokens": _tool_result(("memory_insert", '{"label":"human","new_string":"Likes tea"}', "success"), 2236),
    "14_tool_with_text_tokens": _tool_result(
        (SEARCH, '{"query":"hello"}', "success"), 2638, reply='Calling\n\ntool result: {\n  "status": "OK"'
    ),
    # The agent allows one call at a time: the second is streamed, and never run.
    "15_parallel_tools_tokens": Expected(
        reply='tool result: {\n  "status": "OK"',
        reply_goes_on=True,
        calls=((SEARCH, '{"query":"a1"}', "success"), (SEARCH, '{"query":"b2"}', "pending")),
        tokens=3065,
    ),
    "16_parallel_tools_step": _tool_result((SEARCH, '{"query": "a1"}', "success"), 3331),
    "17_max_steps": Expected("empty", "max_steps", calls=((SEARCH, '{"query": "zz"}', "success"),) * 2, tokens=3543),
    "18_unknown_tool": _tool_result(
        ("no_such_tool", '{"a": 1}', "error"), 3891, reply='tool result: {\n  "status": "Failed"'
    ),
    "19_bad_json": _tool_result((SEARCH, "{}", "success"), 4217),
    "19b_bad_json_tokens": _tool_result((SEARCH, '{"query": "x', "success"), 4771),
    "30_auth_step": _failed("llm_authentication", "Incorrect API key provided"),
    "30_auth_tokens": _failed("llm_authentication", "Incorrect API key provided"),
    "30_drop_step": _failed("llm_error", "Failed to connect to OpenAI: Connection error."),
    "30_drop_tokens": _failed("internal_error", "peer closed connection", reply="c0 c1 c2"),
    "30_empty_step": _failed("llm_empty_response", "empty content in response", "invalid_llm_response"),
    "30_empty_tokens": Expected("empty", tokens=21084),
    "30_err400_step": _failed("llm_error", "fake failure 400"),
    "30_err400_tokens": _failed("llm_error", "fake failure 400"),
    "30_err500_step": _failed("llm_error", "fake failure 500"),
    "30_err500_tokens": _failed("llm_error", "fake failure 500"),
    "30_length_step": Expected(stop_reason="max_tokens_exceeded", reply="cut off here", tokens=21089),
    "30_length_tokens": Expected(reply="cut off here", tokens=21094),
    "30_midfail_step": Expected(reply="c0 c1 c2 c3 c4 c5 c6 c7", tokens=21107),
    "30_midfail_tokens": _failed("internal_error", "fake failure in mid stream", reply="c0 c1 c2"),
    "30_overflow_always_step": Expected(
        "failed", "error", failure=("internal_error", "CONTEXT_WINDOW_EXCEEDED"), compacted=True
    ),
    "30_overflow_once_step": Expected(reply=SUMMARISED, reply_goes_on=True, compacted=True, tokens=822),
    "30_overflow_once_tokens": Expected(reply="fits now", compacted=True, tokens=923),
    "30_ratelimit_step": _failed("llm_rate_limit", "Rate limit reached"),
    "30_ratelimit_tokens": _failed("llm_rate_limit", "Rate limit reached"),
    "40_background_tokens": Expected(reply="0000000 0000001 0000002 0000003 0000004 0000005", tokens=699),
    "50_overflow_compaction_default": Expected(reply="fits now", compacted=True, tokens=789),
    "51_overflow_compaction_msgs": Expected(reply="fits now", compacted=True, tokens=788),
    "60_approval_step": _waits_for("memory_insert", OK_ARGUMENTS, "call_fake1_0", 695),
    "61_approval_tokens": _waits_for("memory_insert", OK_ARGUMENTS, "call_fake4_0", 696),
    "63_approve": _tool_result(("memory_insert", "", "success"), 746),
    # In token mode the return of a decided call is not streamed.
    "64_deny": Expected(
        reply='tool result: {\n  "status": "Failed",\n  "message": "Error: request to call tool denied.',
        reply_goes_on=True,
        tokens=764,
    ),
    "65_approve_legacy": _tool_result(("memory_insert", "", "success"), 749),
    "66_client_tool_step": _waits_for("read_local", '{"p":"/x"}', "call_fake12_0", 690),
    "66_client_tool_step_return": _tool_result(("", "", "success"), 739),
    "67_client_tool_tokens": _waits_for("read_local", '{"p":"/x"}', "call_fake16_0", 690),
    "67_client_tool_tokens_return": Expected(
        reply='tool result: {\n  "status": "OK",\n  "message": "FILE CONTENT"', reply_goes_on=True, tokens=739
    ),
    "70_slow90_pings": Expected(reply="answered after 90 s", tokens=685),
}

every_stream = pytest.mark.parametrize("name", STREAMS)


@every_stream
async def test_a_captured_stream_becomes_the_turn_that_it_tells_of(name: str) -> None:
    expected = CAPTURED[name]

    turn = turn_of(*await chunks_of(STREAMS[name]))

    assert turn.reply.startswith(expected.reply)
    told = Expected(
        status=turn.status,
        stop_reason=turn.stop_reason,
        reply=expected.reply if expected.reply_goes_on else turn.reply,
        reply_goes_on=expected.reply_goes_on,
        reasoning=turn.reasoning,
        calls=tuple((call.name, call.arguments, call.status) for call in turn.tool_calls),
        failure=(turn.failure.type, _within(turn.failure.detail, expected)) if turn.failure else None,
        compacted=turn.compacted,
        tokens=turn.usage.total_tokens if turn.usage else None,
        approvals=tuple(call.id for call in turn.approvals),
    )
    assert told == expected
    assert turn.unknown_kinds == {}
    assert turn.run_id.encode() in STREAMS[name]
    assert turn.run_id.startswith("run-")
    assert all(call.result for call in turn.tool_calls if call.status != "pending")


def _within(detail: str, expected: Expected) -> str:
    """The expected part of a failure's detail when it is in it, else the detail."""
    part = expected.failure[1] if expected.failure else ""
    return part if part and part in detail else detail


def test_every_expectation_has_its_stream() -> None:
    assert STREAMS.keys() == CAPTURED.keys()


@every_stream
async def test_a_stream_cut_anywhere_gives_what_it_gave_so_far(name: str) -> None:
    chunks = await chunks_of(STREAMS[name])
    whole = turn_of(*chunks)
    told_the_end = [chunk.get("message_type") in ("stop_reason", "error_message") for chunk in chunks]

    for count in range(len(chunks)):
        so_far = builder_of(chunks[:count])
        turn = so_far.build()
        assert whole.reply.startswith(turn.reply)
        assert whole.reasoning.startswith(turn.reasoning)
        assert all(full.arguments.startswith(part.arguments) for full, part in _pairs(whole, turn))
        assert so_far.ended == any(told_the_end[:count])
        assert (turn.status == "running") == (not so_far.ended)


def _pairs(whole: Turn, part: Turn) -> list[tuple[ToolCall, ToolCall]]:
    by_id = {call.id: call for call in whole.tool_calls}
    return [(by_id[call.id], call) for call in part.tool_calls]


SMALL_ENOUGH_FOR_EVERY_BYTE = 5_500


@pytest.mark.parametrize("name", [name for name, body in STREAMS.items() if len(body) <= SMALL_ENOUGH_FOR_EVERY_BYTE])
async def test_bytes_cut_anywhere_give_only_whole_events(name: str) -> None:
    body = STREAMS[name]
    chunks = await chunks_of(body)
    ends = [match.end() for match in re.finditer(rb"\n\n", body)]

    for position in range(len(body)):
        complete = sum(end <= position for end in ends)
        assert await chunks_of(body[:position]) == chunks[:complete]


@every_stream
async def test_a_stream_is_the_same_turn_in_whatever_pieces_it_comes(name: str) -> None:
    body = STREAMS[name]
    whole = turn_of(*await chunks_of(body))

    assert turn_of(*await chunks_of(*[body[i : i + 1] for i in range(len(body))])) == whole
    assert turn_of(*await chunks_of(body.replace(b"\n", b"\r\n"))) == whole
    assert turn_of(*await chunks_of(*re.findall(rb"\r|[^\r]+", body.replace(b"\n", b"\r\n")))) == whole
    assert turn_of(*await chunks_of(body.replace(b"\n\n", b"\n: keep-alive\n\n"))) == whole


@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
async def test_letters_of_several_bytes_survive_any_split(pieces: int) -> None:
    said = "naïve 漢字 🙂 \u2028 line\x85 end"
    event = f'data: {{"message_type":"assistant_message","otid":"a","content":"{said}"}}\n\n'.encode()

    chunks = await chunks_of(*[event[i : i + pieces] for i in range(0, len(event), pieces)])

    assert turn_of(*chunks).reply == said


async def test_nothing_after_the_end_mark_is_read() -> None:
    late = b'data: {"message_type":"assistant_message","otid":"late","content":"late"}\n\n'

    assert turn_of(*await chunks_of(STREAMS["01_default_echo"], late)).reply == "echo: hello"


@pytest.mark.parametrize("data", ["{", "", "null", "[]", "3", '"text"', "<html>", '{"a":NaN,}'])
async def test_an_event_that_is_no_json_object_is_counted_and_does_no_harm(data: str) -> None:
    odd = f"event: message\ndata: {data}\n\n".encode()

    turn = turn_of(*await chunks_of(odd, STREAMS["01_default_echo"]))

    assert (turn.status, turn.reply, turn.unknown_kinds) == ("completed", "echo: hello", {"(none)": 1})


@pytest.mark.parametrize("case", ["reason", "auth", "err400", "err500", "ratelimit"])
async def test_step_mode_and_token_mode_of_one_case_give_the_same_turn(case: str) -> None:
    step, tokens = [turn_of(*await chunks_of(body)) for name, body in STREAMS.items() if name.split("_")[1] == case]

    # The run's id and the count of tokens are of the day, not of the case.
    other = {"run_id": step.run_id, "usage": step.usage}
    assert tokens.model_copy(update=other) == step


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


@settings(max_examples=80)
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


def test_usage_is_read_and_what_is_no_number_reads_as_nothing() -> None:
    usage = {"message_type": "usage_statistics", "prompt_tokens": 5, "total_tokens": 9, "step_count": True}

    assert turn_of({**usage, "completion_tokens": "4"}).usage == Usage(prompt_tokens=5, total_tokens=9)


def test_a_field_that_has_a_lone_surrogate_breaks_nothing() -> None:
    half = "\ud83d"
    alert = {"message_type": "user_message", "content": f'{{"type":"system_alert","message":"{half}"}}'}

    turn = turn_of(_piece("assistant_message", half, content=half), alert, END)

    assert turn.status == "completed"
