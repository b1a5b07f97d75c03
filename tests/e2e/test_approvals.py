"""Tool calls that wait for approval: shown, approved, denied, and never decided by themselves."""

from __future__ import annotations

from typing import Any

from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, Use
from tests.rig.servers import Answer, Caller

REMEMBER = CallTools((Use("memory_insert", {"label": "human", "new_string": "Likes tea"}),), text="I will note it.")


async def stopped_at_a_call(mcp: Caller, letta: Letta, *then: Say | CallTools) -> tuple[str, Answer]:
    """An agent whose turn waits for approval, and what send_message said of it."""
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER, *then)
    return agent_id, await mcp.ok("send_message", agent=agent_id, message="I like tea")


async def human_block(letta: Letta, agent_id: str) -> str:
    blocks: list[dict[str, Any]] = (await letta.request("GET", f"/v1/agents/{agent_id}"))["memory"]["blocks"]
    return next(each["value"] for each in blocks if each["label"] == "human")


async def test_an_approved_call_runs_and_the_turn_goes_on(mcp: Caller, letta: Letta) -> None:
    agent_id, stopped = await stopped_at_a_call(mcp, letta, Say("Noted."))
    place = {"conversation_id": stopped.data["conversation_id"]}
    before = await human_block(letta, agent_id)

    answer = await mcp.ok("respond_to_approval", **place, approve=True, kinds=["tool"])

    assert stopped.data["status"] == "needs_approval"
    assert stopped.data["reply"] == "I will note it."
    assert "respond_to_approval" in stopped.data["next"]
    assert (answer.data["status"], answer.data["reply"]) == ("completed", "Noted.")
    [call] = answer.data["tool_calls"]
    assert (call["name"], call["status"]) == ("memory_insert", "success")
    assert "Likes tea" in call["arguments"]
    assert "Likes tea" not in before
    assert "Likes tea" in await human_block(letta, agent_id)
    assert (await mcp.ok("wait_for_reply", **place)).data["reply"] == "Noted."


async def test_a_decision_that_is_repeated_with_its_key_is_one_decision(mcp: Caller, letta: Letta) -> None:
    agent_id, stopped = await stopped_at_a_call(mcp, letta, Say("Noted."))
    call = {"conversation_id": stopped.data["conversation_id"], "approve": True, "message_key": "yes"}

    first, again = [await mcp.ok("respond_to_approval", **call) for _ in range(2)]

    assert first.data["run_id"] == again.data["run_id"]
    assert "note" not in first.data
    assert again.data["note"] == "This call repeats an earlier one; the decision was not handed over again."
    assert (await human_block(letta, agent_id)).count("Likes tea") == 1


async def test_a_denied_call_does_not_run_and_the_agent_hears_why(mcp: Caller, letta: Letta) -> None:
    agent_id, stopped = await stopped_at_a_call(mcp, letta, Say("Then I will not."))

    answer = await mcp.ok(
        "respond_to_approval",
        conversation_id=stopped.data["conversation_id"],
        approve=False,
        reason="tea is secret",
        kinds=["tool"],
    )

    assert (answer.data["status"], answer.data["reply"]) == ("completed", "Then I will not.")
    [call] = answer.data["tool_calls"]
    assert (call["name"], call["status"]) == ("memory_insert", "denied")
    assert "→ denied" in answer.text
    assert [(each["name"], each["status"]) for each in stopped.data["tool_calls"]] == [("memory_insert", "waiting")]
    assert "memory_insert → waiting for approval" in stopped.text
    page = await mcp.ok("list_messages", conversation_id=stopped.data["conversation_id"])
    assert "→ denied: Error: request to call tool denied. User reason: tea is secret" in page.text
    assert "tea is secret" in letta.model.calls[-1].messages[-1][1]
    assert "Likes tea" not in await human_block(letta, agent_id)


