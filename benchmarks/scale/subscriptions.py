"""2,000 clients that listen for changes, each of one of 200 conversations: what they cost at rest, and how long the
news of one change takes to all that listen for it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from statistics import median
from time import perf_counter

from benchmarks.http_caller import HttpCaller, Listener
from benchmarks.processes import HttpServer, letta_server, our_http_server
from benchmarks.scale.server import Cost
from benchmarks.table import Group, Row

COUNTS = (200, 2_000)
CONVERSATIONS = 200
REST_SECONDS = 30
CHANGES = 5


def measure() -> Group:
    rows: list[Row] = []
    for count in COUNTS:
        with letta_server() as letta, our_http_server(letta.base_url, room=count + 10) as server:
            rows += asyncio.run(_listening(server, letta.agent_id, count))
    return Group(
        f"Clients that listen for changes, of {CONVERSATIONS} conversations in all", "before, or as the row says", rows
    )


async def _listening(server: HttpServer, agent: str, count: int) -> list[Row]:
    caller = HttpCaller(server.url)
    places = [
        (await caller.call("create_conversation", {"agent": agent}))["structuredContent"]["conversation_id"]
        for _ in range(CONVERSATIONS)
    ]
    empty = await Cost.of(server)
    async with AsyncExitStack() as stack:
        listeners: list[Listener] = []
        for number in range(count):
            uri = f"letta://conversations/{places[number % CONVERSATIONS]}"
            listeners.append(await stack.enter_async_context(Listener(server.url, uri)))
        open_ = await Cost.of(server)
        await asyncio.sleep(REST_SECONDS)
        rested = await Cost.of(server)
        delays: list[float] = []
        for place in places[:CHANGES]:
            concerned = [each for each in listeners if each.uri.endswith(place)]
            started = perf_counter()
            await caller.call("send_message", {"conversation_id": place, "message": "hello"})
            await asyncio.gather(*(each.updated() for each in concerned))
            delays.append(perf_counter() - started)
        heard_otherwise = sum(each.events for each in listeners if not any(map(each.uri.endswith, places[:CHANGES])))
    await caller.close()
    each_held = (open_.held - empty.held) / count
    used = (rested.seconds - open_.seconds) / REST_SECONDS
    asked = (rested.requests - open_.requests) / REST_SECONDS
    what = f"{count:,} clients"
    return [
        Row(f"{what}: memory", open_.held, empty.held, open_.held / empty.held, "MB"),
        Row(f"{what}: memory for each", each_held, each_held, 1, "kB"),
        Row(f"{what}: processor at rest, of one core", used, 1, used, "share"),
        Row(f"{what}: requests to Letta in a second", asked, 1, asked, "count"),
        Row(f"{what}: message sent until all have heard", median(delays), median(delays), 1, "ms"),
        Row(f"{what}: events of conversations without change", heard_otherwise, 1, heard_otherwise, "count"),
    ]
