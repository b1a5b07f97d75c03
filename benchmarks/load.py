"""Many clients at once, over HTTP: whether all are answered, what each waits longer for us, and what is left behind.

The delay is measured beside the Letta SDK alone, which sends as many messages at once to the same server in the same
run. With more in flight than there are processors both sides wait in line for them, ours for three processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import httpx
from letta_client import AsyncLetta
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.letta_server import Place
from benchmarks.processes import HttpServer, letta_server, our_http_server
from benchmarks.table import Group, Row, Unit

CLIENTS = 500
HELD_SECONDS = 60

SETTLE_SECONDS = 20
"""Until a call that waits is at rest: after a second it begins to report, after fifteen its answer becomes a stream."""

IN_FLIGHT = (1, 16, 256)
AT_ONCE = 8
SMALL_PAGE = 5

GROWTH_GOAL = 1.02
LEFT_GOAL = 1.0

HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "benchmarks", "version": "1"},
}
MESSAGE = "Which of the two flights did we choose in the end, and did anybody tell the Oslo office about it?"

Json = dict[str, Any]


class _Client:
    """One caller of our server and of Letta, with connections of its own: in one pool of hundreds httpx takes longer to
    choose a connection than a call lasts."""

    def __init__(self, server: HttpServer, letta: Place) -> None:
        self._http = httpx.AsyncClient(base_url=server.url, timeout=300, verify=False)  # noqa: S501  all of it is http
        self._letta = httpx.AsyncClient(base_url=letta.base_url, timeout=300, verify=False)  # noqa: S501
        self._agent_id = letta.agent_id
        self._sdk = AsyncLetta(base_url=letta.base_url, api_key="none", http_client=self._letta)

    async def call(self, tool: str, **arguments: object) -> Json:
        """The structured content of a call, as the protocol of 2026 has it. Raises RuntimeError when it fails."""
        params = {"name": tool, "arguments": arguments, "_meta": META}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        response = await self._http.post("/mcp", json=body, headers={**HEADERS, "Mcp-Name": tool})
        result = _last_message(response)["result"]
        if result.get("isError"):
            raise RuntimeError(f"a call failed: {result['content']}")
        return result.get("structuredContent", {})

    async def new_conversation(self) -> str:
        """Made past our server."""
        answer = await self._letta.post("/v1/conversations/", params={"agent_id": self._agent_id}, json={})
        return answer.raise_for_status().json()["id"]

    async def send(self, conversation_id: str) -> None:
        answer = await self.call("send_message", conversation_id=conversation_id, message=MESSAGE)
        _check_completed(answer)

    async def send_with_sdk(self, conversation_id: str) -> None:
        stream = await self._sdk.conversations.messages.create(
            conversation_id, messages=[{"role": "user", "content": MESSAGE}]
        )
        reply = [chunk.content async for chunk in stream if chunk.message_type == "assistant_message"]
        if not reply:
            raise RuntimeError("the Letta SDK got no reply")

    async def metric(self, name: str) -> float:
        text = (await self._http.get("/metrics")).raise_for_status().text
        families = text_string_to_metric_families(text)
        return sum(each.value for family in families for each in family.samples if each.name == name)

    async def close(self) -> None:
        await self._http.aclose()
        await self._letta.aclose()


def measure(*, quick: bool) -> Group:
    """Three measurements against one server each, so that none begins with what another has left."""
    rows = [*_delays(quick=quick), *_held(100 if quick else CLIENTS, 5 if quick else HELD_SECONDS)]
    rows += _left(*((500, 2_000) if quick else (1_000, 10_000)))
    return Group(
        "Many clients at once, over HTTP",
        "for the delay, the same messages sent with the Letta SDK alone; for what is held, ours before",
        rows,
    )


def _with_server(count: int, work: Callable[[HttpServer, list[_Client]], Awaitable[list[Row]]]) -> list[Row]:
    """Do it with so many clients."""

    async def run(server: HttpServer, letta: Place) -> list[Row]:
        clients = [_Client(server, letta) for _ in range(count)]
        try:
            return await work(server, clients)
        finally:
            for each in clients:
                await each.close()

    with letta_server() as letta, our_http_server(letta.base_url) as server:
        return asyncio.run(run(server, letta))


def _delays(*, quick: bool) -> list[Row]:
    async def work(_: HttpServer, clients: list[_Client]) -> list[Row]:
        rows: list[Row] = []
        for count in IN_FLIGHT:
            rounds = max(4, (32 if quick else 320) // count)
            rows.append(await _delay(clients[:count], rounds))
        return rows

    return _with_server(max(IN_FLIGHT), work)


async def _delay(clients: Sequence[_Client], rounds: int) -> Row:
    """So many messages at once, by turns with the one and with the other; each side in conversations of its own."""
    through_us = [(each.send, await each.new_conversation()) for each in clients]
    with_sdk = [(each.send_with_sdk, await each.new_conversation()) for each in clients]
    ours: list[float] = []
    sdk: list[float] = []
    for number in range(rounds + 1):
        for side, seconds in ((through_us, ours), (with_sdk, sdk))[:: 1 if number % 2 else -1]:
            seconds.append(median(await asyncio.gather(*(_seconds_of(send(place)) for send, place in side))))
    # The first round opens connections, and loads the SDK.
    return Row.of_pairs(f"a reply, {len(clients)} in flight", ours[1:], sdk[1:], "ms")


async def _seconds_of(sending: Awaitable[None]) -> float:
    started = perf_counter()
    await sending
    return perf_counter() - started


def _held(count: int, seconds: int) -> list[Row]:
    """Clients that all wait for a turn, for so many seconds. Raises RuntimeError when one of them gets an error."""

    async def work(server: HttpServer, clients: list[_Client]) -> list[Row]:
        conversations = [await each.new_conversation() for each in clients]
        await clients[0].send(conversations[0])
        # Longer by what they need to get under way, and to come to rest there.
        message = f"after {seconds + SETTLE_SECONDS + count / 50} s: {MESSAGE}"
        calls = [
            asyncio.create_task(each.call("send_message", conversation_id=place, message=message, wait_seconds=280))
            for each, place in zip(clients, conversations, strict=True)
        ]
        while await clients[0].metric("letta_mcp_turns_in_flight") < count:
            _raise_early(calls)
            await asyncio.sleep(0.2)
        await asyncio.sleep(SETTLE_SECONDS)
        at_start = server.process.memory_info().rss
        await asyncio.sleep(seconds)
        still = await clients[0].metric("letta_mcp_turns_in_flight")
        at_end = server.process.memory_info().rss
        for answer in await asyncio.gather(*calls):
            _check_completed(answer)
        what = f"{count} turns, {seconds} s"
        return [
            Row(f"{what}: in flight at the end", still, count, still / count, "count"),
            Row(f"{what}: memory at the end, at the start", at_end, at_start, at_end / at_start, "MB", GROWTH_GOAL),
        ]

    return _with_server(count, work)


def _left(some: int, many: int) -> list[Row]:
    """What is there after many short calls, beside what there was after some."""

    async def work(server: HttpServer, clients: list[_Client]) -> list[Row]:
        async def call(client: _Client, times: int) -> None:
            for _ in range(times):
                await client.call("list_conversations", limit=SMALL_PAGE)

        seen: list[tuple[float, ...]] = []
        for times in (some, many - some):
            await asyncio.gather(*(call(each, times // len(clients)) for each in clients))
            seen.append(
                (
                    server.process.memory_info().rss,
                    await clients[0].metric("letta_mcp_tasks"),
                    len(server.process.net_connections("tcp")),
                    server.process.num_fds(),
                )
            )
        kinds: tuple[tuple[str, Unit, float], ...] = (
            ("memory", "MB", GROWTH_GOAL),
            ("tasks", "count", LEFT_GOAL),
            ("sockets", "count", LEFT_GOAL),
            ("open files", "count", LEFT_GOAL),
        )
        return [
            Row(f"{name} after {many:,} calls, after {some:,}", after, before, after / before, unit, goal)
            for (name, unit, goal), before, after in zip(kinds, *seen, strict=True)
        ]

    return _with_server(AT_ONCE, work)


def _raise_early(calls: Sequence[asyncio.Task[Json]]) -> None:
    for call in calls:
        if call.done():
            raise RuntimeError(f"a call ended at once: {call.result()}")


def _last_message(response: httpx.Response) -> Json:
    """The answer in a response that is JSON, or a stream of events whose last one it is."""
    response.raise_for_status()
    if response.headers["content-type"].startswith("application/json"):
        return response.json()
    events = [line.removeprefix("data:") for line in response.text.splitlines() if line.startswith("data:")]
    return httpx.Response(200, text=events[-1]).json()


def _check_completed(answer: Json) -> None:
    if answer.get("status") != "completed":
        raise RuntimeError(f"a turn did not complete: {answer}")
