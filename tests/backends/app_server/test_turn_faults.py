"""Turns on this machine when what follows them is cut off or killed: the turn goes on, and its reply is found."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from pydantic import SecretStr

from letta_conversations_mcp.backends.app_server.subscription_keeper import child
from letta_conversations_mcp.backends.app_server.supervisor import ADDRESS, TOKEN
from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.conftest import MODEL, unique
from tests.e2e.test_stdio import Wire, initialized, started
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import Caller, Way, in_own_task
from tests.rig.waiting import until

ONE_WAY = Way("memory", "modern")


class Proxy:
    """Passes connections on to a port of this machine, and cuts them when it is told to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.connections: list[SocketStream] = []
        """As they came: that of a backend, and then its subscription keeper's."""

    async def serve(self, near: SocketStream) -> None:
        self.connections.append(near)
        async with near, await anyio.connect_tcp("127.0.0.1", self._port) as far, anyio.create_task_group() as tasks:

            async def pass_on(source: SocketStream, target: SocketStream) -> None:
                try:
                    async for data in source:
                        await target.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(pass_on, near, far)
            tasks.start_soon(pass_on, far, near)


@asynccontextmanager
async def proxied(state: Path, **options: Any) -> AsyncGenerator[tuple[Caller, Proxy]]:
    """Our server, that reaches the App Server of a state folder through a proxy."""
    url: str = json.loads((state / ADDRESS).read_text())["url"]
    proxy = Proxy(urlsplit(url).port or 0)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy.serve)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - anyio's
        token = SecretStr((state / TOKEN).read_text())
        settings = Settings(
            backend="local", app_server_url=f"ws://127.0.0.1:{port}/ws", app_server_token=token, **options
        )
        async with ONE_WAY.to(settings) as caller:
            yield caller, proxy
        tasks.cancel_scope.cancel()


@pytest.fixture
async def caller(local_settings: Settings, model: ScriptedModel) -> AsyncGenerator[Caller]:
    async with in_own_task(ONE_WAY.to(local_settings)) as connected:
        yield connected


@pytest.fixture
async def place(caller: Caller) -> dict[str, str]:
    """A new conversation of a new agent, as arguments."""
    agent = (await caller.ok("create_agent", name=unique("sturdy"), model=MODEL)).data["agent_id"]
    return {"conversation_id": (await caller.ok("create_conversation", agent=agent)).data["conversation_id"]}


async def call(wire: Wire, number: int, tool: str, **arguments: object) -> dict[str, Any]:
    await wire.send("tools/call", {"name": tool, "arguments": arguments}, number)
    return (await wire.answer(number))["result"]["structuredContent"]


@pytest.mark.parametrize("which", [0, 1], ids=["ours", "the subscription keeper's"])
async def test_a_turn_outlives_one_of_the_two_connections(
    place: dict[str, str], model: ScriptedModel, state: Path, which: int
) -> None:
    held = Hold(Say("Still here."))
    model.enqueue(held)
    replies: list[dict[str, Any]] = []
    async with proxied(state) as (cut_off, proxy):

        async def ask() -> None:
            replies.append((await cut_off.ok("send_message", **place, message="think")).data)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await model.asked()
            await proxy.connections[which].aclose()
            waiting = await cut_off.ok("wait_for_reply", **place, wait_seconds=1)
            replies.append(waiting.data)
            held.gate.set()
        model.enqueue(Say("Of course."))
        following = await cut_off.ok("send_message", **place, message="and you take more?")

    assert [each["status"] for each in replies] == ["running", "completed"]
    assert replies[-1]["reply"] == "Still here."
    assert following.data["reply"] == "Of course."
    assert [call.text[-5:] for call in model.calls] == ["think", "more?"]


