"""What the App Server does by itself, and our users must not be caught by."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest

from letta_conversations_mcp.backends.app_server.process import AppServer
from letta_conversations_mcp.backends.app_server.supervisor import ADDRESS, TOKEN
from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.app_servers import ask
from tests.backends.app_server.conftest import MODEL, unique
from tests.rig.model import CallTools, Hold, Say, ScriptedModel, Use
from tests.rig.servers import Caller, Way, in_own_task

ONE_WAY = Way("memory", "modern")


@pytest.fixture
async def caller(local_settings: Settings, model: ScriptedModel) -> AsyncGenerator[Caller]:
    async with in_own_task(ONE_WAY.to(local_settings)) as connected:
        yield connected


async def new_agent(caller: Caller) -> str:
    return (await caller.ok("create_agent", name=unique("sturdy"), model=MODEL)).data["agent_id"]


async def new_place(caller: Caller, agent: str) -> dict[str, str]:
    return {"conversation_id": (await caller.ok("create_conversation", agent=agent)).data["conversation_id"]}


async def texts(caller: Caller, place: dict[str, str]) -> list[str]:
    return [each["text"] for each in (await caller.ok("list_messages", **place)).data["messages"]]


def address(state: Path) -> dict[str, Any]:
    return json.loads((state / ADDRESS).read_text())


def server_of(state: Path) -> AppServer:
    return AppServer(address(state)["url"], (state / TOKEN).read_text())


async def test_tools_of_this_machine_run_only_when_they_are_let(
    caller: Caller, model: ScriptedModel, local_settings: Settings, tmp_path: Path
) -> None:
    agent = await new_agent(caller)
    allowing = local_settings.model_copy(update={"local_tools": "on"})
    made, asked = tmp_path / "made", Use("Bash", {"command": f"touch {tmp_path / 'made'}", "description": "a file"})

    place = await new_place(caller, agent)
    model.enqueue(CallTools((asked,)), Say("I could not."))
    await caller.ok("send_message", **place, message="make a file")
    before = made.exists()
    async with ONE_WAY.to(allowing) as allowed:
        model.enqueue(CallTools((asked,)), Say("Made."))
        # A conversation keeps its mode on the disk: it is set anew by who talks in it.
        reply = await allowed.ok("send_message", **place, message="now make it", kinds=["tool"])

    assert not before
    assert made.exists()
    assert reply.data["reply"] == "Made."
    assert reply.data["tool_calls"][0]["status"] == "success"


async def test_every_message_is_stored_with_an_id_of_its_own(caller: Caller, model: ScriptedModel, state: Path) -> None:
    model.enqueue(Say("one"), Say("two"))
    agent = await new_agent(caller)
    place = await new_place(caller, agent)
    for _ in range(2):
        await caller.ok("send_message", **place, message="the same")

    query = {"agent_id": agent, "limit": 50}
    listed = await ask(server_of(state), "conversation_messages_list", **place, query=query)

    ids = [each["otid"] for each in listed["messages"] if each["message_type"] == "user_message"]
    assert len(set(ids)) == 2
    assert all(uuid.UUID(each).version == 4 for each in ids)


async def test_messages_sent_at_once_are_answered_one_after_another(caller: Caller, model: ScriptedModel) -> None:
    place = await new_place(caller, await new_agent(caller))
    first = Hold(Say("answer to one"))
    model.enqueue(first, to="one")
    model.enqueue(Say("answer to two"), to="two")
    replies: dict[str, str] = {}

    async def send(word: str) -> None:
        replies[word] = (await caller.ok("send_message", **place, message=word)).data["reply"]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send, "one")
        await model.asked()
        tasks.start_soon(send, "two")
        first.gate.set()

    assert replies == {"one": "answer to one", "two": "answer to two"}
    assert await texts(caller, place) == ["one", "answer to one", "two", "answer to two"]


async def test_two_processes_can_talk_in_one_conversation_at_once(
    caller: Caller, model: ScriptedModel, local_settings: Settings
) -> None:
    place = await new_place(caller, await new_agent(caller))
    first = Hold(Say("answer to one"))
    model.enqueue(first, to="one")
    model.enqueue(Say("answer to two"), to="two")
    replies: dict[str, str] = {}
    states: list[str] = []

    async def send(by: Caller, word: str) -> None:
        replies[word] = (await by.ok("send_message", **place, message=word)).data["reply"]

    async with Way("stdio", "legacy").to(local_settings) as other:
        await other.ok("list_agents")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, caller, "one")
            await model.asked()
            tasks.start_soon(send, other, "two")
            # The App Server has it once the other's wait tells of it.
            states.append((await other.ok("wait_for_reply", **place, wait_seconds=1)).data["status"])
            first.gate.set()

    assert states == ["running"]
    assert replies == {"one": "answer to one", "two": "answer to two"}
    assert await texts(caller, place) == ["one", "answer to one", "two", "answer to two"]


async def test_an_id_that_is_given_again_leads_to_the_new_agent(
    lonely: Caller, model: ScriptedModel, tmp_path: Path
) -> None:
    model.enqueue(Say("first"), Say("second"))
    old = await new_agent(lonely)
    place = await new_place(lonely, old)
    await lonely.ok("send_message", **place, message="to the first")
    await ask(server_of(tmp_path), "agent_delete", agent_id=old)
    os.kill(address(tmp_path)["server_pid"], 9)
    gone = await lonely.refused("list_messages", **place)

    new = await new_agent(lonely)
    again = await new_place(lonely, new)
    empty = await lonely.ok("list_messages", **again)
    sent = await lonely.ok("send_message", **again, message="to the second")
    page = await lonely.ok("list_messages", **again)

    assert "no conversation" in gone
    assert again == place
    assert empty.data["agent_id"] == sent.data["agent_id"] == page.data["agent_id"] == new != old
    assert [each["text"] for each in page.data["messages"]] == ["to the second", "second"]
