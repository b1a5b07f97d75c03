"""Agents on this machine: what we cost beside the App Server asked over a bare WebSocket, and beside its memory."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from benchmarks.app_server import MODEL, AppServerClient, bare_app_server, client_of
from benchmarks.pairs import interleave, seconds_of
from benchmarks.processes import StdioServer, bare_server, local_server, model_server
from benchmarks.table import Group, Row
from letta_conversations_mcp.backends.app_server.supervisor import ADDRESS, TOKEN

START_GOAL = 1.1
SEND_GOAL = 1.1
LIST_GOAL = 1.2
MEMORY_GOAL = 1.0

MESSAGE = "Which of the two flights did we choose in the end?"
PAGE = 20


def measure(*, quick: bool) -> Group:
    """From nothing to the first reply, calls on a running server, and the memory that is held then."""
    starts, calls = (1, 20) if quick else (3, 40)
    with model_server() as model_url:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as compiled:
            sides = {
                "bare": partial(_bare_first_reply, model_url),
                "empty": _empty_start,
                "ours": partial(_our_first_reply, model_url, Path(compiled)),
            }
            # Nothing is compiled before the very first start; later ones find what it has kept.
            first = interleave(sides, 1, warm_up=0)
            later = interleave(sides, starts, warm_up=0)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder = Path(name)
            with local_server(folder, model_url) as ours, bare_server() as empty:
                for server in (ours, empty):
                    server.initialize()
                    server.list_tools()
                listed, sent = _calls(ours, empty, folder, calls)
                memory, notes = _memory(ours, folder)
    rows = [
        Row.of_pairs("to the first reply, very first start", first["ours"], _sums(first), "ms"),
        Row.of_pairs("to the first reply, second start and later", later["ours"], _sums(later), "ms", START_GOAL),
        Row.of_pairs("send_message", sent["ours"], _sums(sent), "ms", SEND_GOAL),
        Row.of_pairs(f"list_messages, {PAGE} of them", listed["ours"], _sums(listed), "ms", LIST_GOAL),
        memory,
    ]
    return Group(
        f"Agents on this machine, with a model that takes no time ({starts} starts, {calls} calls)",
        "the App Server asked over a bare WebSocket, and the same of a bare MCPServer: its start, a call of its empty "
        "tool; for memory, the App Server's own",
        rows,
        notes,
    )


def _our_first_reply(model_url: str, compiled: Path) -> float:
    """With agents of its own, but with the compiled code of earlier starts, as in a folder that is used again."""
    started = perf_counter()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        local_server(Path(name), model_url, compiled) as ours,
    ):
        ours.initialize()
        ours.list_tools()
        agent = _made(ours)
        ours.call("send_message", agent=agent, message=MESSAGE)
        return perf_counter() - started


def _bare_first_reply(model_url: str) -> float:
    started = perf_counter()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        bare_app_server(Path(name), model_url) as bare,
    ):
        bare.send_message(bare.open_conversation(bare.create_agent()), MESSAGE)
        return perf_counter() - started


def _empty_start() -> float:
    started = perf_counter()
    with bare_server() as empty:
        empty.initialize()
        empty.list_tools()
        return perf_counter() - started


def _made(ours: StdioServer) -> str:
    return ours.call("create_agent", name="ours", model=MODEL)["structuredContent"]["agent_id"]


def _calls(ours: StdioServer, empty: StdioServer, folder: Path, rounds: int) -> tuple[dict[str, list[float]], ...]:
    """Pages of a conversation, and messages to two that grow alike, on the one server that ours has started."""
    agent = _made(ours)
    url: str = json.loads((folder / ADDRESS).read_text())["url"]
    with client_of(url, (folder / TOKEN).read_text()) as bare:
        here: dict[str, Any] = {
            "conversation_id": ours.call("create_conversation", agent=agent)["structuredContent"]["conversation_id"]
        }
        there = bare.open_conversation(agent)
        sends = {
            "ours": _timed(partial(ours.call, "send_message", **here, message=MESSAGE)),
            "bare": _timed(partial(bare.send_message, there, MESSAGE)),
            "empty": _timed(partial(empty.call, "nothing")),
        }
        sent = interleave(sends, rounds, warm_up=PAGE // 2)
        lists = {
            "ours": _timed(partial(ours.call, "list_messages", **here, limit=PAGE)),
            "bare": _timed(partial(_full_page, bare, there)),
            "empty": _timed(partial(empty.call, "nothing")),
        }
        return interleave(lists, rounds, warm_up=5), sent


def _full_page(bare: AppServerClient, runtime: dict[str, Any]) -> None:
    if len(bare.list_messages(runtime, PAGE)) < PAGE:
        raise RuntimeError("the page is not full")


def _timed(call: partial[Any]) -> partial[float]:
    def run() -> None:
        call()

    return partial(seconds_of, run)


def _sums(measured: dict[str, list[float]]) -> list[float]:
    return [bare + empty for bare, empty in zip(measured["bare"], measured["empty"], strict=True)]


def _memory(ours: StdioServer, folder: Path) -> tuple[Row, list[str]]:
    """All processes of ours together, beside the App Server and what it has started."""
    address = json.loads((folder / ADDRESS).read_text())
    server = psutil.Process(address["server_pid"])
    theirs = sum(_held(each) for each in (server, *server.children(recursive=True)))
    parts = {
        "the MCP server": _held(psutil.Process(ours.pid)),
        "the supervisor of the App Server": _held(psutil.Process(address["supervisor_pid"])),
        "the subscription keepers": sum(map(_held, _subscription_keepers(folder))),
    }
    total = sum(parts.values())
    shares = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in parts.items())
    return Row("memory held after these calls", total, theirs, total / theirs, "MB", MEMORY_GOAL), [f"Ours: {shares}."]


def _subscription_keepers(folder: Path) -> list[psutil.Process]:
    """The subscription keepers that hold a lock of this folder."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline"]):
        if any(part.endswith("subscription_keeper/child.py") for part in process.info["cmdline"] or ()):
            found += [process for each in process.open_files() if each.path.startswith(str(folder))]
    return found


def _held(process: psutil.Process) -> int:
    return process.memory_info().rss
