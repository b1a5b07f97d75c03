"""SIGTERM while calls are running: nothing is lost, everybody gets an answer, and the process ends in order."""

from __future__ import annotations

import asyncio
import signal
import sys
from functools import partial
from typing import Any

import anyio
import httpx
import pytest

from letta_conversations_mcp.http.shutdown import drain_server
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.turns.draining import Drain
from tests.operations.service import Service, service
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.loopback import http_client
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import Era
from tests.rig.waiting import at_rest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")

ERAS: tuple[Era, ...] = ("legacy", "modern")


META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "a test", "version": "1"},
}
LIST_MODELS: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "list_models", "arguments": {}, "_meta": META},
}
MODERN = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
    "Mcp-Name": "list_models",
}


async def call_once(running: Service) -> httpx.Response:
    async with http_client() as http:
        return await http.post(f"{running.url}/mcp", json=LIST_MODELS, headers=MODERN)


def slow_letta() -> tuple[FakeLetta, anyio.Event]:
    """A Letta that does not say which models it has before the event."""
    fake = FakeLetta(ScriptedModel())
    gate = anyio.Event()
    fake.stall("GET", "/v1/models/*", gate)
    return fake, gate


async def test_a_signal_in_the_moment_in_which_it_begins_to_serve_ends_it_in_order() -> None:
    async with service(Settings(base_url="http://127.0.0.1:9")) as running:
        running.process.send_signal(signal.SIGTERM)
        status = await running.ended()

    assert status == 0
    assert "Traceback" not in running.log


@pytest.mark.parametrize("era", ERAS)
async def test_a_running_call_is_answered_early_and_its_turn_is_found_by_another_server(
    era: Era, letta: Letta, model: ScriptedModel
) -> None:
    agent_id, _ = await letta.new_agent()
    held = Hold(Say("It was not lost."))
    model.enqueue(held)
    settings = Settings(base_url=letta.base_url, drain_seconds=600)
    async with service(settings) as running, running.client(era) as caller:
        call = asyncio.create_task(caller.ok("send_message", agent=agent_id, message="think"))
        await model.asked()
        running.process.send_signal(signal.SIGTERM)
        status = await running.ended()
        answer = await call

    held.gate.set()
    told = answer.data
    async with service(settings) as other, other.client(era) as caller:
        found = await caller.ok("wait_for_reply", conversation_id=told["conversation_id"], run_id=told["run_id"])

    assert status == 0
    assert told["status"] == "running"
    assert "wait_for_reply" in answer.text
    assert found.data["reply"] == "It was not lost."
    assert len(model.calls) == 1
    assert "Traceback" not in running.log


async def test_while_it_drains_it_is_not_ready_and_refuses_new_calls_but_is_alive() -> None:
    fake, gate = slow_letta()
    async with fake.serve() as letta_url:
        settings = Settings(base_url=letta_url, drain_seconds=600)
        async with service(settings) as running, running.client("modern") as caller:
            running_call = asyncio.create_task(caller.ok("list_models"))
            await fake.requests.until()
            await running.begin_to_drain()
            ready, alive, call = await running.get("/readyz"), await running.get("/healthz"), await call_once(running)
            gate.set()
            status = await running.ended()
            await running_call

    assert status == 0
    assert "shutting down" in ready.json()["reason"]
    assert alive.status_code == 200
    assert call.status_code == 503
    assert int(call.headers["Retry-After"]) > 0
    assert "Nothing was done" in call.json()["error"]["message"]


async def test_connections_are_closed_with_their_next_answer_while_it_drains() -> None:
    """Or a proxy, which keeps them, sends the next request on one that is closed in the same moment."""
    fake, gate = slow_letta()
    async with (
        fake.serve() as letta_url,
        service(Settings(base_url=letta_url)) as running,
        http_client() as http,
        anyio.create_task_group() as tasks,
    ):
        before = await http.get(f"{running.url}/healthz")
        tasks.start_soon(call_once, running)
        await fake.requests.until()
        await running.begin_to_drain()
        after = await http.get(f"{running.url}/healthz")
        gate.set()

        assert before.headers.get("connection") != "close"
        assert after.headers["connection"] == "close"


