"""From the bytes of a stream to one Turn: what a real server was seen to send, whole, cut and in pieces."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest

from letta_conversations_mcp.core.model import ToolCall, Turn
from tests.rig.captured import STREAMS, builder_of, chunks_of, turn_of


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

    # The run's id, its time and the count of tokens are of the day, not of the case.
    other = {"run_id": step.run_id, "at": step.at, "usage": step.usage}
    assert tokens.model_copy(update=other) == step
