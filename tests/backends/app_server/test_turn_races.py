"""Messages that reach the App Server at the same moment, from our processes and from other clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from letta_conversations_mcp.backends.app_server.base import LOOK_SECONDS
from letta_conversations_mcp.backends.app_server.process import AppServer
from letta_conversations_mcp.backends.app_server.supervisor import TOKEN
from letta_conversations_mcp.core.model import ConversationRef
from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.app_servers import address
from tests.backends.app_server.conftest import MODEL, unique
from tests.backends.app_server.foreign_client import ForeignClient, foreign_client
from tests.backends.app_server.test_local_deliveries import broken_way_to
from tests.faults.plan import At, Plan, Wait
from tests.rig.bounds import HANG_SECONDS
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import Caller, Way, in_own_task
from tests.rig.waiting import Record

ONE_WAY = Way("memory", "modern")
ROUNDS = 4


@pytest.fixture
async def one(local_settings: Settings, model: ScriptedModel) -> AsyncGenerator[Caller]:
    async with in_own_task(ONE_WAY.to(local_settings)) as caller:
        await caller.ok("list_agents")
        yield caller


@pytest.fixture
async def other(local_settings: Settings, one: Caller) -> AsyncGenerator[Caller]:
    async with in_own_task(ONE_WAY.to(local_settings)) as caller:
        yield caller


@pytest.fixture
async def foreign(local_settings: Settings, one: Caller) -> AsyncGenerator[ForeignClient]:
    assert local_settings.local_dir
    async with in_own_task(foreign_client(local_settings.local_dir)) as client:
        yield client


async def new_ref(caller: Caller, conversation_id: str = "") -> ConversationRef:
    """A conversation of a new agent, that has been talked in: the first message of one comes with reminders."""
    agent = (await caller.ok("create_agent", name=unique("raced"), model=MODEL)).data["agent_id"]
    if not conversation_id:
        conversation_id = (await caller.ok("create_conversation", agent=agent)).data["conversation_id"]
    await caller.ok("send_message", agent=agent, conversation_id=conversation_id, message="hello")
    return ConversationRef(conversation_id=conversation_id, agent_id=agent)


def place(ref: ConversationRef) -> dict[str, str]:
    return {"agent": ref.agent_id, "conversation_id": ref.conversation_id}


async def user_texts(caller: Caller, ref: ConversationRef) -> list[str]:
    page = await caller.ok("list_messages", **place(ref), kinds=["user"], limit=100)
    return [each["text"] for each in page.data["messages"]]


async def test_senders_in_one_conversation_each_get_their_own_reply(one: Caller, other: Caller) -> None:
    ref = await new_ref(one)
    replies: dict[str, object] = {}

    async def ask(caller: Caller, text: str) -> None:
        replies[text] = (await caller.ok("send_message", **place(ref), message=text)).data.get("reply")

    for number in range(ROUNDS):
        async with anyio.create_task_group() as tasks:
            for sender, caller in enumerate((one, other, one, other)):
                tasks.start_soon(ask, caller, f"message {number} of {sender}")

    assert replies == {text: f"echo: {text}" for text in replies}
    assert len(replies) == 4 * ROUNDS
    assert Counter(await user_texts(one, ref)) == Counter(["hello", *replies])


@pytest.mark.parametrize("at", [At("request"), At("forwarded")], ids=str)
async def test_the_reply_to_a_foreign_client_is_not_taken_for_ours(
    one: Caller, foreign: ForeignClient, model: ScriptedModel, state: Path, at: At
) -> None:
    """It comes after our look whether a turn runs: before our message, or after it and before we hear of it."""
    ref = await new_ref(one)
    await foreign.subscribe(ref)
    held = Hold(Say("not ours"))
    model.enqueue(held, to="foreign")
    replies = Record[object]()
    server = AppServer(address(state)["url"], (state / TOKEN).read_text())
    async with broken_way_to(server) as (proxy, settings), ONE_WAY.to(settings) as caller:

        async def ask() -> None:
            replies.append((await caller.ok("send_message", **place(ref), message="ours")).data["reply"])

        proxy.arm(Plan(Wait(at)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            with anyio.fail_after(HANG_SECONDS):
                await proxy.struck.wait()
            await foreign.until(request_id=await foreign.send(ref, "foreign"))
            proxy.released.set()
            await (caller.until_reported("somebody else's turn") if at == At("request") else replies.until())
            held.gate.set()
    await model.asked(3)

    assert replies == ["echo: ours"]
    assert (await user_texts(one, ref)).count("ours") == 1


async def test_agents_answer_in_their_default_conversations_one_after_another(
    one: Caller, other: Caller, model: ScriptedModel
) -> None:
    first, second = await new_ref(one, "default"), await new_ref(one, "default")
    held = Hold(Say("of the first"))
    model.enqueue(held, to="to the first")
    replies: dict[str, object] = {}

    async def ask(caller: Caller, ref: ConversationRef, text: str) -> None:
        replies[text] = (await caller.ok("send_message", **place(ref), message=text)).data.get("reply")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, one, first, "to the first")
        await model.asked(3)
        tasks.start_soon(ask, other, second, "to the second")
        await other.until_reported("somebody else's turn")
        held.gate.set()

    assert replies == {"to the first": "of the first", "to the second": "echo: to the second"}
    assert await user_texts(one, second) == ["hello", "to the second"]


async def test_a_foreign_turn_in_another_agents_default_conversation_is_waited_for(
    one: Caller, model: ScriptedModel, foreign: ForeignClient
) -> None:
    first, second = await new_ref(one, "default"), await new_ref(one, "default")
    held = Hold(Say("of the first"))
    model.enqueue(held, to="foreign")
    await foreign.subscribe(first)
    await foreign.send(first, "foreign")
    await model.asked(3)

    refusal = await one.refused("send_message", **place(second), message="impatient", on_busy="fail")
    replies: list[object] = []

    async def ask() -> None:
        replies.append((await one.ok("send_message", **place(second), message="patient")).data["reply"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await one.until_reported("somebody else's turn")
        assert replies == []
        held.gate.set()

    assert "is answering another message" in refusal
    assert replies == ["echo: patient"]
    assert await user_texts(one, second) == ["hello", "patient"]


async def test_the_turn_that_begins_to_answer_is_stopped_before_its_first_word(
    one: Caller, model: ScriptedModel
) -> None:
    ref = await new_ref(one)
    held = Hold(Say("never heard"))
    model.enqueue(held, to="think")
    replies = Record[dict[str, object]]()

    async def ask() -> None:
        replies.append((await one.ok("send_message", **place(ref), message="think")).data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await model.asked(2)
        await one.ok("cancel", **place(ref))
        # Later, our server would look by itself whether the turn still runs.
        with anyio.fail_after(LOOK_SECONDS - 1):
            await replies.until()
        held.gate.set()

    assert replies[0]["status"] == "cancelled"
