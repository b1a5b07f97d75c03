"""The memory that a server holds (resident set size): at rest, and after it has worked for a while."""

from __future__ import annotations

import psutil

from benchmarks.letta_server import CONVERSATIONS
from benchmarks.processes import StdioServer, bare_server, letta_server, our_server
from benchmarks.table import Group, Row

AT_REST_GOAL = 1.5
GROWTH_GOAL = 1.02
AFTER_GOAL = 1.25

AT_ONCE = 8
SMALL_PAGE = 5


def measure(*, quick: bool) -> Group:
    """Our server beside a bare one after as many calls: pages of five conversations there, the empty tool here.

    The Letta SDK is loaded at the first call. What is held after many calls should be what is held after some;
    `benchmarks.scale` makes 10,000.
    """
    some, many = (200, 1_000) if quick else (1_000, 3_000)
    with letta_server() as letta, our_server(letta.base_url) as ours, bare_server() as bare:
        for server in (ours, bare):
            server.initialize()
            server.list_tools()
        at_rest = [_held(ours), _held(bare)]
        after: dict[int, list[int]] = {}
        done = 0
        for calls in (1, some, many):
            ours.call_many(calls - done, AT_ONCE, "list_conversations", limit=SMALL_PAGE)
            bare.call_many(calls - done, AT_ONCE, "nothing")
            after[calls] = [_held(ours), _held(bare)]
            done = calls
    rows = [
        _row("at rest, tools listed", at_rest, AT_REST_GOAL),
        _row("after the first call, which loads the SDK", after[1]),
        _row(f"after {some:,} calls", after[some]),
        _row(f"after {many:,} calls", after[many], AFTER_GOAL),
        _row(f"ours: {many:,} calls, other: ours at {some:,}", [after[many][0], after[some][0]], GROWTH_GOAL),
    ]
    return Group(
        f"Memory over list_conversations ({SMALL_PAGE} of {CONVERSATIONS}), {AT_ONCE} calls at a time",
        "a bare MCPServer, after as many calls of its empty tool",
        rows,
        [f"The bare server grows to {after[many][1] / after[some][1]:.3f} in the same calls."],
    )


def _held(server: StdioServer) -> int:
    return psutil.Process(server.pid).memory_info().rss


def _row(what: str, sides: list[int], goal: float | None = None) -> Row:
    ours, other = sides
    return Row(what, ours, other, ours / other, "MB", goal)
