"""What is there after many short calls over HTTP, beside what there was after some."""

from __future__ import annotations

import asyncio

from benchmarks.http_caller import HttpCaller
from benchmarks.processes import HttpServer, letta_server, our_http_server
from benchmarks.scale.server import Cost
from benchmarks.table import Group, Row

SOME, MANY = 1_000, 10_000
AT_ONCE = 8
PAGE = 5


def measure() -> Group:
    with letta_server() as letta, our_http_server(letta.base_url) as server:
        before, after = asyncio.run(_left(server))
    return Group(
        f"After {MANY:,} calls of list_conversations over HTTP",
        f"after {SOME:,}",
        [
            Row("memory", after.held, before.held, after.held / before.held, "MB", 1.02),
            Row("tasks", after.tasks, before.tasks, after.tasks / before.tasks, "count", 1.0),
            Row("sockets", after.sockets, before.sockets, after.sockets / before.sockets, "count", 1.0),
        ],
    )


async def _left(server: HttpServer) -> list[Cost]:
    callers = [HttpCaller(server.url) for _ in range(AT_ONCE)]

    async def call(caller: HttpCaller, times: int) -> None:
        for _ in range(times):
            await caller.call("list_conversations", {"limit": PAGE})

    costs: list[Cost] = []
    for times in (SOME, MANY - SOME):
        await asyncio.gather(*(call(each, times // AT_ONCE) for each in callers))
        costs.append(await Cost.of(server))
    for each in callers:
        await each.close()
    return costs
