"""A conversation of 100,000 messages: exported by the command, and paged through with list_messages.

Half of the messages should take half of the time and as much memory. Only our process is measured: the fake
server looks through all messages for every page.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.http_caller import HttpCaller
from benchmarks.processes import HttpServer, export_command, letta_server, our_http_server
from benchmarks.scale.server import Cost
from benchmarks.table import Group, Row

FEW, MANY = 50_000, 100_000
PAGE = 100

LOOK_SECONDS = 0.02
"""How often the memory of the export is looked at."""


def measure() -> Group:
    exported: list[tuple[float, float]] = []
    paged: list[Sequence[Cost]] = []
    for count in (FEW, MANY):
        with letta_server(messages=count) as letta, our_http_server(letta.base_url) as server:
            exported.append(_export(letta.base_url, letta.long, count))
            paged.append(asyncio.run(_pages(server, letta.long, count)))
    (few_held, few_seconds), (many_held, many_seconds) = exported
    pages = [(after.held, after.seconds - before.seconds) for before, after in paged]
    return Group(
        f"A conversation of {MANY:,} messages",
        f"one of {FEW:,}: half",
        [
            Row("export: most memory", many_held, few_held, many_held / few_held, "MB", 1.1),
            Row("export: processor time", many_seconds, few_seconds, many_seconds / few_seconds, "ms", 2.2),
            Row("paged: memory at the end", pages[1][0], pages[0][0], pages[1][0] / pages[0][0], "MB", 1.1),
            Row("paged: processor time", pages[1][1], pages[0][1], pages[1][1] / pages[0][1], "ms", 2.2),
        ],
    )


def _export(base_url: str, conversation_id: str, count: int) -> tuple[float, float]:
    """The most memory in bytes, and the processor time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "export.jsonl"
        command, environment = export_command(base_url, conversation_id, file)
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        held = 0
        # Not by `ru_maxrss`, which counts what the process was forked from: this one, which is as large.
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            held = max(held, psutil.Process(process.pid).memory_info().rss)
            time.sleep(LOOK_SECONDS)
        _, status, used = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        lines = sum(1 for _ in file.open("rb"))
        if process.returncode or lines < count:
            raise RuntimeError(f"the export ended with {process.returncode} after {lines} lines")
    return held, used.ru_utime + used.ru_stime


async def _pages(server: HttpServer, conversation_id: str, count: int) -> tuple[Cost, Cost]:
    """The costs after the first page and after the last one, newest to oldest."""
    caller = HttpCaller(server.url)
    before, seen, costs = "", 0, list[Cost]()
    while seen < count:
        arguments = {"conversation_id": conversation_id, "limit": PAGE, "before": before}
        page = (await caller.call("list_messages", arguments))["structuredContent"]
        seen += len(page["messages"])
        before = page.get("older", "")
        if not costs:
            costs.append(await Cost.of(server))
        if not before:
            break
    costs.append(await Cost.of(server))
    await caller.close()
    if seen < count:
        raise RuntimeError(f"{seen} of {count} messages were in the pages")
    return costs[0], costs[1]
