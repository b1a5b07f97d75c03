"""Several processes at one port: they answer for each other, one that dies is replaced, and all end together."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager

import anyio
import psutil
import pytest
from mcp import MCPError
from pydantic import SecretStr, ValidationError

from letta_conversations_mcp.settings import Settings
from tests.operations.service import Service, service
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import in_own_task
from tests.rig.waiting import until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has none of the signals")

BEGUN = "Application startup complete"


@pytest.fixture(scope="module")
async def two(letta_server: Letta) -> AsyncGenerator[Service]:
    """A server with two workers."""
    async with in_own_task(service(of_two(letta_server))) as running:
        yield running


def of_two(letta: Letta, **more: object) -> Settings:
    fields = {"letta_base_url": letta.base_url, "workers": 2, "stateless": True, "log_level": "INFO", **more}
    return Settings.model_validate(fields)


async def workers(running: Service, *, without: psutil.Process | None = None) -> list[psutil.Process]:
    """The two workers, once both serve and neither is the one that is gone."""

    def look() -> list[psutil.Process] | None:
        found = psutil.Process(running.process.pid).children()
        both = len(found) == 2 and without not in found and running.log.count(BEGUN) == 2 + bool(without)
        return found if both else None

    return await until(look)


@contextmanager
def stopped(worker: psutil.Process) -> Generator[None]:
    """In the body only the other worker can answer."""
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()


async def test_each_worker_takes_calls_and_finds_what_the_other_has_begun(two: Service, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    held = Hold(Say("From afar."))
    letta.model.enqueue(held)
    one, other = await workers(two)
    with stopped(one):
        async with two.client("modern") as caller:
            sent = await caller.ok("send_message", agent=agent_id, message="think", wait_seconds=0.1)
    held.gate.set()
    with stopped(other):
        async with two.client("modern") as caller:
            found = await caller.ok("wait_for_reply", conversation_id=sent.data["conversation_id"])

    assert sent.data["status"] == "running"
    assert found.data["reply"] == "From afar."


async def test_a_worker_that_is_killed_is_replaced_and_its_message_is_neither_lost_nor_doubled(
    two: Service, letta: Letta
) -> None:
    agent_id, _ = await letta.new_agent()
    held = Hold(Say("Once."))
    letta.model.enqueue(held)
    call = {"conversation_id": await letta.new_conversation(agent_id), "message": "think", "message_key": "k1"}
    survivor, killed = await workers(two)

    async def send_and_break() -> None:
        async with two.client("modern") as caller:
            with pytest.raises(MCPError):
                await caller.ok("send_message", **call)

    with stopped(survivor):
        broken = asyncio.create_task(send_and_break())
        await letta.model.asked()
        killed.kill()
        await broken
    async with two.client("modern") as caller:
        again = asyncio.create_task(caller.ok("send_message", **call))
        replacement = next(each for each in await workers(two, without=killed) if each != survivor)
        held.gate.set()
        reply = (await again).data["reply"]
    with stopped(survivor):
        async with two.client("modern") as caller:
            listed = await caller.ok("list_messages", conversation_id=call["conversation_id"])

    assert reply == "Once."
    assert replacement.is_running()
    assert [each["text"] for each in listed.data["messages"]] == ["think", "Once."]
    assert "another takes its place" in two.log


async def test_calls_are_answered_before_all_workers_end_with_status_0(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    held = Hold(Say("It was not lost."))
    model.enqueue(held)
    async with service(of_two(letta, drain_seconds=600)) as running, running.client("modern") as caller:
        both = await workers(running)
        call = asyncio.create_task(caller.ok("send_message", agent=agent_id, message="think"))
        await model.asked()
        running.process.send_signal(signal.SIGTERM)
        status = await running.ended()
        told = (await call).data
    held.gate.set()

    assert status == 0
    assert told["status"] == "running"
    assert not any(each.is_running() for each in both)
    assert "another takes its place" not in running.log
    assert "Traceback" not in running.log


async def test_workers_end_when_their_supervisor_was_killed(letta: Letta) -> None:
    async with service(of_two(letta)) as running:
        both = await workers(running)
        running.process.kill()
        gone, alive = await asyncio.to_thread(psutil.wait_procs, both, timeout=HANG_SECONDS)

    assert len(gone) == 2
    assert alive == []


async def test_what_the_first_worker_cannot_use_is_said_once_and_ends_the_server(letta: Letta) -> None:
    environ = {"LETTA_BASE_URL": letta.base_url, "LETTA_MCP_STATELESS": "1"}
    command = ["serve", "--http", "--workers", "2", "--port", "0", "--host", "0.0.0.0"]
    ended = await anyio.run_process(
        [sys.executable, "-m", "letta_conversations_mcp", *command], env=environ, check=False
    )

    assert ended.returncode == 2
    assert ended.stderr.decode().count("a token is needed") == 1
    assert "Serving" not in ended.stderr.decode()


def test_workers_need_what_replicas_need() -> None:
    with pytest.raises(ValidationError, match=r"--workers needs --redis-url.*or at least --stateless"):
        Settings(workers=2)
    with pytest.raises(ValidationError, match="--metrics-token and --workers exclude each other"):
        Settings(workers=2, stateless=True, metrics_token=SecretStr("of-prometheus"))

    assert Settings(workers=2, redis_url=SecretStr("redis://127.0.0.1:6379/0")).workers == 2
    assert Settings(metrics_token=SecretStr("of-prometheus")).workers == 1


async def test_there_are_no_metrics_of_one_worker_alone(two: Service) -> None:
    answered = await two.get("/metrics")

    assert answered.status_code == 404
    assert "--workers" in answered.text


def test_the_supervisor_loads_nothing_of_a_server() -> None:
    program = (
        "import sys\n"
        "from letta_conversations_mcp.cli import main, workers\n"
        "workers.supervise = lambda *_: print({'mcp', 'uvicorn', 'letta_client'} & set(sys.modules)) or 0\n"
        "sys.exit(main.main(['serve', '--http', '--workers', '2', '--stateless', '--port', '0']))"
    )
    environ = {"LETTA_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
