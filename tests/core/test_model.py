"""What the nouns know of themselves."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from letta_conversations_mcp.core.model import Agent, ConversationRef, Run, TurnFailure


def test_a_conversation_names_itself_by_its_id_and_a_default_by_its_agent() -> None:
    assert str(ConversationRef(conversation_id="conv-1", agent_id="agent-1")) == "conv-1"
    assert str(ConversationRef(conversation_id="default", agent_id="agent-1")) == "default of agent-1"


@pytest.mark.parametrize(
    ("status", "active"), [("created", True), ("running", True), ("completed", False), ("failed", False), ("", False)]
)
def test_a_run_is_active_until_it_has_an_outcome(status: str, active: bool) -> None:
    assert Run(id="run-1", status=status).active == active


@pytest.mark.parametrize("where", ["message", "detail"])
def test_a_failure_knows_that_an_approval_is_awaited(where: str) -> None:
    words = "CONFLICT: Cannot send a new message: The agent is waiting for approval on a tool call."

    assert TurnFailure.model_validate({where: words}).awaits_approval
    assert not TurnFailure(message="It broke.", detail="Badly.").awaits_approval


def test_a_noun_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Agent(id="agent-1", name="Anna").name = "Ben"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("conversation_id", "expected"),
    [
        ("conv-1", "conversation_id='conv-1'"),
        ("default", "conversation_id='default', agent='agent-1'"),
    ],
)
def test_a_call_names_the_agent_only_of_a_default_conversation(conversation_id: str, expected: str) -> None:
    ref = ConversationRef(conversation_id=conversation_id, agent_id="agent-1")

    assert ref.in_call == expected
