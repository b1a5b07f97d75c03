"""A server over HTTP and what it costs: its memory, its processor time, its requests to Letta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.http_caller import HttpCaller
from benchmarks.processes import HttpServer


@dataclass(frozen=True)
class Cost:
    """`held` and `seconds` (of processor time) and `requests` so far."""

    held: int
    seconds: float
    requests: float
    tasks: float
    sockets: int

    @classmethod
    async def of(cls, server: HttpServer) -> Self:
        process = server.process
        times = process.cpu_times()
        return cls(
            held_by(process),
            times.user + times.system,
            await metric(server, "letta_mcp_letta_requests_total"),
            await metric(server, "letta_mcp_tasks"),
            len(process.net_connections("tcp")),
        )


def held_by(process: psutil.Process) -> int:
    return process.memory_info().rss


async def metric(server: HttpServer, name: str) -> float:
    """The sum of a metric over its labels."""
    caller = HttpCaller(server.url)
    families = text_string_to_metric_families(await caller.get("/metrics"))
    await caller.close()
    return sum(each.value for family in families for each in family.samples if each.name == name)
