"""From the start of the process to its first answers, over stdio: what a person waits for when a client opens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from time import perf_counter

from benchmarks.pairs import interleave
from benchmarks.processes import StdioServer, bare_server, letta_server, our_server
from benchmarks.table import Group, Row

ANSWER_GOAL = 1.0
TOOLS_GOAL = 1.1

Server = Callable[[], AbstractContextManager[StdioServer]]


class _Starts:
    """Starts of one server; the times to the tool list are kept by the way."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.to_tools: list[float] = []

    def to_answer(self) -> float:
        """Start the server, and give the seconds until it has answered `initialize`."""
        started = perf_counter()
        with self._server() as server:
            server.initialize()
            answered = perf_counter()
            server.list_tools()
            self.to_tools.append(perf_counter() - started)
        return answered - started


def measure(*, quick: bool) -> Group:
    """Our command beside a bare server, each in a new process every time.

    The bare server shows what Python and the MCP SDK take by themselves; the rest is ours.
    """
    rounds = 5 if quick else 10
    warm_up = 1
    with letta_server() as letta:
        ours, bare = _Starts(partial(our_server, letta.base_url)), _Starts(bare_server)
        answers = interleave({"ours": ours.to_answer, "bare": bare.to_answer}, rounds, warm_up)
    rows = [
        Row.of_pairs("to the answer to initialize", answers["ours"], answers["bare"], "ms", ANSWER_GOAL),
        Row.of_pairs("to the list of tools", ours.to_tools[warm_up:], bare.to_tools[warm_up:], "ms", TOOLS_GOAL),
    ]
    return Group(
        f"Start of a process, over stdio ({rounds} pairs)",
        "a bare MCPServer; it has one tool, ours has many",
        rows,
    )
