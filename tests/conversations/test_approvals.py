"""What one answer decides about the tool calls that wait together."""

from __future__ import annotations

import pytest

from letta_conversations_mcp.conversations.approvals import NOT_NAMED, calls_chunk, check_pending, decide, pending_calls
from letta_conversations_mcp.core.errors import InvalidArgument, NothingPending
from letta_conversations_mcp.core.message_json import read_message
from letta_conversations_mcp.core.model import Message, ToolCall
from letta_conversations_mcp.turns.aggregate import TurnBuilder

HERE = "conv-00000000-0000-4000-8000-000000000001"
TWO = (ToolCall(id="call_1", name="send", arguments='{"to": "Ann"}'), ToolCall(id="call_2", name="delete"))


def decided(**wanted: object) -> dict[str, bool]:
    approvals = decide(HERE, TWO, **{"approve": True, "reason": "", **wanted})  # pyright: ignore[reportArgumentType] - keywords of a test
    return {each.tool_call_id: each.approve for each in approvals.decisions}


def request(*ids: str) -> Message:
    calls = [{"tool_call_id": each, "name": "send", "arguments": "{}"} for each in ids]
    return read_message({"message_type": "approval_request_message", "id": "message-1", "tool_calls": calls})


def listed(message_type: str, **fields: object) -> Message:
    return read_message({"message_type": message_type, "id": "message-2", "content": "words", **fields})


def test_one_answer_decides_all_that_wait() -> None:
    assert decided() == {"call_1": True, "call_2": True}
    assert decided(approve=False) == {"call_1": False, "call_2": False}


def test_what_is_not_named_in_an_approval_is_denied() -> None:
    approvals = decide(HERE, TWO, approve=True, reason="only this", call_ids=["call_2"])

    assert [(each.approve, each.reason) for each in approvals.decisions] == [(False, NOT_NAMED), (True, "only this")]


def test_denying_some_would_approve_the_others_and_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="the others are denied"):
        decided(approve=False, call_ids=["call_1"])


@pytest.mark.parametrize("call_ids", [["call_3"], ["call_1", "call_3"]])
def test_a_call_that_does_not_wait_is_refused(call_ids: list[str]) -> None:
    with pytest.raises(NothingPending, match="Only call_1, call_2 waits"):
        decided(call_ids=call_ids)


def test_with_nothing_waiting_nothing_is_decided() -> None:
    with pytest.raises(NothingPending, match="Nothing was sent"):
        decide(HERE, (), approve=False, reason="")


def test_a_clients_tool_can_be_denied_only() -> None:
    calls = (TWO[0].model_copy(update={"client_side": True}),)

    with pytest.raises(InvalidArgument, match="only that client can run it"):
        decide(HERE, calls, approve=True, reason="")
    assert not decide(HERE, calls, approve=False, reason="").decisions[0].approve


def test_a_decision_about_other_calls_than_those_that_wait_is_not_handed_over() -> None:
    approvals = decide(HERE, TWO, approve=True, reason="")

    check_pending(HERE, TWO[::-1], approvals)
    later = [each.model_copy(update={"asked_by": "message-2"}) for each in TWO]
    other = (TWO[0], TWO[1].model_copy(update={"arguments": '{"all": true}'}))
    for pending in (TWO[:1], (), (*TWO, ToolCall(id="call_3")), later, other):
        with pytest.raises(NothingPending):
            check_pending(HERE, pending, approvals)


def test_the_last_request_waits_until_it_is_answered() -> None:
    history = [listed("user_message"), request("call_1", "call_2")]

    assert [(call.id, call.asked_by) for call in pending_calls(history)] == [
        ("call_1", history[-1].id),
        ("call_2", history[-1].id),
    ]
    assert pending_calls([*history, listed("summary_message", summary="before")]) != ()
    for answered in ("approval_response_message", "tool_return_message", "assistant_message", "user_message"):
        assert pending_calls([*history, listed(answered)]) == ()
    assert pending_calls([]) == ()


def test_decisions_are_found_in_the_history_by_the_results_of_their_calls() -> None:
    approvals = decide(HERE, TWO, approve=False, reason="")

    assert approvals.is_in(listed("tool_return_message", tool_call_id="call_2", status="error", tool_return="no"))
    assert not approvals.is_in(listed("tool_return_message", tool_call_id="call_9", tool_return="other"))
    assert not approvals.is_in(request("call_1", "call_2"))


def test_the_rest_of_a_turn_names_the_calls_that_were_decided() -> None:
    builder = TurnBuilder()
    for chunk in (
        calls_chunk(TWO),
        {"message_type": "tool_return_message", "tool_call_id": "call_1", "status": "success", "tool_return": "sent"},
        {"message_type": "tool_return_message", "tool_call_id": "call_2", "status": "error", "tool_return": "denied"},
        {"message_type": "stop_reason", "stop_reason": "end_turn"},
    ):
        builder.add(chunk)

    assert [(each.name, each.status) for each in builder.build().tool_calls] == [
        ("send", "success"),
        ("delete", "error"),
    ]
    assert builder.build().approvals == ()
