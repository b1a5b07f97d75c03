"""An agent with 20,000 conversations: what lists, keys, completion, search and resources ask of Letta, beside an agent
with 50."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.http_caller import HttpCaller
from benchmarks.letta_server import CONVERSATIONS
from benchmarks.processes import HttpServer, letta_server, our_http_server
from benchmarks.scale.server import Cost
from benchmarks.table import Group, Row

MANY = 20_000

Json = dict[str, Any]


def measure() -> Group:
    sides: list[dict[str, tuple[float, float, int]]] = []
    for count in (CONVERSATIONS, MANY):
        with letta_server(conversations=count) as letta, our_http_server(letta.base_url) as server:
            sides.append(asyncio.run(_asked(server, letta.agent_id)))
    few, many = sides
    rows: list[Row] = []
    for what, (requests, seconds, size) in many.items():
        rows += [
            Row(f"{what}: requests to Letta", requests, few[what][0], requests / max(few[what][0], 1), "count"),
            Row(f"{what}: processor time", seconds, few[what][1], seconds / max(few[what][1], 0.01), "ms"),
            Row(f"{what}: answer", size, few[what][2], size / few[what][2], "chars"),
        ]
    return Group(f"An agent with {MANY:,} conversations", f"one with {CONVERSATIONS}", rows)


async def _asked(server: HttpServer, agent: str) -> dict[str, tuple[float, float, int]]:
    """For each call: requests to Letta, processor time in seconds, characters of the answer."""
    caller = HttpCaller(server.url)
    completion: Json = {
        "ref": {"type": "ref/resource", "uri": "letta://conversations/{conversation_id}"},
        "argument": {"name": "conversation_id", "value": "archive"},
        "context": {"arguments": {"agent": agent}},
    }
    asked: dict[str, tuple[str, Json]] = {
        "list_conversations": ("list_conversations", {"agent": agent}),
        "list_conversations, search": ("list_conversations", {"agent": agent, "search": "archive 7"}),
        "create_conversation, new key": ("create_conversation", {"agent": agent, "key": "ticket:4711"}),
        "create_conversation, same key": ("create_conversation", {"agent": agent, "key": "ticket:4711"}),
        "send_message, message_key": ("send_message", {"agent": agent, "message": "hello", "message_key": "m1"}),
        "search_messages": ("search_messages", {"agent": agent, "query": "nobody said this"}),
    }
    await caller.call("list_agents", {})
    costs: dict[str, tuple[float, float, int]] = {}
    for what, (tool, arguments) in asked.items():
        before = await Cost.of(server)
        answer = await caller.call(tool, arguments)
        costs[what] = _between(before, await Cost.of(server), str(answer))
    for what, method, params in (
        ("completion", "completion/complete", completion),
        ("resources/list", "resources/list", {}),
    ):
        before = await Cost.of(server)
        answer = await caller.request(method, params)
        costs[what] = _between(before, await Cost.of(server), str(answer))
    await caller.close()
    return costs


def _between(before: Cost, after: Cost, answer: str) -> tuple[float, float, int]:
    return after.requests - before.requests, after.seconds - before.seconds, len(answer)