async def test_a_second_call_in_the_same_turn_waits_again(mcp: Caller, letta: Letta) -> None:
    _, stopped = await stopped_at_a_call(mcp, letta, REMEMBER, Say("Twice."))
    place = {"conversation_id": stopped.data["conversation_id"]}

    again = await mcp.ok("respond_to_approval", **place, approve=True)
    done = await mcp.ok("respond_to_approval", **place, approve=True)

    assert again.data["status"] == "needs_approval"
    assert again.data["approvals"][0]["tool_call_id"] != stopped.data["approvals"][0]["tool_call_id"]
    assert (done.data["status"], done.data["reply"]) == ("completed", "Twice.")


async def test_with_nothing_waiting_it_is_refused_and_nothing_is_sent(mcp: Caller, letta: Letta) -> None:
    agent_id, stopped = await stopped_at_a_call(mcp, letta, Say("Noted."))
    place = {"conversation_id": stopped.data["conversation_id"]}
    fresh = await letta.new_conversation(agent_id)
    await mcp.ok("respond_to_approval", **place, approve=True)
    asked = len(letta.model.calls)

    refusals = [
        await mcp.refused("respond_to_approval", **place, approve=True),
        await mcp.refused("respond_to_approval", conversation_id=fresh, approve=False),
        await mcp.refused("respond_to_approval", conversation_id="default", agent=agent_id, approve=True),
    ]

    assert all("No tool call waits for a decision" in each and "Nothing was sent" in each for each in refusals)
    assert len(letta.model.calls) == asked
    assert await letta.stored_texts(agent_id, stopped.data["conversation_id"]) == ["I like tea"]


async def test_a_call_is_decided_by_its_id(mcp: Caller, letta: Letta) -> None:
    _, stopped = await stopped_at_a_call(mcp, letta, Say("Noted."))
    place = {"conversation_id": stopped.data["conversation_id"]}
    [call] = stopped.data["approvals"]

    refusal = await mcp.refused("respond_to_approval", **place, approve=True, tool_call_ids=["call_of_somebody"])
    answer = await mcp.ok("respond_to_approval", **place, approve=True, tool_call_ids=[call["tool_call_id"]])

    assert call["tool_call_id"] in refusal
    assert answer.data["reply"] == "Noted."


async def test_the_default_conversation_is_decided_with_its_agent(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER, Say("Noted."))
    stopped = await mcp.ok("send_message", conversation_id="default", agent=name, message="I like tea")

    answer = await mcp.ok("respond_to_approval", conversation_id="default", agent=name, approve=True)

    assert f"agent='{agent_id}'" in stopped.data["next"]
    assert answer.data["reply"] == "Noted."


async def test_a_call_that_waits_through_a_compaction_can_still_be_decided(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    conversation_id = await letta.new_conversation(agent_id)
    for text in ("one", "two"):
        await mcp.ok("send_message", conversation_id=conversation_id, message=text)
    letta.model.enqueue(REMEMBER)
    await mcp.ok("send_message", conversation_id=conversation_id, message="I like tea")
    letta.model.enqueue(Say("A summary."))
    await mcp.ok("compact", conversation_id=conversation_id, mode="all")
    letta.model.enqueue(Say("Noted."))

    answer = await mcp.ok("respond_to_approval", conversation_id=conversation_id, approve=True)

    assert answer.data["reply"] == "Noted."


async def test_the_tool_of_another_client_can_only_be_denied(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    letta.model.enqueue(CallTools((Use("open_window", {"room": "kitchen"}),)), Say("It stays shut."))
    tool: dict[str, Any] = {
        "name": "open_window",
        "description": "opens",
        "parameters": {"type": "object", "properties": {}},
    }
    await letta.send(conversation_id, "Open the window", client_tools=[tool])

    refusal = await mcp.refused("respond_to_approval", conversation_id=conversation_id, approve=True)
    answer = await mcp.ok("respond_to_approval", conversation_id=conversation_id, approve=False)

    assert "open_window" in refusal
    assert "only that client" in refusal
    assert answer.data["reply"] == "It stays shut."
