"""What send_message and wait_for_reply answer: one turn, in two forms, within a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from letta_conversations_mcp.conversations.transcript import CUT
from letta_conversations_mcp.core.model import ConversationRef, ToolCall, Turn, TurnFailure, TurnStatus, Usage
from letta_conversations_mcp.tools.results.reply import Reply, ReplyKind
from letta_conversations_mcp.turns.turn import WITHDRAWN
from tests.rig.captured import STREAMS, chunks_of, turn_of

UUID = "123e4567-e89b-42d3-a456-426614174000"
AGENT = f"agent-{UUID}"
PLACE = ConversationRef(conversation_id=f"conv-{UUID}", agent_id=AGENT)
DEFAULT = ConversationRef(conversation_id="default", agent_id=AGENT)
HERE = f"conversation_id='conv-{UUID}'"
BOTH: tuple[ReplyKind, ...] = ("reasoning", "tool")
ROOMY = 30_000
LEAST = 2_000
"""The smallest budget that the settings allow."""


def _reply(turn: Turn, *kinds: ReplyKind, ref: ConversationRef = PLACE, budget: int = ROOMY) -> Reply:
    return Reply.of(turn, ref, kinds, budget)


def _structured(reply: Reply) -> dict[str, object]:
    return cast("dict[str, object]", reply.to_mcp().structured_content)


def _sizes(reply: Reply) -> tuple[int, int]:
    """What the two forms cost: characters of the text as JSON, and of the structured form."""
    return len(to_json(reply.to_text()).decode()), len(to_json(_structured(reply)).decode())


def _repeated(unit: str, times: int) -> str:
    return unit * times


texts = st.builds(
    _repeated,
    st.text(alphabet='ab"\\\n\x00🙂é', min_size=1, max_size=6),
    st.sampled_from([0, 1, 40, 400, 4_000, 20_000]),
)
calls = st.builds(
    ToolCall,
    id=st.text(alphabet="abcdef0123456789_", min_size=1, max_size=29),
    name=st.text(alphabet="abcdef_", max_size=40),
    arguments=texts,
    status=st.sampled_from(["pending", "success", "error"]),
    result=texts,
)
turns = st.builds(
    Turn,
    status=st.sampled_from(get_args(TurnStatus)),
    reply=texts,
    reasoning=texts,
    stop_reason=st.sampled_from(["", "end_turn", "max_steps", "max_tokens_exceeded", "requires_approval"]),
    run_id=st.just(f"run-{UUID}"),
    usage=st.none() | st.builds(Usage, total_tokens=st.integers(0, 10**7), step_count=st.integers(0, 50)),
    failure=st.none() | st.builds(TurnFailure, type=st.just("llm_error"), message=st.text("ab é", max_size=400)),
    compacted=st.booleans(),
    unknown_kinds=st.dictionaries(st.text(alphabet="abc_", max_size=64), st.integers(1, 10**6), max_size=20),
)


@given(
    turn=turns,
    tool_calls=st.lists(calls, max_size=3),
    approvals=st.lists(calls, max_size=1),
    ref=st.sampled_from([PLACE, DEFAULT]),
    kinds=st.sets(st.sampled_from(BOTH)),
    budget=st.sampled_from([LEAST, 3_000, 10_000, ROOMY]),
)
def test_no_turn_of_any_length_exceeds_the_budget_in_either_form(
    turn: Turn,
    tool_calls: list[ToolCall],
    approvals: list[ToolCall],
    ref: ConversationRef,
    kinds: set[ReplyKind],
    budget: int,
) -> None:
    whole = turn.model_copy(update={"tool_calls": tuple(tool_calls), "approvals": tuple(approvals)})

    reply = _reply(whole, *kinds, ref=ref, budget=budget)

    assert max(_sizes(reply)) <= budget
    shown = reply.reply or reply.reply_so_far
    assert whole.reply.startswith(shown.removesuffix(CUT))
    is_cut = shown != whole.reply
    assert ("Cut to fit" in reply.note) >= is_cut


def test_a_call_of_very_many_lines_stays_within_the_budget() -> None:
    lines = ToolCall(id="call_1", name="run", arguments="\n" * 4000, status="pending")

    reply = _reply(Turn(status="needs_approval", approvals=(lines,)), budget=10_000)

    assert max(_sizes(reply)) <= 10_000


def test_a_failure_in_control_characters_stays_within_the_budget() -> None:
    failure = TurnFailure(message="\x00" * 400, detail="\x1b[31m" * 400)

    reply = _reply(Turn(status="failed", failure=failure), budget=LEAST)

    assert max(_sizes(reply)) <= LEAST


@pytest.mark.parametrize("kinds", [(), BOTH], ids=["named", "in full"])
def test_a_turn_of_very_many_calls_stays_within_the_budget(kinds: tuple[ReplyKind, ...]) -> None:
    many = tuple(
        ToolCall(
            id=f"call_{n}", name="conversation_search", arguments='{"query": "tea"}', status="success", result="no"
        )
        for n in range(600)
    )

    reply = _reply(Turn(status="completed", reply="Done. " * 50, stop_reason="end_turn", tool_calls=many), *kinds)

    assert max(_sizes(reply)) <= ROOMY
    assert reply.reply.startswith("Done.")


def test_what_json_makes_of_many_short_texts_counts() -> None:
    many = tuple(ToolCall(id=f"call_{n}", name="read", status="success", result="\x00" * 100) for n in range(20))

    reply = _reply(Turn(status="completed", reply="a" * 20_000, tool_calls=many), *BOTH)

    assert max(_sizes(reply)) <= ROOMY
    assert [call.result for call in reply.tool_calls] == ["\x00" * 100] * 20


def test_an_answer_that_fits_is_whole_and_says_nothing_of_cutting() -> None:
    reply = _reply(Turn(status="completed", reply="a" * 28_000, stop_reason="end_turn"))

    assert reply.reply == "a" * 28_000
    assert reply.note == ""


def test_what_is_cut_says_so_and_how_to_get_the_rest() -> None:
    reply = _reply(Turn(status="completed", reply="a" * 40_000, stop_reason="end_turn"))

    assert 28_000 <= len(reply.reply) < ROOMY
    assert f"Cut to fit; list_messages({HERE}, limit=5)" in reply.note
    assert reply.note in reply.to_text()


def test_a_long_tool_result_does_not_cost_the_reply() -> None:
    call = ToolCall(id="a", name="read", status="success", result="x" * 100_000)

    reply = _reply(Turn(status="completed", reply="Short.", tool_calls=(call,)), "tool", budget=LEAST)

    assert reply.reply == "Short."
    assert "Cut to fit" in reply.note


NEXT: dict[TurnStatus, str] = {
    "completed": "",
    "empty": "",
    "running": f"Still running. Call wait_for_reply({HERE}, run_id='run-1'). Do not send the message again.",
    "needs_approval": f"call respond_to_approval({HERE}, approve=true|false).",
    "failed": "it is safe to send the message again.",
    "cancelled": f"look with list_messages({HERE}) before sending it again.",
    "not_confirmed": f"call wait_for_reply({HERE}) to learn whether it arrived.",
    "unknown": f"Look with list_messages({HERE}) before sending it again.",
}


@pytest.mark.parametrize("status", get_args(TurnStatus))
def test_every_status_is_told_with_what_to_do_next(status: TurnStatus) -> None:
    reply = _reply(Turn(status=status, run_id="run-1"))

    assert reply.next.endswith(NEXT[status])
    assert bool(reply.next) == bool(NEXT[status])
    assert reply.to_text().startswith(f"[{status} · ")
    assert reply.to_text().endswith(reply.next)


def test_a_message_that_was_taken_back_is_said_never_to_have_arrived() -> None:
    assert "Letta never had it" in _reply(Turn(status="cancelled", stop_reason=WITHDRAWN)).next


def test_a_running_turn_whose_run_is_not_known_yet_is_waited_for_by_its_conversation() -> None:
    assert f"wait_for_reply({HERE})." in _reply(Turn(status="running")).next


@pytest.mark.parametrize("status", ["running", "needs_approval", "unknown"])
def test_the_next_call_names_the_agent_of_a_default_conversation(status: TurnStatus) -> None:
    assert f"conversation_id='default', agent='{AGENT}'" in _reply(Turn(status=status), ref=DEFAULT).next


@pytest.mark.parametrize(
    "done", [{"reply": "Half a"}, {"tool_calls": (ToolCall(id="a", name="pay", status="success"),)}]
)
def test_a_turn_that_failed_after_it_did_something_is_not_called_safe_to_repeat(done: dict[str, object]) -> None:
    reply = _reply(Turn(status="failed").model_copy(update=done))

    assert "safe" not in reply.next
    assert f"list_messages({HERE}) before sending the message again" in reply.next


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        (Turn(status="failed", failure=TurnFailure(message="It broke.", detail="Badly.")), "It broke: Badly."),
        (Turn(status="failed", stop_reason="no_tool_call"), "The turn failed (no_tool_call)."),
        (Turn(status="empty", stop_reason="end_turn"), "ended its turn without saying anything"),
        (Turn(status="empty", tool_calls=(ToolCall(),)), "after running its tools without saying anything"),
        (Turn(status="completed", reply="So", stop_reason="max_steps"), "the most steps allowed"),
        (Turn(status="completed", reply="So", stop_reason="max_tokens_exceeded"), "cut off"),
        (Turn(status="completed", reply="So", compacted=True), "replaced older messages in the context by a summary"),
        (Turn(status="completed", reply="So", unknown_kinds={"hologram": 2, "x": 1}), "2 × hologram, 1 × x"),
    ],
)
def test_what_the_reader_should_know_of_a_turn_is_noted(turn: Turn, told: str) -> None:
    reply = _reply(turn)

    assert told in reply.note
    assert reply.note in reply.to_text()


def test_a_failure_without_any_words_leaves_no_hole() -> None:
    note = _reply(Turn(status="failed", failure=TurnFailure())).note

    assert "()" not in note
    assert note.startswith("The turn failed")


def test_a_failure_shows_no_key_and_no_page_of_html() -> None:
    leak = TurnFailure(message="Incorrect API key provided: sk-proj-abcdefghijklmnopqrstuvwxyz0123", detail="")
    page = TurnFailure(message="", detail="<!DOCTYPE html><html>502</html>")

    assert "abcdefghijklmnop" not in _reply(Turn(status="failed", failure=leak)).to_text()
    assert "<html" not in _reply(Turn(status="failed", failure=page)).to_text()


RICH = Turn(
    status="needs_approval",
    reply="I would pay now.",
    reasoning="The bill is due.",
    stop_reason="requires_approval",
    run_id="run-1",
    tool_calls=(
        ToolCall(id="call_1", name="read_bill", arguments='{"n": 1}', status="success", result="12 EUR"),
        ToolCall(id="call_2", name="look_up", arguments='{"n": 2}', status="error", result="no such bill"),
        ToolCall(id="call_3", name="pay", arguments='{"n": 3}'),
    ),
    approvals=(ToolCall(id="call_3", name="pay", arguments='{"n": 3}'),),
    usage=Usage(prompt_tokens=111, completion_tokens=222, total_tokens=333, step_count=4, context_tokens=555),
    compacted=True,
    unknown_kinds={"hologram": 2},
)
IN_TEXT = {"success": "→ ok", "error": "→ failed", "pending": "→ no result"}


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for each in cast("Mapping[str, object]", value).values():
            yield from _leaves(each)
    elif isinstance(value, list | tuple):
        for each in cast("list[object]", value):
            yield from _leaves(each)
    else:
        yield str(value)


@pytest.mark.parametrize("kinds", [(), ("tool",), ("reasoning",), BOTH])
def test_text_and_structured_form_carry_the_same_facts(kinds: tuple[ReplyKind, ...]) -> None:
    reply = _reply(RICH, *kinds)
    text = reply.to_text()

    missing = [leaf for leaf in _leaves(_structured(reply)) if IN_TEXT.get(leaf, leaf) not in text]
    assert missing == []
    for kind, facts in {"reasoning": ["The bill is due."], "tool": ["12 EUR", "no such bill", '{"n": 1}']}.items():
        for fact in facts:
            assert (fact in text) == (kind in kinds)
            assert (fact in set(_leaves(_structured(reply)))) == (kind in kinds)


def test_a_pending_decision_is_shown_in_full_without_asking() -> None:
    reply = _reply(RICH)

    assert _structured(reply)["approvals"] == [{"tool_call_id": "call_3", "name": "pay", "arguments": '{"n": 3}'}]
    assert '\n\nWaits for a decision:\n> pay({"n": 3}) · call_3\n\n' in reply.to_text()


def test_the_structured_form_leaves_out_what_is_not_there() -> None:
    assert _structured(_reply(Turn(status="completed", reply="Yes.", stop_reason="end_turn"))) == {
        "status": "completed",
        "conversation_id": PLACE.conversation_id,
        "agent_id": AGENT,
        "reply": "Yes.",
        "stop_reason": "end_turn",
    }


@pytest.mark.parametrize("name", STREAMS)
async def test_every_captured_turn_has_an_answer_in_both_forms_within_the_least_budget(name: str) -> None:
    turn = turn_of(*await chunks_of(STREAMS[name]))

    reply = _reply(turn, *BOTH, budget=LEAST)

    assert max(_sizes(reply)) <= LEAST
    assert reply.status == turn.status
    assert reply.next if turn.status in ("failed", "needs_approval") else not reply.next
    names = [call.name or "(unnamed)" for call in turn.tool_calls]
    shown = [call.name for call in reply.tool_calls]
    assert shown == names[: len(shown)]
    assert shown == names or f"{len(names) - len(shown)} more tool calls are not shown" in reply.note
