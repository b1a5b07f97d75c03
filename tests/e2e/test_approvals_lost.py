"""A decision whose answer is lost on the way: it is found again, and handed over once."""

from __future__ import annotations

from typing import Any

import pytest

from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.model import CallTools, Say, ScriptedModel, Use
from tests.rig.servers import Way

pytestmark = pytest.mark.fake_only

SEND = "/v1/conversations/*/messages"
ONE_WAY = Way("memory", "modern")
REMEMBER = CallTools((Use("memory_insert", {"label": "human", "new_string": "Likes tea"}),))


@pytest.mark.parametrize("redis", [True, False], ids=["redis", "no redis"])
@pytest.mark.parametrize(
    "fault",
    [{"before_request_is_handled": True}, {"after_request_is_handled": True}, {"after_events": 1}, {"after_events": 2}],
    ids=["never arrived", "no answer", "one event", "two events"],
)
async def test_a_lost_answer_to_a_decision_is_found(fault: dict[str, Any], redis: bool) -> None:
    model = ScriptedModel()
    fake = FakeLetta(model, redis=redis)
    agent_id = fake.add_agent("careful", ["memory_insert"])
    place = {"conversation_id": fake.add_conversation(agent_id)}
    model.enqueue(REMEMBER, Say("Noted."))

    async with fake.serve() as base_url, ONE_WAY.to(Settings(base_url=base_url)) as mcp:
        await mcp.ok("send_message", **place, message="I like tea")
        fake.drop("POST", SEND, **fault)
        answer = await mcp.ok("respond_to_approval", **place, approve=True)
        page = await mcp.ok("list_messages", **place)

    fake.check_used()
    model.check_used()
    assert (answer.data["status"], answer.data["reply"]) == ("completed", "Noted.")
    assert [call["status"] for call in answer.data["tool_calls"]] == ["success"]
    assert page.text.count("Noted.") == 1
    assert page.text.count("approved") == 1
