"""Many callers that all wait for a turn of an agent, for a minute, on one process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks.http_caller import HttpCaller
from benchmarks.processes import HttpServer, letta_server, our_http_server
from benchmarks.replies import MESSAGE
from benchmarks.scale.server import Cost, metric
from benchmarks.table import Group, Row

COUNTS = (500, 2_000)
SECONDS = 60

SETTLE_SECONDS = 20
"""Until a call that waits is at rest: after a second it begins to report, after fifteen its answer becomes a stream."""

A_SECOND = 25
"""Turns that get under way in a second, at least."""


def measure() -> Group:
    rows: list[Row] = []
    for count in COUNTS:
        with letta_server(conversations=count + 3) as letta, our_http_server(letta.base_url, room=count) as server:
            rows += asyncio.run(_held(server, letta.agent_id, count))
    return Group("Turns in flight on one process", "before", rows)


async def _held(server: HttpServer, agent_id: str, count: int) -> list[Row]:
    callers = [HttpCaller(server.url) for _ in range(count)]
    await callers[0].call("send_message", {"agent": agent_id, "message": MESSAGE})
    empty = await Cost.of(server)
    message = f"after {SECONDS + SETTLE_SECONDS + count / A_SECOND} s: {MESSAGE}"
    calls = [
        asyncio.create_task(
            each.call("send_message", {"agent": agent_id, "message": f"{message} ({number})", "wait_seconds": 600})
        )
        for number, each in enumerate(callers)
    ]
    while await metric(server, "letta_mcp_turns_in_flight") < count:
        _raise_early(calls)
        await asyncio.sleep(1)
    begun = await Cost.of(server)
    await asyncio.sleep(SETTLE_SECONDS)
    settled = await Cost.of(server)
    await asyncio.sleep(SECONDS)
    still = await metric(server, "letta_mcp_turns_in_flight")
    later = await Cost.of(server)
    answers = await asyncio.gather(*calls)
    replied = sum(each["structuredContent"]["status"] == "completed" for each in answers)
    for each in callers:
        await each.close()
    each_held, each_begun = (settled.held - empty.held) / count, (begun.seconds - empty.seconds) / count
    what = f"{count:,} turns"
    return [
        Row(f"{what}: in flight after a minute", still, count, still / count, "count"),
        Row(f"{what}: answered in full", replied, count, replied / count, "count"),
        Row(f"{what}: memory, before", settled.held, empty.held, settled.held / empty.held, "MB"),
        Row(f"{what}: memory after the minute", later.held, settled.held, later.held / settled.held, "MB"),
        Row(f"{what}: memory for each", each_held, each_held, 1, "kB"),
        Row(f"{what}: processor time to begin one", each_begun, each_begun, 1, "ms"),
        Row(
            f"{what}: processor, of one core, in the minute", (later.seconds - settled.seconds) / SECONDS, 1, 1, "share"
        ),
    ]


def _raise_early(calls: Sequence[asyncio.Task[object]]) -> None:
    for call in calls:
        if call.done():
            raise RuntimeError(f"a call ended at once: {call.result()}")
