"""The server as a process over stdio: what a client's configuration starts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError

from letta_conversations_mcp.settings import Settings
from tests.rig.bounds import HANG_SECONDS
from tests.rig.fake_letta import FakeLetta
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import Caller, environment

INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "a test", "version": "1"},
}

SOON = 8
"""Seconds. It takes less than one; on a busy machine it must still be told from the ten that serve --http drains."""


class Wire:
    """A server process, spoken to line by line."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self.process = process
        self._input = process.stdin
        self._output = BufferedByteReceiveStream(process.stdout)
        self.lines: list[str] = []

    async def send(self, method: str, params: dict[str, Any] | None = None, request_id: int | None = None) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        if request_id is not None:
            message["id"] = request_id
        await self._input.send(json.dumps(message).encode() + b"\n")

    async def send_line(self, line: str) -> None:
        await self._input.send(line.encode() + b"\n")

    async def answer(self, request_id: int | str | None) -> dict[str, Any]:
        """The answer to a request; whatever comes before it is kept in `lines` too."""
        with anyio.fail_after(HANG_SECONDS):
            while True:
                line = (await self._output.receive_until(b"\n", 10_000_000)).decode()
                self.lines.append(line)
                if (message := json.loads(line)).get("id") == request_id:
                    return message

    async def close_input(self) -> None:
        await self._input.aclose()

    async def rest(self) -> str:
        text = ""
        with anyio.fail_after(HANG_SECONDS):
            async for piece in TextReceiveStream(self._output):
                text += piece
        return text

    async def ended_within(self, seconds: float) -> int:
        with anyio.fail_after(seconds):
            return await self.process.wait()


@asynccontextmanager
async def started(settings: Settings, *arguments: str) -> AsyncGenerator[Wire]:
    """The process, which ends with its input, and is killed if it does not."""
    command = [sys.executable, "-m", "letta_conversations_mcp", *arguments]
    async with await anyio.open_process(command, env=environment(settings), stderr=subprocess.PIPE) as process:
        wire = Wire(process)
        try:
            yield wire
            await wire.close_input()
            await wire.ended_within(HANG_SECONDS)
        finally:
            if process.returncode is None:
                process.kill()


async def initialized(wire: Wire) -> None:
    await wire.send("initialize", INITIALIZE, 1)
    await wire.answer(1)
    await wire.send("notifications/initialized")


async def test_stdout_carries_nothing_but_protocol() -> None:
    fake = FakeLetta(ScriptedModel())
    agent_id = fake.add_agent("talker")
    async with fake.serve() as url, started(Settings(base_url=url, log_level="DEBUG")) as wire:
        await initialized(wire)
        await wire.send("tools/list", {}, 2)
        await wire.answer(2)
        call = {"name": "send_message", "arguments": {"agent": agent_id, "message": "hello"}}
        await wire.send("tools/call", call, 3)
        answer = await wire.answer(3)
        await wire.close_input()
        rest = await wire.rest()

    assert answer["result"]["structuredContent"]["reply"] == "echo: hello"
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in [*wire.lines, *rest.splitlines()])


@pytest.mark.parametrize(
    ("line", "request_id", "code"),
    [
        ('{"jsonrpc":"2.0","id":7,"method":"tools/list","params":[1]}', 7, -32600),
        ('{"jsonrpc":"2.0","id":"a","params":{}}', "a", -32600),
        ('[{"jsonrpc":"2.0","id":7,"method":"ping"}]', None, -32600),
        ('{"jsonrpc":"2.0","id":7,"method":"ping","params":{"text":"\\ud83d"},"jsonrpc":"1.0"}', 7, -32600),
        ('{"jsonrpc":"2.0","id":7,"method":"ping"', 7, -32700),
        ('{"jsonrpc":"2.0","id":7,"method":"ping","params":{]}', 7, -32700),
        ("hello", None, -32700),
    ],
)
async def test_a_request_that_cannot_be_parsed_is_answered(line: str, request_id: int | str | None, code: int) -> None:
    async with started(Settings(base_url="http://127.0.0.1:9")) as wire:
        await initialized(wire)
        await wire.send_line(line)
        refused = await wire.answer(request_id)
        await wire.send("ping", {}, 8)
        await wire.answer(8)

    assert refused["error"]["code"] == code
    assert refused["id"] == request_id


