"""Several messages at once: to one conversation, to many, and the same one again."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import anyio
import pytest

from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Say
from tests.rig.servers import Answer, Caller


async def test_two_messages_to_one_conversation_are_answered_in_order(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("first answer"))
    letta.model.enqueue(held, to="first")
    replies: dict[str, str] = {}

    async def ask(text: str) -> None:
        replies[text] = (await mcp.ok("send_message", conversation_id=conversation_id, message=text)).data["reply"]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "first")
        await letta.model.asked()
        tasks.start_soon(ask, "second")
        held.gate.set()

    assert replies == {"first": "first answer", "second": "echo: second"}
    assert await letta.stored_texts(agent_id, conversation_id) == ["first", "second"]


@pytest.mark.all_ways
async def test_a_call_that_was_given_up_and_is_made_again_sends_one_message(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("At last."))
    letta.model.enqueue(held)
    call = {"conversation_id": conversation_id, "message": "Think hard"}

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(mcp.ok, "send_message", **call))
        await letta.model.asked()
        tasks.cancel_scope.cancel()
    # Answered after the server has read that the call was given up.
    await mcp.ok("wait_for_reply", conversation_id=conversation_id, wait_seconds=0)
    held.gate.set()
    again = await mcp.ok("send_message", **call)

    assert (again.data["status"], again.data["reply"]) == ("completed", "At last.")
    assert "not sent again" in again.data["note"]
    assert "not sent again" in again.text
    assert await letta.stored_texts(agent_id, conversation_id) == ["Think hard"]


async def test_a_call_to_an_agent_that_is_made_again_opens_one_conversation(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    held = Hold(Say("At last."))
    letta.model.enqueue(held)
    call = {"agent": name, "message": "Think hard"}

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(mcp.ok, "send_message", **call))
        await letta.model.asked()
        tasks.cancel_scope.cancel()
    # Answered after the server has read that the call was given up.
    [opened] = (await mcp.ok("list_conversations", agent=name)).data["conversations"]
    await mcp.ok("wait_for_reply", conversation_id=opened["id"], wait_seconds=0)
    held.gate.set()
    again = await mcp.ok("send_message", **call)
    anew = await mcp.ok("send_message", **call)

    assert (again.data["status"], again.data["reply"]) == ("completed", "At last.")
    assert again.data["conversation_id"] != anew.data["conversation_id"]
    assert await letta.stored_texts(agent_id, again.data["conversation_id"]) == ["Think hard"]


async def test_a_message_whose_place_does_not_come_in_time_is_not_sent(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("the first answer"))
    letta.model.enqueue(held)

    running = await mcp.ok("send_message", conversation_id=conversation_id, message="first", wait_seconds=0.3)
    await letta.model.asked()
    refusal = await mcp.refused("send_message", conversation_id=conversation_id, message="second", wait_seconds=0.1)
    held.gate.set()
    reply = await mcp.ok("wait_for_reply", conversation_id=conversation_id)

    assert running.data["status"] == "running"
    assert "answering another message (run run-" in refusal
    assert "Nothing was sent" in refusal
    assert reply.data["reply"] == "the first answer"
    assert await letta.stored_texts(agent_id, conversation_id) == ["first"]


async def test_five_conversations_are_answered_side_by_side(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    names = [uuid.uuid4().hex for _ in range(5)]
    held = [Hold(Say(f"answer to {name}")) for name in names]
    for name, hold in zip(names, held, strict=True):
        letta.model.enqueue(hold, to=name)
    replies: dict[str, str] = {}

    async def ask(name: str) -> None:
        replies[name] = (await mcp.ok("send_message", agent=agent_id, message=name)).data["reply"]

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(ask, name)
        await letta.model.asked(5)
        for hold in held:
            hold.gate.set()

    assert replies == {name: f"answer to {name}" for name in names}


async def test_a_message_waits_for_somebody_elses_turn(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("theirs"))
    letta.model.enqueue(held, to="somebody else's")
    answers: list[str] = []

    async def mine() -> None:
        answer = await mcp.ok("send_message", conversation_id=conversation_id, message="mine")
        answers.append(answer.data["reply"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(letta.send, conversation_id, "somebody else's")
        await letta.model.asked()
        mcp.progress.clear()
        tasks.start_soon(mine)
        await mcp.until_reported("somebody else's turn")
        held.gate.set()

    assert answers == ["echo: mine"]
    assert await letta.stored_texts(agent_id, conversation_id) == ["somebody else's", "mine"]


async def test_a_branch_answers_when_the_conversation_is_busy(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    first = await mcp.ok("send_message", agent=agent_id, message="the word is walrus")
    conversation_id = first.data["conversation_id"]
    held = Hold(Say("slow"))
    letta.model.enqueue(held, to="slowly")

    running = await mcp.ok("send_message", conversation_id=conversation_id, message="slowly", wait_seconds=0)
    await letta.model.asked(2)
    branch = await forked_at_once(mcp, conversation_id)
    held.gate.set()
    slow = await mcp.ok("wait_for_reply", conversation_id=conversation_id)

    assert running.data["status"] == "running"
    assert branch.data["reply"] == "echo: quick"
    assert branch.data["conversation_id"] != conversation_id
    assert conversation_id in branch.data["note"]
    assert "walrus" in str(letta.model.calls[-1].messages)
    assert slow.data["reply"] == "slow"
    assert "quick" not in await letta.stored_texts(agent_id, conversation_id)


@asynccontextmanager
async def somebody_elses_turn(letta: Letta, conversation_id: str, *, background: bool) -> AsyncGenerator[None]:
    """A turn that was begun past our server, and runs inside. Letta keeps the stream of one in the background."""
    held = Hold(Say("theirs"))
    letta.model.enqueue(held, to="somebody else's")
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        stack.callback(held.gate.set)
        tasks.start_soon(partial(letta.send, conversation_id, "somebody else's", background=background))
        await letta.model.asked()
        yield
        held.gate.set()


@pytest.mark.parametrize(("background", "key"), [(False, {}), (True, {"message_key": "quick one"})])
async def test_a_branch_answers_at_once_when_somebody_elses_turn_runs(
    mcp: Caller, letta: Letta, *, background: bool, key: dict[str, str]
) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    branches: list[Answer] = []

    async with somebody_elses_turn(letta, conversation_id, background=background):
        branches.extend([await forked_at_once(mcp, conversation_id, **key) for _ in range(2)])

    branch, again = (each.data["conversation_id"] for each in branches)
    assert branches[0].data["reply"] == "echo: quick"
    assert (again == branch) == bool(key)
    assert await letta.stored_texts(agent_id, branch) == ["quick"]
    assert await letta.stored_texts(agent_id, conversation_id) == ["somebody else's"]


async def forked_at_once(mcp: Caller, conversation_id: str, **more: str) -> Answer:
    """The answer of a branch, which must not wait for the turn that runs; its caller would."""
    with anyio.fail_after(HANG_SECONDS):
        return await mcp.ok(
            "send_message", conversation_id=conversation_id, message="quick", on_busy="fork", wait_seconds=300, **more
        )


async def test_nothing_is_forked_when_the_conversation_is_free(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)

    answer = await mcp.ok("send_message", conversation_id=conversation_id, message="quick", on_busy="fork")

    assert answer.data["conversation_id"] == conversation_id
    assert await letta.stored_texts(agent_id, conversation_id) == ["quick"]


async def test_a_queued_message_is_kept_as_long_as_one_call_waits_for_it(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    call = {"conversation_id": await letta.new_conversation(agent_id), "message": "second"}
    held = Hold(Say("the first answer"))
    letta.model.enqueue(held, to="first")
    replies: list[Answer] = []

    async def patient() -> None:
        replies.append(await mcp.ok("send_message", **call))

    async with AsyncExitStack() as stack:
        stack.callback(held.gate.set)
        await mcp.running(conversation_id=call["conversation_id"], message="first")
        mcp.progress.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(patient)
            await mcp.until_reported("waiting")
            for _ in range(2):
                assert "Nothing was sent" in await mcp.refused("send_message", **call, wait_seconds=0.1)
            held.gate.set()

    assert [each.data["reply"] for each in replies] == ["echo: second"]
    assert await letta.stored_texts(agent_id, call["conversation_id"]) == ["first", "second"]