async def test_a_client_whose_connection_ended_with_its_answer_may_still_connect() -> None:
    """It may have to request something before it accepts the answer, such as the schema of the tool."""
    drain, ended = Drain(), anyio.Event()

    async def settle() -> None:
        pass

    async def end() -> None:
        await drain_server(drain, settle, lambda: False, 600)
        ended.set()

    async with anyio.create_task_group() as tasks:
        with drain.request():
            tasks.start_soon(end)
            await at_rest()
        await at_rest()
        with drain.request():
            assert not ended.is_set()

    assert ended.is_set()


async def test_a_message_that_waits_for_its_place_is_not_sent_any_more(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("first"))
    model.enqueue(held)
    async with service(Settings(base_url=letta.base_url)) as running, running.client("modern") as caller:
        send = partial(caller.call, "send_message", conversation_id=conversation_id)
        first = asyncio.create_task(send(message="one"))
        await model.asked()
        second = asyncio.create_task(send(message="two"))
        await running.shows("letta_mcp_messages_queued 1.0")
        running.process.send_signal(signal.SIGTERM)
        await running.ended()
        sent, waiting = await first, await second
    held.gate.set()

    assert sent.data["status"] == "running"
    assert waiting.is_error
    assert "shutting down" in waiting.text
    assert "Nothing was sent" in waiting.text
    assert len(model.calls) == 1


async def test_a_call_that_does_not_end_is_ended_within_the_bound_and_told_so() -> None:
    fake, gate = slow_letta()
    async with fake.serve() as letta_url:
        settings = Settings(base_url=letta_url, drain_seconds=2)
        async with service(settings) as running, running.client("modern") as caller:
            call = asyncio.create_task(caller.refused("list_models"))
            await fake.requests.until()
            running.process.send_signal(signal.SIGTERM)
            status = await running.ended()
            told = await call
        gate.set()

    assert status == 0
    assert "shut down before the call had ended" in told
    assert "Traceback" not in running.log


async def test_a_message_that_letta_has_not_confirmed_is_waited_for_before_the_end() -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    agent_id = fake.add_agent("far")
    gate = anyio.Event()
    async with fake.serve() as letta_url:
        conversation_id = fake.add_conversation(agent_id)
        held = Hold(Say("Arrived."))
        model.enqueue(held)
        fake.stall("POST", f"/v1/conversations/{conversation_id}/messages", gate)
        async with (
            service(Settings(base_url=letta_url, drain_seconds=600)) as running,
            running.client("modern") as caller,
        ):
            call = asyncio.create_task(caller.ok("send_message", conversation_id=conversation_id, message="hello"))
            await fake.requests.until(lambda each: each.path.endswith("/messages"))
            await running.begin_to_drain()
            gate.set()
            status = await running.ended()
            answer = await call
        held.gate.set()

    assert status == 0
    assert answer.data["status"] == "running"
    assert answer.data["run_id"]


async def test_a_listening_client_is_told_of_the_end_and_does_not_hold_the_server_up() -> None:
    body = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "subscriptions/listen",
        "params": {
            "notifications": {"resourcesListChanged": True},
            "_meta": META,
        },
    }
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "subscriptions/listen",
    }
    async with (
        service(Settings(base_url="http://127.0.0.1:9", drain_seconds=600)) as running,
        http_client() as http,
        http.stream("POST", f"{running.url}/mcp", json=body, headers=headers) as stream,
    ):
        lines = stream.aiter_lines()
        async for line in lines:
            if "acknowledged" in line:
                break
        running.process.send_signal(signal.SIGTERM)
        rest = [line async for line in lines]
        status = await running.ended()

    assert status == 0
    assert any('"id":7' in line and '"result"' in line for line in rest)
    assert "Traceback" not in running.log


async def test_a_second_signal_does_not_wait() -> None:
    fake, gate = slow_letta()
    async with fake.serve() as letta_url:
        settings = Settings(base_url=letta_url, drain_seconds=600)
        async with service(settings) as running, http_client(timeout=20) as http:
            call = asyncio.create_task(http.post(f"{running.url}/mcp", json=LIST_MODELS, headers=MODERN))
            await fake.requests.until()
            await running.begin_to_drain()
            running.process.send_signal(signal.SIGTERM)
            status = await running.ended()
            answer = (await call).json()
        gate.set()

    assert status == 0
    assert answer["result"]["isError"]
    assert "Traceback" not in running.log
