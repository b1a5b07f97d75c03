"""`python -m benchmarks.scale`: what one process holds, and how it grows. Takes some minutes; a part by its name."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

from benchmarks.scale import calls, conversations, history, subscriptions, turns
from benchmarks.table import Group, heading

PARTS: dict[str, Callable[[], Group]] = {
    "turns": turns.measure,
    "calls": calls.measure,
    "history": history.measure,
    "conversations": conversations.measure,
    "subscriptions": subscriptions.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="What one process holds.")
    parser.add_argument("part", choices=PARTS, nargs="*", help="only these")
    options = parser.parse_args()
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    print(heading(), flush=True)
    for name in options.part or PARTS:
        started = time.perf_counter()
        print("\n".join(PARTS[name]().lines()))
        print(f"    Took {time.perf_counter() - started:.0f} s.\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
