"""The delay of one reply over HTTP, with some in flight, beside what people would use instead of us.

All sides send the same messages to the same fake Letta server, in conversations of their own, by turns: a burst of
ours, a burst of the next. The model takes no time, which is the worst case for us: with a real one, all sides are equal
but for milliseconds. All processes share the processors with the fake server and the caller, so a burst of many is
mostly a queue, in which the fake server and the caller take as long for each side. The work of the two servers alone is
the ratio of their processor times.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle, permutations
from statistics import median
from time import perf_counter

import httpx
import psutil
from letta_client import AsyncLetta

from benchmarks.http_caller import HttpCaller
from benchmarks.letta_server import Place
from benchmarks.pairs import ratio_of_pairs
from benchmarks.processes import RIVAL, HttpServer, letta_server, our_http_server, rival_server, typed_server
from benchmarks.table import Group, Row

IN_FLIGHT = (1, 16, 64, 256)

GOALS = {16: 0.65, 64: 0.5, 256: 0.5}
"""Beside the twenty-line server."""

RIVAL_GOAL = 2.5
RIVAL_IN_FLIGHT = (1, 16)
RIVAL_PER_SECOND = 80
"""It refuses more than 100 requests in a second, so it rests before each burst."""

MESSAGE = "Which of the two flights did we choose in the end, and did anybody tell the Oslo office about it?"

OURS, TYPED, SDK, RUST = "this server", "a twenty-line server", "the Letta SDK alone", "letta-mcp 3.0.3 (Rust)"

Send = Callable[[str], Awaitable[object]]


@dataclass
class _Side:
    """One way to send messages: `senders` of it, each with a connection of its own. Without a process, this one is
    the sender, whose work is not measured. Before a burst it rests so many seconds for each message."""

    senders: Sequence[Send]
    process: psutil.Process | None = None
    rest: float = 0.0
    conversations: list[str] = field(default_factory=list[str])
    delays: list[float] = field(default_factory=list[float])
    longest: list[float] = field(default_factory=list[float])
    work: list[float] = field(default_factory=list[float])

    async def burst(self, count: int, *, is_kept: bool) -> None:
        """So many messages at once: keeps the median and the longest delay, and the processor time for each."""
        await asyncio.sleep(self.rest * count)
        before = _worked(self.process)
        senders = zip(self.senders[:count], self.conversations, strict=True)
        delays = await asyncio.gather(*(_seconds_of(send(place)) for send, place in senders))
        if is_kept:
            self.delays.append(median(delays))
            self.longest.append(max(delays))
            self.work.append((_worked(self.process) - before) / count)


Delays = dict[int, dict[str, float]]


@dataclass(frozen=True)
class ReplyGroup(Group):
    """With the median delays in seconds, by number in flight and side: for the chart."""

    delays: Delays = field(default_factory=dict[int, dict[str, float]])


def measure(*, quick: bool) -> Group:
    with ExitStack() as stack:
        letta = stack.enter_context(letta_server())
        ours = stack.enter_context(our_http_server(letta.base_url))
        typed = stack.enter_context(typed_server(letta.base_url))
        rival = stack.enter_context(rival_server(letta.base_url)) if RIVAL.exists() else None
        measured = asyncio.run(_all(letta, {OURS: ours, TYPED: typed}, rival, quick=quick))
    work = [f"{count} in flight {_ratio(sides[OURS].work, sides[TYPED].work):.2f}" for count, sides in measured.items()]
    longest = [
        f"{count} in flight {ratio_of_pairs(sides[OURS].longest, sides[TYPED].longest):.2f}"
        for count, sides in measured.items()
        if count > 1
    ]
    notes = [
        f"Beside the twenty-line server, the last reply of a burst: {', '.join(longest)}.",
        f"Processor time of a reply: {', '.join(work)}.",
    ]
    if rival is None:
        notes.append(f"{RUST} is not installed, so it was left out. See benchmarks/README.md.")
    return ReplyGroup(
        "A reply over HTTP, with a model that takes no time",
        "as the row says; the twenty-line server is benchmarks/typed_server.py. Ours has the extra aiohttp",
        [row for count, sides in measured.items() for row in _rows(count, sides)],
        notes,
        {count: {name: median(side.delays) for name, side in sides.items()} for count, sides in measured.items()},
    )


def _rows(count: int, sides: Mapping[str, _Side]) -> list[Row]:
    goals = {TYPED: GOALS.get(count), RUST: RIVAL_GOAL if count == 16 else None, SDK: None}
    return [
        Row.of_pairs(f"{count} in flight; {name}", sides[OURS].delays, side.delays, "ms", goals[name])
        for name, side in sides.items()
        if name != OURS
    ]


async def _all(
    letta: Place, servers: Mapping[str, HttpServer], rival: HttpServer | None, *, quick: bool
) -> dict[int, dict[str, _Side]]:
    measured: dict[int, dict[str, _Side]] = {}
    async with httpx.AsyncClient(base_url=letta.base_url, timeout=60) as http:
        for count in IN_FLIGHT:
            rounds = max(4, (60 if quick else 240) // count)
            async with _sides(letta, servers, rival if count in RIVAL_IN_FLIGHT else None, count) as sides:
                for side in sides.values():
                    side.conversations = [await _new_conversation(http, letta) for _ in range(count)]
                orders = cycle(permutations(sides))
                for number in range(rounds + 1):
                    for name in next(orders):
                        # The first round opens connections and loads code.
                        await sides[name].burst(count, is_kept=number > 0)
            measured[count] = sides
    return measured


@asynccontextmanager
async def _sides(
    letta: Place, servers: Mapping[str, HttpServer], rival: HttpServer | None, count: int
) -> AsyncGenerator[dict[str, _Side]]:
    async with AsyncExitStack() as stack:
        sides: dict[str, _Side] = {}
        for name, server in servers.items():
            callers = [HttpCaller(server.url) for _ in range(count)]
            for each in callers:
                stack.push_async_callback(each.close)
            sides[name] = _Side([_sending(each) for each in callers], server.process)
        sides[SDK] = _Side([await _sdk(stack, letta) for _ in range(count)])
        if rival is not None:
            callers = [HttpCaller(rival.url, is_modern=False) for _ in range(count)]
            for each in callers:
                stack.push_async_callback(each.close)
            sides[RUST] = _Side(
                [_sending_to_rival(each, letta) for each in callers], rival.process, 1 / RIVAL_PER_SECOND
            )
        yield sides


def _sending(caller: HttpCaller) -> Send:
    return lambda place: caller.call("send_message", {"conversation_id": place, "message": MESSAGE})


def _sending_to_rival(caller: HttpCaller, letta: Place) -> Send:
    def send(place: str) -> Awaitable[object]:
        arguments = {
            "operation": "send_conversation_message",
            "agent_id": letta.agent_id,
            "conversation_id": place,
            "messages": [{"role": "user", "content": MESSAGE}],
        }
        return caller.call("letta_agent_advanced", arguments)

    return send


async def _sdk(stack: AsyncExitStack, letta: Place) -> Send:
    """A client of its own, with a connection of its own: in one pool of hundreds, httpx takes longer to choose a
    connection than a message takes."""
    http = await stack.enter_async_context(httpx.AsyncClient(timeout=300, verify=False))  # noqa: S501  all of it is http
    client = AsyncLetta(base_url=letta.base_url, api_key="none", http_client=http)

    async def send(place: str) -> None:
        stream = await client.conversations.messages.create(place, messages=[{"role": "user", "content": MESSAGE}])
        if not [chunk async for chunk in stream if chunk.message_type == "assistant_message"]:
            raise RuntimeError("the Letta SDK got no reply")

    return send


async def _new_conversation(http: httpx.AsyncClient, letta: Place) -> str:
    answer = await http.post("/v1/conversations/", params={"agent_id": letta.agent_id}, json={})
    return answer.raise_for_status().json()["id"]


async def _seconds_of(sending: Awaitable[object]) -> float:
    started = perf_counter()
    await sending
    return perf_counter() - started


def _worked(process: psutil.Process | None) -> float:
    """The processor time of a process so far, in seconds."""
    if process is None:
        return 0.0
    times = process.cpu_times()
    return times.user + times.system


def _ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """Of sums: processor time is counted in hundredths of a second."""
    return sum(ours) / sum(others)
