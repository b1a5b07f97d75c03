"""Two of our servers at one App Server, as two clients on a machine have them, in one conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from functools import partial

import anyio
import pytest

from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.conftest import MODEL, unique
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import Answer, Caller, Way, in_own_task

ONE_WAY = Way("memory", "modern")


@pytest.fixture
async def one(local_settings: Settings, model: ScriptedModel) -> AsyncGenerator[Caller]:
    async with in_own_task(ONE_WAY.to(local_settings)) as caller:
        yield caller


@pytest.fixture
async def other(local_settings: Settings, model: ScriptedModel) -> AsyncGenerator[Caller]:
    async with in_own_task(ONE_WAY.to(local_settings)) as caller:
        yield caller


@pytest.fixture
async def conversation_id(one: Caller) -> str:
    agent = await one.ok("create_agent", name=unique("shared"), model=MODEL)
    return (await one.ok("create_conversation", agent=agent.data["agent_id"])).data["conversation_id"]


@contextmanager
def held(model: ScriptedModel, reply: str) -> Generator[Hold]:
    """The next turn lasts until its gate is set, or this ends."""
    turn = Hold(Say(reply))
    model.enqueue(turn)
    try:
        yield turn
    finally:
        turn.gate.set()


async def users_texts(caller: Caller, conversation_id: str) -> list[str]:
    page = await caller.ok("list_messages", conversation_id=conversation_id, kinds=["user"])
    return [each["text"] for each in page.data["messages"]]


async def test_a_message_waits_for_the_turn_of_the_other_server(
    one: Caller, other: Caller, model: ScriptedModel, conversation_id: str
) -> None:
    replies: dict[str, Answer] = {}

    async def ask(caller: Caller, text: str) -> None:
        replies[text] = await caller.ok("send_message", conversation_id=conversation_id, message=text)

    with held(model, "to the first") as turn:
        model.enqueue(Say("to the second"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one, "first")
            await model.asked()
            tasks.start_soon(ask, other, "second")
            await other.until_reported("somebody else's turn")
            turn.gate.set()

    assert {text: answer.data["reply"] for text, answer in replies.items()} == {
        "first": "to the first",
        "second": "to the second",
    }
    assert await users_texts(one, conversation_id) == ["first", "second"]


async def test_who_does_not_want_to_wait_for_the_other_server_is_told_or_gets_a_branch(
    one: Caller, other: Caller, model: ScriptedModel, conversation_id: str
) -> None:
    call = {"conversation_id": conversation_id, "message": "quick"}
    with held(model, "slow"):
        running = await one.running(conversation_id=conversation_id, message="slowly")
        refusal = await other.refused("send_message", **call, on_busy="fail")
        model.enqueue(Say("from a branch"))
        branch = await other.ok("send_message", **call, on_busy="fork")
    slow = await other.ok("wait_for_reply", conversation_id=conversation_id)

    assert "is answering another message" in refusal
    assert running.data["run_id"] in refusal
    assert branch.data["reply"] == "from a branch"
    assert branch.data["conversation_id"] != conversation_id
    assert slow.data["reply"] == "slow"
    assert await users_texts(one, conversation_id) == ["slowly"]


async def test_a_call_that_is_given_up_and_made_again_at_the_other_server_sends_one_message(
    one: Caller, other: Caller, model: ScriptedModel, conversation_id: str
) -> None:
    call = {"conversation_id": conversation_id, "message": "Think hard", "message_key": "hard question"}
    answers: list[Answer] = []

    async def again() -> None:
        answers.append(await other.ok("send_message", **call))

    with held(model, "At last.") as turn:
        async with anyio.create_task_group() as given_up:
            given_up.start_soon(partial(one.ok, "send_message", **call))
            await model.asked()
            given_up.cancel_scope.cancel()
        early = await other.ok("send_message", **call, wait_seconds=0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(again)
            turn.gate.set()

    [answer] = answers
    assert early.data["status"] == "running"
    assert early.data["run_id"] == answer.data["run_id"]
    assert answer.data["reply"] == "At last."
    assert "not sent again" in answer.data["note"]
    assert await users_texts(one, conversation_id) == ["Think hard"]
    assert len(model.calls) == 1
