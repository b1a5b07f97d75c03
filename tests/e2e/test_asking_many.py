"""Asking several agents and conversations at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.ask_many import AT_ONCE
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Refuse, Say
from tests.rig.servers import Caller, connect

UNKNOWN = "conv-00000000-0000-4000-8000-000000000000"


async def test_everyone_gets_the_message_and_every_reply_comes_back(mcp: Caller, letta: Letta) -> None:
    agents = [await letta.new_agent() for _ in range(3)]
    conversation_id = await letta.new_conversation(agents[0][0])

    answer = await mcp.ok(
        "ask_many", message="What is new?", agents=[name for _, name in agents], conversation_ids=[conversation_id]
    )

    assert (answer.data["answered"], answer.data["asked"]) == (4, 4)
    rows = answer.data["replies"]
    assert [row["to"] for row in rows] == [*(name for _, name in agents), conversation_id]
    assert {row["reply"] for row in rows} == {"echo: What is new?"}
    assert [row["agent_id"] for row in rows] == [*(agent_id for agent_id, _ in agents), agents[0][0]]
    for row in rows:
        assert await letta.stored_texts(row["agent_id"], row["conversation_id"]) == ["What is new?"]
        assert f"## {row['to']} [completed · {row['conversation_id']}" in answer.text


async def test_a_slow_one_and_a_failing_one_do_not_hold_up_the_others(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    slow, failing = [await letta.new_conversation(agent_id) for _ in range(2)]
    await letta.send(slow, "you are the slow one")
    await letta.send(failing, "you are the failing one")
    held = Hold(Say("at last"))
    letta.model.enqueue(held, after="the slow one")
    letta.model.enqueue(Refuse(400, "model says no"), after="the failing one")

    answer = await mcp.ok(
        "ask_many",
        message="Well?",
        agents=[name, "nobody of this name"],
        conversation_ids=[slow, failing, UNKNOWN],
        wait_seconds=3,
    )
    held.gate.set()
    late = await mcp.ok("wait_for_reply", conversation_id=slow)

    rows = {row["to"]: row for row in answer.data["replies"]}
    assert rows[name]["status"] == "completed"
    assert rows[slow]["status"] == "running"
    assert rows[failing]["status"] == "failed"
    assert "model says no" in rows[failing]["error"]
    assert "no agent" in rows["nobody of this name"]["error"]
    assert UNKNOWN in rows[UNKNOWN]["error"]
    assert answer.data["answered"] == 1
    assert "wait_for_reply" in answer.data["next"]
    assert late.data["reply"] == "at last"


@pytest.mark.all_ways
async def test_progress_tells_who_has_answered(mcp: Caller, letta: Letta) -> None:
    agents = [await letta.new_agent() for _ in range(2)]

    answer = await mcp.ok("ask_many", message="Hello", agents=[name for _, name in agents])

    assert answer.progress[0] == "0 of 2 done"


async def test_one_agent_can_be_asked_several_times_over(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    answer = await mcp.ok("ask_many", message="Throw a coin", agents=[agent_id] * 3)

    assert len({row["conversation_id"] for row in answer.data["replies"]}) == 3


async def test_who_is_not_reached_in_time_is_not_asked(letta: Letta, monkeypatch: pytest.MonkeyPatch) -> None:
    agent_id, _ = await letta.new_agent()
    held = [Hold(Say("late")) for _ in range(AT_ONCE)]
    letta.model.enqueue(*held)
    monkeypatch.setattr("letta_conversations_mcp.tools.ask_many.START_SECONDS", 0.0)

    async with connect(Settings(base_url=letta.base_url), "memory", "modern") as client:
        mcp = Caller(client)
        answer = await mcp.ok("ask_many", message="Hello", agents=[agent_id] * (AT_ONCE + 1), wait_seconds=1)
        for each in held:
            each.gate.set()
        for row in answer.data["replies"][:AT_ONCE]:
            await mcp.ok("wait_for_reply", conversation_id=row["conversation_id"])

    statuses = [row["status"] for row in answer.data["replies"]]
    assert statuses.count("running") == AT_ONCE
    assert answer.data["replies"][-1]["status"] == "error"
    assert "Nothing was sent" in answer.data["replies"][-1]["error"]


@pytest.mark.parametrize("count", [2, AT_ONCE + 1])
async def test_without_waiting_everyone_is_asked_and_the_replies_are_fetched_later(
    mcp: Caller, letta: Letta, count: int
) -> None:
    agent_id, _ = await letta.new_agent()

    answer = await mcp.ok("ask_many", message="Hello", agents=[agent_id] * count, wait_seconds=0)

    rows = answer.data["replies"]
    assert {row["status"] for row in rows} <= {"running", "completed"}
    for row in rows:
        later = await mcp.ok("wait_for_reply", conversation_id=row["conversation_id"])
        assert later.data["reply"] == "echo: Hello"
        assert await letta.stored_texts(agent_id, row["conversation_id"]) == ["Hello"]


async def test_only_those_that_failed_are_to_be_asked_again(mcp: Caller, letta: Letta) -> None:
    _, name = await letta.new_agent()

    some = await mcp.ok("ask_many", message="Hello", agents=[name, "nobody of this name"])
    none = await mcp.ok("ask_many", message="Hello", agents=["nobody of this name"])
    all_ = await mcp.ok("ask_many", message="Hello", agents=[name])

    assert "name only them" in some.data["next"]
    assert "next" not in none.data
    assert "next" not in all_.data


@pytest.mark.all_ways
async def test_many_long_replies_fit_one_answer(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    letta.model.enqueue(*(Say("long " * 4_000) for _ in range(5)))

    answer = await mcp.ok("ask_many", message="Tell me all", agents=[agent_id] * 5)

    assert len(answer.text) <= 30_000
    assert "Cut to fit" in answer.data["note"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"message": "hello"}, "at least one"),
        ({"message": " ", "agents": ["a"]}, "a text is needed"),
        ({"message": "hello", "agents": ["a"] * 30, "conversation_ids": [f"{n}" for n in range(30)]}, "at most 50"),
        ({"message": "hello", "conversation_ids": [UNKNOWN, UNKNOWN]}, "named twice"),
    ],
)
async def test_asking_nobody_or_nothing_is_refused(mcp: Caller, arguments: dict[str, Any], words: str) -> None:
    assert words in await mcp.refused("ask_many", **arguments)


async def test_a_call_that_is_made_again_asks_those_once_who_have_not_answered(mcp: Caller, letta: Letta) -> None:
    agents = [await letta.new_agent() for _ in range(2)]
    call = {"message": "What is new?", "agents": [name for _, name in agents]}
    held = [Hold(Say("This."), gate=anyio.Event()) for _ in agents]
    letta.model.enqueue(*held)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(mcp.ok, "ask_many", **call))
        await letta.model.asked(2)
        tasks.cancel_scope.cancel()
    # Answered after the server has read that the call was given up.
    for agent_id, _ in agents:
        [opened] = (await mcp.ok("list_conversations", agent=agent_id)).data["conversations"]
        await mcp.ok("wait_for_reply", conversation_id=opened["id"], wait_seconds=0)
    for each in held:
        each.gate.set()
    again = await mcp.ok("ask_many", **call)

    rows = again.data["replies"]
    assert [row["reply"] for row in rows] == ["This.", "This."]
    assert all("not sent again" in row["note"] for row in rows)
    assert again.text.count("not sent again") == 2
    for row in rows:
        assert await letta.stored_texts(row["agent_id"], row["conversation_id"]) == ["What is new?"]
