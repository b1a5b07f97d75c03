"""Stopping a turn: what was stopped, what stays, and who is told."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Hold, Say, Use
from tests.rig.servers import Answer, Caller

REMEMBER = CallTools((Use("memory_insert", {"label": "human", "new_string": "Likes tea"}),))


@pytest.mark.all_ways
async def test_a_running_turn_is_stopped_and_those_who_wait_are_told(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    held = Hold(Say("too late"))
    letta.model.enqueue(held)
    answers: dict[str, Answer] = {}

    async def keep(name: str, tool: str, **arguments: Any) -> None:
        answers[name] = await mcp.ok(tool, **place, **arguments)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: keep("send", "send_message", message="Think long", wait_seconds=50))
        await letta.model.asked()
        tasks.start_soon(lambda: keep("wait", "wait_for_reply"))
        await keep("stop", "cancel")
        # Nobody has to wait for the model.
    held.gate.set()
    again = await mcp.ok("send_message", **place, message="And now?")

    assert {each.data["status"] for each in answers.values()} == {"cancelled"}
    assert answers["stop"].data["run_ids"] == [answers["send"].data["run_id"]]
    assert "list_messages" in answers["send"].data["next"]
    assert "Nothing of it is in the history" in answers["stop"].text
    assert again.data["reply"] == "echo: And now?"
    # Letta drops what it was streaming token by token when it is stopped, with the message (seen on 0.16.8).
    assert await letta.stored_texts(agent_id, place["conversation_id"]) == ["And now?"]


async def test_a_stopped_turn_that_nobody_watched_keeps_its_message(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    held = Hold(Say("too late"))
    letta.model.enqueue(held)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: mcp.client.call_tool("send_message", {**place, "message": "Think long"}))
        await letta.model.asked()
        await mcp.ok("cancel", **place)
    held.gate.set()
    await mcp.ok("send_message", **place, message="And now?")

    assert await letta.stored_texts(agent_id, place["conversation_id"]) == ["Think long", "And now?"]


async def test_what_a_stopped_turn_has_done_stays_and_is_told(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    held = Hold(Say("done"))
    letta.model.enqueue(CallTools((Use("conversation_search", {"query": "tea"}),)), held)

    await mcp.ok("send_message", **place, message="Find tea", wait_seconds=0.3)
    await letta.model.asked(2)
    stopped = await mcp.ok("cancel", **place)
    held.gate.set()

    assert "In the history: the message, 1 tool call(s)" in stopped.text


async def test_with_nothing_running_nothing_is_done_and_it_is_no_error(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    sent = await mcp.ok("send_message", agent=agent_id, message="hello")
    place = {"conversation_id": sent.data["conversation_id"]}

    idle = await mcp.ok("cancel", **place)
    ended = await mcp.ok("cancel", **place, run_id=sent.data["run_id"])

    assert idle.data["status"] == ended.data["status"] == "idle"
    assert "Nothing is running" in idle.text
    assert (await mcp.ok("wait_for_reply", **place)).data["status"] == "completed"


async def test_an_unknown_run_is_said_to_be_unknown(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    sent = await mcp.ok("send_message", agent=agent_id, message="hello")
    nobody = "run-00000000-0000-4000-8000-000000000000"

    refusal = await mcp.refused("cancel", conversation_id=sent.data["conversation_id"], run_id=nobody)

    assert "no run" in refusal


async def test_the_default_conversation_is_stopped_without_the_others(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held, other = Hold(Say("too late")), Hold(Say("undisturbed"))
    letta.model.enqueue(held, to="in default")
    letta.model.enqueue(other, to="elsewhere")

    await mcp.ok("send_message", conversation_id=conversation_id, message="elsewhere", wait_seconds=0.1)
    await mcp.ok("send_message", conversation_id="default", agent=name, message="in default", wait_seconds=0.1)
    await letta.model.asked(2)
    stopped = await mcp.ok("cancel", conversation_id="default", agent=name)
    other.gate.set()
    reply = await mcp.ok("wait_for_reply", conversation_id=conversation_id)
    held.gate.set()

    assert len(stopped.data["run_ids"]) == 1
    assert (reply.data["status"], reply.data["reply"]) == ("completed", "undisturbed")
    waited = await mcp.ok("wait_for_reply", conversation_id="default", agent=name)
    assert waited.data["status"] == "cancelled"


@pytest.mark.all_ways
async def test_a_message_that_waits_its_turn_is_taken_back(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    held = Hold(Say("too late"))
    letta.model.enqueue(held)
    queued: list[dict[str, Any]] = []
    stopped: list[dict[str, Any]] = []

    async def queue() -> None:
        queued.append((await mcp.ok("send_message", **place, message="second")).data)

    async with AsyncExitStack() as stack:
        stack.callback(held.gate.set)
        await mcp.ok("send_message", **place, message="first", wait_seconds=0.2)
        await letta.model.asked()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue)
            await mcp.until_reported("waiting for the turn before it")
            stopped.append((await mcp.ok("cancel", **place)).data)

    assert (stopped[0]["status"], stopped[0]["withdrawn"]) == ("cancelled", 1)
    assert "other processes of this server hold in their queues were not reached" in stopped[0]["note"]
    assert (queued[0]["status"], queued[0]["stop_reason"]) == ("cancelled", "withdrawn")
    assert "Letta never had it" in queued[0]["next"]
    third = await mcp.ok("send_message", **place, message="third")
    assert third.data["status"] == "completed"
    assert await letta.stored_texts(agent_id, place["conversation_id"]) == ["third"]


async def test_only_the_named_run_is_stopped_and_what_is_queued_behind_it_is_sent(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    held = Hold(Say("too late"))
    letta.model.enqueue(held, to="first")
    answers: dict[str, Answer] = {}

    async def queue() -> None:
        answers["second"] = await mcp.ok("send_message", **place, message="second")

    async with AsyncExitStack() as stack:
        stack.callback(held.gate.set)
        running = await mcp.running(**place, message="first")
        mcp.progress.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue)
            await mcp.until_reported("waiting for the turn before it")
            answers["stop"] = await mcp.ok("cancel", **place, run_id=running.data["run_id"])
            held.gate.set()

    assert answers["stop"].data["run_ids"] == [running.data["run_id"]]
    assert not {"withdrawn", "note"} & answers["stop"].data.keys()
    assert (answers["second"].data["status"], answers["second"].data["reply"]) == ("completed", "echo: second")
    assert await letta.stored_texts(agent_id, place["conversation_id"]) == ["second"]


async def test_a_run_that_has_ended_is_not_stopped_in_the_place_of_the_one_that_runs(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    earlier = await mcp.ok("send_message", **place, message="earlier")
    held = Hold(Say("undisturbed"))
    letta.model.enqueue(held)

    running = await mcp.running(**place, message="now")
    idle = await mcp.ok("cancel", **place, run_id=earlier.data["run_id"])
    held.gate.set()
    reply = await mcp.ok("wait_for_reply", **place)

    assert idle.data["status"] == "idle"
    assert (reply.data["run_id"], reply.data["reply"]) == (running.data["run_id"], "undisturbed")


async def test_a_turn_that_somebody_else_began_is_stopped_too(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    held = Hold(Say("too late"))
    letta.model.enqueue(held)
    seen: list[str] = []

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(letta.send, place["conversation_id"], "from elsewhere")
        await letta.model.asked()
        seen += [(await mcp.ok(tool, **place)).data["status"] for tool in ("cancel", "wait_for_reply")]
        held.gate.set()

    assert seen == ["cancelled", "cancelled"]


async def test_a_pending_decision_is_no_running_turn_and_is_named(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER)
    sent = await mcp.ok("send_message", agent=agent_id, message="I like tea")

    idle = await mcp.ok("cancel", conversation_id=sent.data["conversation_id"])

    assert idle.data["status"] == "idle"
    assert "respond_to_approval" in idle.data["next"]


async def test_a_decision_that_waits_in_the_default_conversation_is_not_denied_by_the_way(
    mcp: Caller, letta: Letta
) -> None:
    agent_id, name = await letta.new_agent(needs_approval="memory_insert")
    default = {"conversation_id": "default", "agent": name}
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    held = Hold(Say("still heard"))
    letta.model.enqueue(REMEMBER, to="tea")
    letta.model.enqueue(held, to="elsewhere")

    await mcp.ok("send_message", **default, message="I like tea")
    await mcp.ok("send_message", **place, message="elsewhere", wait_seconds=0.1)
    await letta.model.asked(2)
    refusal = await mcp.refused("cancel", **place)
    held.gate.set()
    reply = await mcp.ok("wait_for_reply", **place)
    waiting = await mcp.ok("wait_for_reply", **default)

    assert "Nothing was stopped" in refusal
    assert "conversation_id='default'" in refusal
    assert reply.data["reply"] == "still heard"
    assert waiting.data["status"] == "needs_approval"
