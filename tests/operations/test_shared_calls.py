"""What replicas share of the calls that were not answered: who gets what a replica left behind, and what a slow machine
or a silent Redis does to that."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from pydantic import SecretStr

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.core.model import ConversationRef
from letta_conversations_mcp.core.task_groups import background_tasks
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.turns import replicas as table
from letta_conversations_mcp.turns.draining import Drain
from letta_conversations_mcp.turns.idempotency import CallIdentity, fingerprint
from letta_conversations_mcp.turns.replicas import Replicas
from letta_conversations_mcp.turns.scheduler import Scheduler, open_scheduler
from tests.rig.bounds import HANG_SECONDS
from tests.rig.place import QUICK, Place, message, sending, silent
from tests.rig.programs import installed
from tests.rig.real_letta import redis_running
from tests.rig.servers import in_own_task
from tests.rig.waiting import at_rest

pytestmark = pytest.mark.asyncio(loop_scope="module")
"""In a loop of its own: `at_rest` would wait for what other tests have started."""

CALL = CallIdentity(target="agent-1", call="a call", origin="here")
PLACE = ConversationRef(conversation_id="conv-1", agent_id="agent-1")


@pytest.fixture(scope="module")
async def redis_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[str]:
    program = installed("redis-server")
    async with in_own_task(redis_running(program, tmp_path_factory.mktemp("redis"))) as port:
        yield f"redis://127.0.0.1:{port}/0"


def sharing(url: str, letta: str) -> Settings:
    return Settings(redis_url=SecretStr(url), base_url=f"http://{letta}.test")


@asynccontextmanager
async def replica(url: str, letta: str) -> AsyncGenerator[Replicas]:
    """One of the replicas in front of a Letta server; gone afterwards."""
    own = Replicas(sharing(url, letta))
    async with background_tasks() as tasks:
        tasks.start_soon(own.run)
        await at_rest()
        yield own


async def left_behind(url: str, letta: str) -> str:
    """A replica hands a message over and is gone before it has answered; gives the otid."""
    async with replica(url, letta) as doomed:
        call, _ = await doomed.begin(CALL)
        call.at, call.ref, call.otid = time.time(), PLACE, f"otid of {letta}"
        await doomed.store(CALL, call)
    return call.otid


async def test_only_one_call_gets_what_a_replica_left_behind(redis_url: str) -> None:
    otid = await left_behind(redis_url, "once")
    async with replica(redis_url, "once") as first, replica(redis_url, "once") as second:
        _, left = await first.begin(CALL)
        _, none = await second.begin(CALL)

    assert left
    assert left.otid == otid
    assert none is None


class Mute(Place):
    """Letta does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = anyio.Event()

    async def run_of_otid(self, ref: ConversationRef, otid: str) -> str:
        self.asked.set()
        await anyio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("end", ["its client cancels", "its time is over", "the replica stops"])
async def test_what_was_left_behind_is_there_again_if_the_call_that_got_it_ends_before_it_was_found(
    redis_url: str, end: str
) -> None:
    letta, mute, drain = fingerprint(end), Mute(), Drain()
    otid = await left_behind(redis_url, letta)
    words: list[str] = []

    async def call_again(scheduler: Scheduler, seconds: float) -> None:
        try:
            await scheduler.send_and_wait(sending(PLACE, message("hello"), identity=vars(CALL)), seconds, silent)
        except ConversationError as error:
            words.append(str(error))

    backend, own = cast("Backend", mute), Replicas(sharing(redis_url, letta))
    async with (
        replica(redis_url, letta) as other,
        open_scheduler(backend, Settings(), QUICK, drain=drain, replicas=own) as scheduler,
    ):
        await at_rest()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_again, scheduler, 0 if end == "its time is over" else HANG_SECONDS)
            await mute.asked.wait()
            if end == "its client cancels":
                tasks.cancel_scope.cancel()
            elif end == "the replica stops":
                drain.begin(1)
        _, left = await other.begin(CALL)

    assert left
    assert left.otid == otid
    assert len(words) == (end != "its client cancels")
    assert all("the same call can be made again" in each or "then send again" in each for each in words)


async def test_a_process_that_stood_still_reads_the_answer_of_redis_all_the_same(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "OPERATION_SECONDS", 1.0)
    otid = await left_behind(redis_url, "busy")
    found: list[str] = []

    async def call_again(own: Replicas) -> None:
        _, left = await own.begin(CALL)
        found.append(left.otid if left else "")

    async with replica(redis_url, "busy") as own, anyio.create_task_group() as tasks:
        tasks.start_soon(call_again, own)
        await anyio.lowlevel.checkpoint()
        stand_still(1.5 * table.OPERATION_SECONDS)

    assert found == [otid]


def stand_still(seconds: float) -> None:
    """The machine has no time for this process."""
    time.sleep(seconds)


async def test_a_redis_that_says_nothing_holds_one_call_up_and_then_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "OPERATION_SECONDS", 0.1)

    async def say_nothing(stream: SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    url = f"redis://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/0"  # noqa: S610
    with anyio.fail_after(HANG_SECONDS):
        async with listener, background_tasks() as tasks:
            tasks.start_soon(listener.serve, say_nothing)
            async with replica(url, "silent") as own:
                _, left = await own.begin(CALL)

    assert left is None
