"""Two servers with a Redis between them: whoever listens to the one hears of what was done through the other."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp.server.subscriptions import ResourceUpdated, ServerEvent
from pydantic import SecretStr

from letta_conversations_mcp.core.task_groups import background_tasks
from letta_conversations_mcp.notifications.events import LIST_CHANGED, conversation_changed
from letta_conversations_mcp.notifications.redis_bus import OUTBOX, RedisSubscriptionBus
from letta_conversations_mcp.settings import Settings
from tests.operations.service import Service, service
from tests.operations.test_metrics import Scrape
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.loopback import http_client
from tests.rig.model import Hold, Say
from tests.rig.programs import installed
from tests.rig.real_letta import free_port, redis_running
from tests.rig.servers import in_own_task
from tests.rig.waiting import Record, until

CONVERSATION = "conv-123e4567-e89b-42d3-a456-426614174000"
OTHER = "conv-123e4567-e89b-42d3-a456-426614174001"

HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "subscriptions/listen",
}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "a test", "version": "1"},
}


@pytest.fixture(scope="module")
async def redis_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[str]:
    program = installed("redis-server")
    async with in_own_task(redis_running(program, tmp_path_factory.mktemp("redis"))) as port:
        yield f"redis://127.0.0.1:{port}/0"


def sharing(url: str, **more: object) -> Settings:
    return Settings.model_validate({"redis_url": SecretStr(url), "letta_base_url": "http://letta.test", **more})


@asynccontextmanager
async def open_bus(settings: Settings) -> AsyncGenerator[RedisSubscriptionBus]:
    bus = RedisSubscriptionBus(settings)
    async with background_tasks() as tasks:
        tasks.start_soon(bus.run)
        yield bus


class Heard:
    """Events, as they come."""

    def __init__(self) -> None:
        self.events = Record[ServerEvent]()

    def __call__(self, event: ServerEvent) -> None:
        self.events.append(event)

    async def until(self, wanted: ServerEvent) -> None:
        await self.events.until(lambda event: event == wanted)


async def connected(sender: RedisSubscriptionBus, receiver: Heard, conversation_id: str = OTHER) -> None:
    """Publish until the receiver hears it: that a subscription at Redis has begun shows nowhere else."""

    event = conversation_changed(conversation_id)
    before = receiver.events.count(event)

    async def is_heard() -> bool:
        await sender.publish(event)
        return receiver.events.count(event) > before

    await until(is_heard)


async def test_an_event_is_heard_everywhere_and_once(redis_url: str) -> None:
    settings = sharing(redis_url)
    here, there = Heard(), Heard()
    async with open_bus(settings) as mine, open_bus(settings) as others:
        mine.subscribe(here)
        others.subscribe(there)
        await connected(mine, there)
        here.events.clear()
        await mine.publish(conversation_changed(CONVERSATION))
        await mine.publish(LIST_CHANGED)
        await there.until(LIST_CHANGED)
        await others.publish(conversation_changed(OTHER))
        await here.until(conversation_changed(OTHER))

    assert here.events == [conversation_changed(CONVERSATION), LIST_CHANGED, conversation_changed(OTHER)]


async def test_the_uris_of_a_client_stay_in_its_own_process(redis_url: str) -> None:
    settings = sharing(redis_url)
    here, there = Heard(), Heard()
    watched = ResourceUpdated(f"letta://conversations/{CONVERSATION}/transcript")
    async with open_bus(settings) as mine, open_bus(settings) as others:
        mine.subscribe(here)
        others.subscribe(there)
        await connected(mine, there)
        await mine.publish(watched)
        await mine.publish(LIST_CHANGED)
        await there.until(LIST_CHANGED)

    assert watched in here.events
    assert watched not in there.events


async def test_servers_of_another_letta_do_not_hear_it(redis_url: str) -> None:
    here, there = Heard(), Heard()
    elsewhere = sharing(redis_url, letta_base_url="http://elsewhere.test")
    async with (
        open_bus(sharing(redis_url)) as mine,
        open_bus(sharing(redis_url)) as same,
        open_bus(elsewhere) as foreign,
        open_bus(elsewhere) as beside_the_foreign,
    ):
        same.subscribe(here)
        foreign.subscribe(there)
        await connected(mine, here)
        await connected(beside_the_foreign, there)
        await mine.publish(conversation_changed(CONVERSATION))
        await here.until(conversation_changed(CONVERSATION))
        # Redis passes events on in order: those published before this one have arrived when it has.
        await beside_the_foreign.publish(LIST_CHANGED)
        await there.until(LIST_CHANGED)

    assert conversation_changed(CONVERSATION) not in there.events


@pytest.mark.parametrize("junk", [b"", b"{}", b'{"sender":"x","conversation_id":"../../etc"}', b"\xff"])
async def test_what_is_no_news_of_a_conversation_is_left_out(redis_url: str, junk: bytes) -> None:
    from redis.asyncio import Redis

    here = Heard()
    async with open_bus(sharing(redis_url)) as mine, open_bus(sharing(redis_url)) as others:
        others.subscribe(here)
        await connected(mine, here)
        async with Redis.from_url(redis_url) as redis:  # pyright: ignore[reportUnknownMemberType]
            for channel in await redis.pubsub_channels():  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
                await redis.publish(channel, junk)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        await mine.publish(conversation_changed(CONVERSATION))
        await here.until(conversation_changed(CONVERSATION))

    assert set(here.events) == {conversation_changed(CONVERSATION), conversation_changed(OTHER)}


async def test_a_redis_that_is_away_holds_up_nothing_that_is_done_here() -> None:
    here = Heard()
    async with open_bus(sharing(f"redis://127.0.0.1:{free_port()}/0")) as mine:
        mine.subscribe(here)
        for _ in range(2 * OUTBOX):
            await mine.publish(conversation_changed(CONVERSATION))

    assert len(here.events) == 2 * OUTBOX


async def test_the_connection_is_made_again_after_it_was_cut(tmp_path: Path) -> None:
    program = installed("redis-server")
    there = Heard()
    async with relayed(tmp_path, program) as relay:
        settings = sharing(f"redis://127.0.0.1:{relay.port}/0")
        async with open_bus(settings) as mine, open_bus(settings) as others:
            others.subscribe(there)
            for conversation_id in (CONVERSATION, OTHER):
                await connected(mine, there, conversation_id)
                relay.cut()


async def test_after_redis_was_away_lists_may_have_changed(tmp_path: Path) -> None:
    program = installed("redis-server")
    here, there = Heard(), Heard()
    async with relayed(tmp_path, program) as relay:
        direct, cut = (sharing(f"redis://127.0.0.1:{port}/0") for port in (relay.target, relay.port))
        async with open_bus(direct) as mine, open_bus(cut) as others:
            mine.subscribe(here)
            others.subscribe(there)
            await connected(mine, there)
            await connected(others, here)
            assert LIST_CHANGED not in there.events
            assert others.is_connected

            relay.is_passable = False
            relay.cut()
            await until(lambda: not others.is_connected)
            await mine.publish(LIST_CHANGED)
            # Redis has taken it, as all that was heard here and did not come from there.
            await until(lambda: mine.counts["sent"] + mine.counts["received"] == len(here.events))
            assert LIST_CHANGED not in there.events
            relay.is_passable = True
            await there.until(LIST_CHANGED)
            await connected(mine, there, CONVERSATION)

    assert there.events.count(LIST_CHANGED) == 1


async def test_an_event_that_redis_did_not_take_is_sent_when_it_is_back(tmp_path: Path) -> None:
    program = installed("redis-server")
    here, there = Heard(), Heard()
    async with relayed(tmp_path, program) as relay:
        direct, cut = (sharing(f"redis://127.0.0.1:{port}/0") for port in (relay.target, relay.port))
        async with open_bus(direct) as others, open_bus(cut) as mine:
            mine.subscribe(here)
            others.subscribe(there)
            await connected(mine, there)
            await connected(others, here)
            relay.is_passable = False
            relay.cut()
            for event in (conversation_changed(CONVERSATION), LIST_CHANGED):
                await mine.publish(event)
            await until(lambda: not mine.is_connected)
            relay.is_passable = True
            await there.until(LIST_CHANGED)

    assert there.events[-2:] == [conversation_changed(CONVERSATION), LIST_CHANGED]
    assert mine.counts["dropped"] == 0


class Relay:
    """A way to Redis that can be cut."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.target = target
        self.is_passable = True
        self._open: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_passable:
            writer.transport.abort()
            return
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", self.target)
        self._open |= {writer, onward}
        with suppress(ConnectionError):
            await asyncio.gather(self._pump(reader, onward), self._pump(onward_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def relayed(folder: Path, program: Path) -> AsyncGenerator[Relay]:
    async with redis_running(program, folder) as port:
        relay = Relay(port)
        server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
        relay.port = server.sockets[0].getsockname()[1]
        try:
            yield relay
        finally:
            relay.cut()
            server.close()


@asynccontextmanager
async def listening(server: Service, uri: str) -> AsyncGenerator[Record[str]]:
    """What a stream of the newer protocol tells, from the moment when it is acknowledged."""
    told = Record[str]()
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "subscriptions/listen",
        "params": {"notifications": {"resourceSubscriptions": [uri]}, "_meta": META},
    }

    async def read(stream: httpx.Response) -> None:
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                told.append(line)

    async with (
        http_client(timeout=30) as http,
        http.stream("POST", f"{server.url}/mcp", json=body, headers=HEADERS) as stream,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(read, stream)
        await told.until()
        yield told
        tasks.cancel_scope.cancel()


async def test_a_subscription_made_on_one_server_hears_of_a_message_sent_through_another(
    redis_url: str, letta: Letta
) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    uri = f"letta://conversations/{conversation_id}"
    # No looking by itself in the time that this test takes.
    settings = sharing(redis_url, letta_base_url=letta.base_url, watch_interval=300)
    async with (
        service(settings) as one,
        service(settings) as other,
        other.client("legacy") as caller,
        listening(one, uri) as told,
    ):
        await caller.ok("send_message", conversation_id=conversation_id, message="hello")
        await told.until(lambda line: "notifications/resources/updated" in line and uri in line)


async def test_redis_gets_no_text_and_keeps_nothing_for_over_ten_minutes(redis_url: str, letta: Letta) -> None:
    from redis.asyncio import Redis

    agent_id, name = await letta.new_agent()
    held = Hold(Say("Quagmire forty-two"))
    letta.model.enqueue(held)
    # A database of its own, in which nothing of other tests expires.
    own_url = redis_url.removesuffix("0") + "1"
    here = {"conversation_id": await letta.new_conversation(agent_id, "Marmalade six")}
    seen: list[str] = []
    kept: list[int] = []

    async def record(monitor: Any) -> None:
        while True:
            seen.append((await monitor.next_command())["command"])

    async with (
        Redis.from_url(own_url) as redis,  # pyright: ignore[reportUnknownMemberType]
        redis.monitor() as monitor,
        service(sharing(own_url, letta_base_url=letta.base_url)) as server,
        server.client("modern") as caller,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(record, monitor)
        tasks.start_soon(partial(caller.call, "send_message", **here, message="Xylophone seventy-three"))
        await letta.model.asked()
        kept += [await redis.ttl(each) for each in await redis.keys()]  # pyright: ignore[reportUnknownMemberType]
        await caller.ok("create_conversation", agent=name, summary="Marmalade seven")
        await caller.ok("update", **here, summary="Zeppelin nine")
        await caller.ok("cancel", **here)
        held.gate.set()
        tasks.cancel_scope.cancel()

    told = "\n".join(seen)
    assert kept
    assert all(0 < seconds <= 600 for seconds in kept)
    assert here["conversation_id"] in told
    assert "PUBLISH" in told
    for text in (name, "Marmalade", "Xylophone", "Quagmire", "Zeppelin"):
        assert text not in told


async def test_the_bus_shows_in_the_metrics(redis_url: str, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    settings = sharing(redis_url, letta_base_url=letta.base_url)
    async with service(settings) as one, service(settings) as other, one.client("modern") as caller:

        async def bus(server: Service) -> list[float]:
            seen = Scrape((await server.get("/metrics")).text)
            events = [seen.value("letta_mcp_bus_events_total", outcome=each) for each in ("sent", "received")]
            return [seen.value("letta_mcp_bus_connected"), *events]

        for each in (one, other):
            await each.shows("letta_mcp_bus_connected 1.0")
        await caller.ok("create_conversation", agent=agent_id)
        await other.shows('letta_mcp_bus_events_total{outcome="received"} 2.0')
        sent, received = await bus(one), await bus(other)

    assert sent == [1, 2, 0]
    assert received == [1, 0, 2]


async def test_without_the_extra_the_start_says_what_to_install() -> None:
    script = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'redis' else find(name, *more)\n"
        "from letta_conversations_mcp.cli.main import main\n"
        "sys.exit(main(['serve', '--http', '--port', '0', '--redis-url', 'redis://x', '--letta-base-url', 'http://x']))"
    )

    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process([sys.executable, "-c", script], check=False)

    assert done.returncode == 2
    assert b"-m pip install 'redis" in done.stderr