async def test_a_turn_that_loses_all_connections_is_told_to_be_broken_off_with_a_way_out(
    place: dict[str, str], model: ScriptedModel, state: Path
) -> None:
    held = Hold(Say("Only a part of this is stored."))
    async with proxied(state) as (cut_off, proxy):

        async def has_part() -> bool:
            listed = await cut_off.ok("list_messages", **place)
            return listed.data["messages"][-1]["kind"] == "assistant"

        await cut_off.ok("send_message", **place, message="hello")
        model.enqueue(held)
        await cut_off.ok("send_message", **place, message="think", wait_seconds=0)
        await model.asked(2)
        for connection in list(proxy.connections):
            await connection.aclose()
        await cut_off.ok("describe", **place)
        held.gate.set()
        await until(has_part)
        broken = await cut_off.ok("wait_for_reply", **place)
        refusal = await cut_off.refused("send_message", **place, message="and now?")
        branch = await cut_off.ok("fork", **place)
        model.enqueue(Say("Here I am."))
        answered = await cut_off.ok("send_message", conversation_id=branch.data["conversation_id"], message="and here?")

    assert broken.data["status"] == "failed"
    assert "may be a part" in broken.data["note"]
    assert "fork" in broken.data["note"]
    assert "already has an active run. Nothing was sent." in refusal
    assert "fork" in refusal
    assert answered.data["reply"] == "Here I am."


async def test_a_reply_is_found_by_the_next_process_when_the_only_one_is_killed(
    model: ScriptedModel, model_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMSTUDIO_BASE_URL", model_url)
    settings = Settings(backend="local", local_dir=tmp_path)
    held = Hold(Say("Found again."))
    model.enqueue(held)
    async with started(settings) as first:
        await initialized(first)
        agent = (await call(first, 2, "create_agent", name=unique("sturdy"), model=MODEL))["agent_id"]
        place = {"conversation_id": (await call(first, 3, "create_conversation", agent=agent))["conversation_id"]}
        await first.send("tools/call", {"name": "send_message", "arguments": {**place, "message": "think"}}, 4)
        await model.asked()
        first.process.send_signal(signal.SIGKILL)
        await first.ended_within(5)
    async with started(settings) as second:
        await initialized(second)
        waiting = await call(second, 2, "wait_for_reply", **place, wait_seconds=1)
        held.gate.set()
        reply = await call(second, 3, "wait_for_reply", **place)
        model.enqueue(Say("Of course."))
        following = await call(second, 4, "send_message", **place, message="and you take more?")

    assert waiting["status"] == "running"
    assert (reply["status"], reply["reply"]) == ("completed", "Found again.")
    assert following["reply"] == "Of course."


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM], ids=str)
async def test_a_reply_is_found_by_another_process_when_one_of_two_is_killed(
    caller: Caller,
    place: dict[str, str],
    model: ScriptedModel,
    local_settings: Settings,
    sign: signal.Signals,
) -> None:
    held = Hold(Say("Found again."))
    model.enqueue(held)
    async with started(local_settings) as doomed:
        await initialized(doomed)
        await doomed.send("tools/call", {"name": "send_message", "arguments": {**place, "message": "think"}}, 2)
        await model.asked()
        doomed.process.send_signal(sign)
        await doomed.ended_within(5)
    waiting = await caller.ok("wait_for_reply", **place, wait_seconds=1)
    held.gate.set()
    reply = await caller.ok("wait_for_reply", **place)
    model.enqueue(Say("Of course."))
    following = await caller.ok("send_message", **place, message="and you take more?")

    assert waiting.data["status"] == "running"
    assert (reply.data["status"], reply.data["reply"]) == ("completed", "Found again.")
    assert following.data["reply"] == "Of course."


async def test_a_turn_runs_without_a_subscription_keeper_too(
    caller: Caller,
    place: dict[str, str],
    model: ScriptedModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(child, "__file__", "/no/such/child.py")
    model.enqueue(Say("Unaided."))

    reply = await caller.ok("send_message", **place, message="hello")

    assert reply.data["reply"] == "Unaided."
    assert "will not outlive this process" in caplog.text