async def test_a_notification_that_cannot_be_parsed_is_not_answered() -> None:
    async with started(Settings(base_url="http://127.0.0.1:9")) as wire:
        await initialized(wire)
        await wire.send_line('{"jsonrpc":"2.0","method":"notifications/initialized","params":[1]}')
        await wire.send("ping", {}, 8)
        await wire.answer(8)

    assert [json.loads(line)["id"] for line in wire.lines] == [1, 8]


async def test_half_an_emoji_in_a_message_is_replaced() -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    agent_id = fake.add_agent("talker")
    call = {"name": "send_message", "arguments": {"agent": agent_id, "message": "half of an emoji: HALF"}}
    request = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}
    async with fake.serve() as url, started(Settings(base_url=url)) as wire:
        await initialized(wire)
        await wire.send_line(json.dumps(request).replace("HALF", "\\ud83d"))
        answer = await wire.answer(2)

    assert answer["result"]["structuredContent"]["reply"] == "echo: half of an emoji: \ufffd"
    assert [call.text for call in model.calls] == ["half of an emoji: \ufffd"]


async def test_without_a_place_to_go_the_server_starts_and_every_call_tells_the_ways() -> None:
    script = (
        "import sys; sys.modules['letta_code'] = None\n"
        "from letta_conversations_mcp.__main__ import main\n"
        "sys.exit(main())"
    )
    command = StdioServerParameters(command=sys.executable, args=["-c", script], env=environment(Settings()))
    async with Client(command) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        caller = Caller(client)
        refusals = [
            await caller.refused("list_agents"),
            await caller.refused("send_message", agent="somebody", message="hello"),
            await caller.refused("create_agent", name="somebody"),
        ]
        with pytest.raises(MCPError, match="LETTA_BASE_URL"):
            await client.list_resources()

    assert "send_message" in tools
    for said in refusals:
        assert "A person has to" in said
        assert "LETTA_API_KEY" in said
        assert "LETTA_BASE_URL" in said
        assert f"{sys.executable} -m pip install letta==" in said


async def test_the_end_of_input_ends_the_process_soon() -> None:
    async with started(Settings(base_url="http://127.0.0.1:9")) as wire:
        await initialized(wire)
        await wire.close_input()

        assert await wire.ended_within(SOON) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
async def test_a_signal_ends_the_process_soon_even_with_a_turn_in_flight(number: signal.Signals) -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    agent_id = fake.add_agent("slow")
    held = Hold(Say("later"))
    model.enqueue(held)
    async with fake.serve() as url, started(Settings(base_url=url)) as wire:
        await initialized(wire)
        call = {"name": "send_message", "arguments": {"agent": agent_id, "message": "think"}}
        await wire.send("tools/call", call, 2)
        await model.asked()
        wire.process.send_signal(number)

        assert await wire.ended_within(SOON) == 0
        held.gate.set()


async def test_a_client_that_is_killed_during_a_call_leaves_no_traceback() -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    call = {"name": "send_message", "arguments": {"agent": fake.add_agent("slow"), "message": "think"}}
    held = Hold(Say("later"))
    model.enqueue(held)
    async with fake.serve() as url, started(Settings(base_url=url)) as wire:
        assert wire.process.stdout
        assert wire.process.stderr
        await initialized(wire)
        await wire.send("tools/call", {**call, "_meta": {"progressToken": 1}}, 2)
        await model.asked()
        await wire.process.stdout.aclose()
        held.gate.set()
        await wire.close_input()
        log = "".join([piece async for piece in TextReceiveStream(wire.process.stderr)])
        status = await wire.ended_within(HANG_SECONDS)

    assert status == 0
    assert "Traceback" not in log


async def test_a_new_process_finds_the_turn_that_a_killed_one_started() -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    agent_id = fake.add_agent("slow")
    held = Hold(Say("Found again."))
    model.enqueue(held)
    async with fake.serve() as url:
        conversation_id = fake.add_conversation(agent_id)
        async with started(Settings(base_url=url)) as first:
            await initialized(first)
            call = {"name": "send_message", "arguments": {"conversation_id": conversation_id, "message": "think"}}
            await first.send("tools/call", call, 2)
            await model.asked()
            first.process.kill()
            await first.ended_within(HANG_SECONDS)
        held.gate.set()
        async with started(Settings(base_url=url)) as second:
            await initialized(second)
            call = {"name": "wait_for_reply", "arguments": {"conversation_id": conversation_id}}
            await second.send("tools/call", call, 2)
            answer = await second.answer(2)

    assert answer["result"]["structuredContent"]["reply"] == "Found again."


