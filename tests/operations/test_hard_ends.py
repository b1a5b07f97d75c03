"""Exchanges that end hard, on either side and at any moment: no error and no traceback in the log, and the server goes
on, or ends with status 0."""

from __future__ import annotations

import json
import signal
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from letta_conversations_mcp.settings import Settings
from tests.http.team import HEADERS, modern_call
from tests.operations.service import Service, service
from tests.rig.bounds import HANG_SECONDS
from tests.rig.fake_letta import FakeLetta
from tests.rig.loopback import http_client
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import Era

Moment = Literal["head", "body", "call", "stream"]
MOMENTS: tuple[Moment, ...] = ("head", "body", "call", "stream")
LEGACY = "2025-11-25"


def is_clean(log: str) -> bool:
    return not any(word in log for word in ("Traceback", " ERROR ", " WARNING "))


async def headers_of(running: Service, era: Era) -> dict[str, str]:
    """What the requests of a client carry; in the older protocol it has a session."""
    if era == "modern":
        return {}
    hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "a test", "version": "1"}}
    async with http_client(headers=HEADERS) as http:
        call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        opened = await http.post(f"{running.url}/mcp", json=call)
    return {**HEADERS, "MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": opened.headers["mcp-session-id"]}


def request(method: str, headers: dict[str, str], content: bytes = b"") -> bytes:
    lines = [f"{method} /mcp HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content


@asynccontextmanager
async def exchange(
    running: Service, era: Era, moment: Moment, agent: str, model: ScriptedModel, number: int = 1
) -> AsyncGenerator[SocketStream]:
    """A connection whose request has come as far as that. A call is the one of this number."""
    own = await headers_of(running, era)
    call, modern = modern_call(
        "tools/call", {"name": "send_message", "arguments": {"agent": agent, "message": f"message {number}"}}
    )
    call["params"]["_meta"]["progressToken"] = 1
    posted = request("POST", own or {**modern, "Mcp-Name": "send_message"}, json.dumps(call).encode())
    listen, modern = modern_call("subscriptions/listen", {"notifications": {"resourcesListChanged": True}})
    listening = request("GET", own) if own else request("POST", modern, json.dumps(listen).encode())
    sent = {"head": posted[:60], "body": posted[:-10], "call": posted, "stream": listening}[moment]
    host, _, port = running.url.removeprefix("http://").partition(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(sent)
        with anyio.fail_after(HANG_SECONDS):
            if moment == "call":
                await model.asked(times=number)
            if moment in ("call", "stream"):
                assert b" 200 OK" in await stream.receive()
        yield stream


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_client_may_leave_at_any_moment(era: Era) -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    agent = fake.add_agent("patient")
    async with fake.serve() as letta_url, service(Settings(base_url=letta_url, log_level="INFO")) as running:
        for moment in MOMENTS:
            for number, resets in enumerate((False, True), 1):
                held = Hold(Say("done"))
                if moment == "call":
                    model.enqueue(held)
                async with exchange(running, era, moment, agent, model, number) as stream:
                    if resets:
                        sock: socket.socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                held.gate.set()
        async with running.client(era) as caller:
            assert (await caller.ok("send_message", agent=agent, message="again")).data["reply"] == "echo: again"
        running.process.send_signal(signal.SIGTERM)
        status = await running.ended()

    assert status == 0
    assert "going down" in running.log
    assert is_clean(running.log), running.log


@pytest.mark.parametrize(("era", "how"), [("modern", signal.SIGTERM), ("legacy", signal.SIGINT)])
async def test_the_server_may_be_stopped_at_any_moment(era: Era, how: signal.Signals) -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    agent = fake.add_agent("patient")
    held = Hold(Say("done"))
    model.enqueue(held)
    ends: dict[Moment, bytes] = {}
    async with fake.serve() as letta_url, service(Settings(base_url=letta_url, log_level="INFO")) as running:

        async def be_there(moment: Moment, *, task_status: anyio.abc.TaskStatus[None]) -> None:
            async with exchange(running, era, moment, agent, model) as stream:
                task_status.started()
                ends[moment] = b"".join([part async for part in stream])

        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                for moment in MOMENTS:
                    await tasks.start(be_there, moment)
                running.process.send_signal(how)
        status = await running.ended()
        held.gate.set()

    assert status == 0
    assert is_clean(running.log), running.log
    assert ends["head"] == b""
    assert b" 503 " in ends["body"].partition(b"\r\n")[0]
    assert b"Nothing was done" in ends["body"]
    assert b"wait_for_reply" in ends["call"]
    # The last, empty chunk: the stream was ended, and did not break.
    assert ends["stream"].endswith(b"0\r\n\r\n")
