"""`python -m benchmarks`: what this server costs, beside what nobody can do without.

Every row is a ratio of two sides measured in one run, taking turns. The goals are reported, never enforced: the exit
status is 0 whenever the run came to its end. What one process holds is measured by `python -m benchmarks.scale`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

from benchmarks import aggregate, calls, characters, chart, local, memory, replies, start
from benchmarks.table import Group, heading

GROUPS: dict[str, Callable[..., Group]] = {
    "replies": replies.measure,
    "start": start.measure,
    "calls": calls.measure,
    "aggregate": aggregate.measure,
    "memory": memory.measure,
    "characters": characters.measure,
    "local": local.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios beside the bare SDKs.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under a minute; the ratios are rougher")
    parser.add_argument("--draw", action="store_true", help=f"draw the replies over HTTP into {chart.FILE.name}")
    parser.add_argument("--only", choices=GROUPS, action="append", help="this group; may be given more than once")
    options = parser.parse_args()
    # What is measured is on this machine; the Letta SDK would ask the environment for a proxy.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    started = time.perf_counter()
    packages = ("mcp", "letta-client", "letta", "letta-conversations-mcp")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    python = platform.python_version()
    print(f"Python {python}, {versions}; {os.cpu_count()} CPUs")
    print("Ratios below 1 mean that ours is less; a time is a median, a ratio the median of the pairs' ratios.\n")
    print(heading(), flush=True)
    missed: list[str] = []
    for name in options.only or GROUPS:
        begun = time.perf_counter()
        group = GROUPS[name](quick=options.quick)
        if options.draw and isinstance(group, replies.ReplyGroup):
            chart.FILE.write_text(chart.draw(group.delays, f"{os.cpu_count()} processors, Python {python}."))
        print("\n".join(group.lines()) + f"\n    Took {time.perf_counter() - begun:.0f} s.\n", flush=True)
        missed += [f"{name}: {row.what}" for row in group.rows if row.missed]
    print("\n".join(["Missed:", *(f"  {each}" for each in missed)]) if missed else "Every goal is met.")
    print(f"Took {time.perf_counter() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