async def test_the_sdk_is_not_loaded_before_it_is_needed() -> None:
    script = (
        "import sys, letta_conversations_mcp.cli.main\n"
        "from letta_conversations_mcp.server.app import build_server\n"
        "from letta_conversations_mcp.settings import Settings\n"
        "build_server(Settings()).specs\n"
        "print(sorted({'letta_client', 'httpx'} & set(sys.modules)))"
    )

    done = await anyio.run_process([sys.executable, "-c", script])

    assert done.stdout.decode().strip() == "[]"


@pytest.mark.parametrize("for_many", [False, True])
async def test_of_what_the_sdk_could_load_only_what_is_used_is_loaded(*, for_many: bool) -> None:
    script = (
        "import sys\n"
        "from letta_conversations_mcp.backends.letta_api.client import Client\n"
        "from letta_conversations_mcp.settings import Settings\n"
        f"Client(Settings(base_url='http://127.0.0.1:9'), for_many={for_many})\n"
        "print(*sorted({'rich', 'pygments', 'aiohttp', 'letta_client'} & set(sys.modules)))\n"
        "import httpx._main\n"
        "print(httpx._main.main.name)"
    )

    done = await anyio.run_process([sys.executable, "-c", script])

    assert done.stdout.decode().splitlines() == ["aiohttp letta_client" if for_many else "letta_client", "main"]


NOT_AT_THE_START = {
    "server.caller_view": "only over HTTP",
    "http": "only over HTTP",
    "observability.metrics": "only over HTTP",
    "notifications.redis_bus": "only for one of several",
    "backends.app_server": "only for agents on this machine",
    "observability.traces": "only where traces are wanted",
    "cli.apply": "another command",
    "cli.doctor": "another command",
    "cli.export": "another command",
    "cli.token": "another command",
    "cli.demo": "another command",
    "tools.catalogue": "with the first request for a tool",
    "tools.messages": "with the first request for a tool",
    "tools.results": "with the first request for a tool",
    "server.tasks.handlers": "with the first call that may become a task",
    "server.prompts": "with the first request for a prompt",
}
"""Modules of ours, and when they are loaded."""


async def test_what_the_first_answer_does_not_need_is_not_loaded_for_it() -> None:
    script = (
        "import json, sys\n"
        "from letta_conversations_mcp.__main__ import main\n"
        "main()\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}

    done = await anyio.run_process(
        [sys.executable, "-c", script],
        input=json.dumps(request).encode() + b"\n",
        env=environment(Settings(base_url="http://127.0.0.1:9")),
    )

    loaded = set(json.loads(done.stderr))
    assert json.loads(done.stdout)["result"]["serverInfo"]["name"] == "letta-conversations"
    assert "letta_conversations_mcp.server.app" in loaded
    assert not {f"letta_conversations_mcp.{name}" for name in NOT_AT_THE_START} & loaded
    assert all(find_spec(f"letta_conversations_mcp.{name}") for name in NOT_AT_THE_START)
    assert not {"letta_client", "redis", "prometheus_client", "opentelemetry.sdk", "websockets"} & loaded
    assert not {"prompt_toolkit", "rich"} & loaded


async def test_a_cancelled_call_leaves_the_turn_running() -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    agent_id = fake.add_agent("slow")
    held = Hold(Say("Not lost."))
    model.enqueue(held)
    async with fake.serve() as url, started(Settings(base_url=url)) as wire:
        conversation_id = fake.add_conversation(agent_id)
        await initialized(wire)
        call = {"name": "send_message", "arguments": {"conversation_id": conversation_id, "message": "think"}}
        await wire.send("tools/call", call, 2)
        await model.asked()
        await wire.send("notifications/cancelled", {"requestId": 2, "reason": "impatience"})
        held.gate.set()
        await wire.send("tools/call", {"name": "wait_for_reply", "arguments": {"conversation_id": conversation_id}}, 3)
        answer = await wire.answer(3)

    assert answer["result"]["structuredContent"]["reply"] == "Not lost."
    assert [call.text for call in model.calls] == ["think"]
