"""Agents on this machine that ask before they run a tool, and turns that are stopped: on the real App Server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.conftest import MODEL
from tests.rig.model import CallTools, Hold, Say, ScriptedModel, Use
from tests.rig.servers import ALL_WAYS, Answer, Caller, Way, in_own_task

ONE_WAY = Way("memory", "modern")


def touch(*paths: Path) -> CallTools:
    return CallTools(tuple(Use("Bash", {"command": f"touch {path}", "description": "make a file"}) for path in paths))


@pytest.fixture(scope="session")
def asking_settings(local_settings: Settings) -> Settings:
    """The same agents, whose tools are offered, each call after it was approved."""
    return local_settings.model_copy(update={"local_tools": "ask"})


WITHOUT_TOKEN = [each for each in ALL_WAYS if each.transport != "http"]
"""Over HTTP such agents are served to callers with a token only."""


@pytest.fixture(scope="session", params=WITHOUT_TOKEN, ids=str)
async def asking_caller(request: pytest.FixtureRequest, asking_settings: Settings) -> AsyncGenerator[Caller]:
    way: Way = request.param
    async with in_own_task(way.to(asking_settings)) as caller:
        yield caller


@pytest.fixture
def asking(asking_caller: Caller, model: ScriptedModel) -> Caller:
    return asking_caller


async def stopped_at(caller: Caller, model: ScriptedModel, *answers: CallTools | Say) -> Answer:
    """A turn of a new agent that has stopped at the first of these answers."""
    agent = (await caller.ok("create_agent", name=f"careful {uuid.uuid4().hex[:6]}", model=MODEL)).data["agent_id"]
    model.enqueue(*answers)
    return await caller.ok("send_message", agent=agent, message="make it")


async def test_an_approved_tool_runs(asking: Caller, model: ScriptedModel, tmp_path: Path) -> None:
    stopped = await stopped_at(asking, model, touch(tmp_path / "made"), Say("Made."))
    place = {"conversation_id": stopped.data["conversation_id"]}
    waiting = await asking.ok("wait_for_reply", **place)
    blocked = await asking.refused("send_message", **place, message="are you there?")
    before = (tmp_path / "made").exists()

    done = await asking.ok("respond_to_approval", **place, approve=True, kinds=["tool"])

    assert stopped.data["status"] == waiting.data["status"] == "needs_approval"
    [call] = stopped.data["approvals"]
    assert call["name"] == "Bash"
    assert str(tmp_path) in call["arguments"]
    assert waiting.data["approvals"][0]["tool_call_id"] == call["tool_call_id"]
    assert "respond_to_approval" in blocked
    assert not before
    assert (tmp_path / "made").exists()
    assert (done.data["status"], done.data["reply"], done.data["run_id"]) == (
        "completed",
        "Made.",
        stopped.data["run_id"],
    )
    assert [(each["name"], each["status"]) for each in done.data["tool_calls"]] == [("Bash", "success")]


async def test_a_denied_tool_does_not_run(asking: Caller, model: ScriptedModel, tmp_path: Path) -> None:
    stopped = await stopped_at(asking, model, touch(tmp_path / "made"), Say("Not made."))
    place = {"conversation_id": stopped.data["conversation_id"]}

    done = await asking.ok("respond_to_approval", **place, approve=False, reason="not today", kinds=["tool"])
    again = await asking.refused("respond_to_approval", **place, approve=True)

    assert (done.data["status"], done.data["reply"]) == ("completed", "Not made.")
    assert [each["status"] for each in stopped.data["tool_calls"]] == ["waiting"]
    assert [each["status"] for each in done.data["tool_calls"]] == ["denied"]
    assert "not today" in model.calls[-1].messages[-1][1]
    assert not (tmp_path / "made").exists()
    assert "No tool call waits" in again


async def test_several_calls_are_asked_about_one_after_the_other(
    asking: Caller, model: ScriptedModel, tmp_path: Path
) -> None:
    stopped = await stopped_at(asking, model, touch(tmp_path / "one", tmp_path / "two"), Say("One."))
    place = {"conversation_id": stopped.data["conversation_id"]}

    second = await asking.ok("respond_to_approval", **place, approve=True)
    done = await asking.ok("respond_to_approval", **place, approve=False)

    assert [len(each.data["approvals"]) for each in (stopped, second)] == [1, 1]
    assert "two" in second.data["approvals"][0]["arguments"]
    assert done.data["reply"] == "One."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]


async def test_a_turn_that_waits_for_a_decision_can_be_stopped(
    asking: Caller, model: ScriptedModel, tmp_path: Path
) -> None:
    stopped = await stopped_at(asking, model, touch(tmp_path / "made"))
    place = {"conversation_id": stopped.data["conversation_id"]}

    cancelled = await asking.ok("cancel", **place)
    idle = await asking.ok("cancel", **place)
    found = await asking.ok("wait_for_reply", **place)
    model.enqueue(Say("Yes?"))
    following = await asking.ok("send_message", **place, message="still there?")
    page = await asking.ok("list_messages", **place, kinds=["user"])

    assert (cancelled.data["status"], cancelled.data["run_ids"]) == ("cancelled", [stopped.data["run_id"]])
    assert "In the history: the message, 1 tool call(s)" in cancelled.text
    assert idle.data["status"] == "idle"
    assert found.data["status"] == "cancelled"
    assert following.data["reply"] == "Yes?"
    assert [each["text"] for each in page.data["messages"]] == ["make it", "still there?"]
    assert not (tmp_path / "made").exists()


@pytest.mark.all_ways
async def test_a_running_turn_is_stopped(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    held = Hold(Say("too late"))
    model.enqueue(held)
    running = await mcp.ok("send_message", agent=agent, message="think long", wait_seconds=1)
    place = {"conversation_id": running.data["conversation_id"]}
    await model.asked()

    stopped = await mcp.ok("cancel", **place)
    waited = await mcp.ok("wait_for_reply", **place)
    held.gate.set()
    model.enqueue(Say("Here."), to="there")
    following = await mcp.ok("send_message", **place, message="still there?")

    assert (stopped.data["status"], stopped.data["run_ids"]) == ("cancelled", [waited.data["run_id"]])
    assert "In the history: the message" in stopped.text
    assert waited.data["status"] == "cancelled"
    assert following.data["reply"] == "Here."


async def test_a_turn_that_has_ended_is_not_stopped_in_the_place_of_the_one_that_runs(
    mcp: Caller, agent: str, model: ScriptedModel
) -> None:
    held = Hold(Say("undisturbed"))
    model.enqueue(Say("earlier"), held)
    earlier = await mcp.ok("send_message", agent=agent, message="one")
    place = {"conversation_id": earlier.data["conversation_id"]}

    running = await mcp.running(**place, message="two")
    await model.asked(2)
    idle = await mcp.ok("cancel", **place, run_id=earlier.data["run_id"])
    held.gate.set()
    reply = await mcp.ok("wait_for_reply", **place)

    assert running.data["run_id"] != earlier.data["run_id"]
    assert (idle.data["status"], idle.data.get("run_ids", [])) == ("idle", [])
    assert (reply.data["status"], reply.data["reply"]) == ("completed", "undisturbed")


async def test_another_server_that_knows_the_conversation_can_decide(
    asking: Caller, asking_settings: Settings, model: ScriptedModel, tmp_path: Path
) -> None:
    async with ONE_WAY.to(asking_settings) as other:
        stopped = await stopped_at(asking, model, touch(tmp_path / "made"), Say("Made."))
        place = {"conversation_id": stopped.data["conversation_id"]}

        done = await other.ok("respond_to_approval", **place, approve=True)

    assert done.data["reply"] == "Made."
    assert (tmp_path / "made").exists()
