"""A tool call through our server beside the same request made with the Letta SDK alone.

Who calls us pays for the SDK's request and for one MCP call; more than that would be our own fault. So the other side
is the sum of both: the SDK's time, typed objects and all, and a call of the bare server's empty tool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import cycle
from statistics import median
from time import perf_counter
from typing import Any

import httpx
from letta_client import AsyncLetta

from benchmarks.letta_server import CONVERSATIONS, PAGE, Place
from benchmarks.pairs import Run, interleave, ratio_of_pairs, seconds_of
from benchmarks.processes import StdioServer, bare_server, letta_server, our_server
from benchmarks.table import Group, Row

GOAL = 1.0

MESSAGE = "Which of the two flights did we choose in the end, and did anybody tell the Oslo office about it?"


class _Sdk:
    """The Letta SDK as its users use it: async, iterating what comes back."""

    def __init__(self, letta: Place, runner: asyncio.Runner) -> None:
        self._letta = letta
        self._runner = runner
        self._client = AsyncLetta(base_url=letta.base_url, api_key="none")
        self._conversations = cycle(letta.others)

    async def send_message(self) -> None:
        stream = await self._client.conversations.messages.create(
            next(self._conversations), messages=[{"role": "user", "content": MESSAGE}]
        )
        reply = [chunk.content async for chunk in stream if chunk.message_type == "assistant_message"]
        if not reply:
            raise RuntimeError("the Letta SDK got no reply")

    async def list_messages(self) -> None:
        page = await self._client.agents.messages.list(
            self._letta.agent_id, conversation_id=self._letta.talk, limit=PAGE, order="desc"
        )
        _check_full(len(page.items), PAGE)

    async def list_conversations(self) -> None:
        page = await self._client.conversations.list(limit=CONVERSATIONS)
        _check_full(len(page), CONVERSATIONS)

    def seconds_of(self, request: Callable[[], Awaitable[None]]) -> float:
        """How long a request takes in a running event loop; entering and leaving the loop is not the SDK's time."""

        async def timed() -> float:
            started = perf_counter()
            await request()
            return perf_counter() - started

        return self._runner.run(timed())

    def close(self) -> None:
        self._runner.run(self._client.close())


def _check_full(found: int, wanted: int) -> None:
    if found < wanted:
        raise RuntimeError(f"a page of {wanted} has {found} items")


def measure(*, quick: bool) -> Group:
    """Three calls, each beside the SDK's request and the bare server's empty call, all in one process's turn."""
    rounds, warm_up = (48, 12) if quick else (200, 24)
    with (
        letta_server() as letta,
        our_server(letta.base_url) as ours,
        bare_server() as bare,
        asyncio.Runner() as runner,
        httpx.Client(base_url=letta.base_url) as raw,
    ):
        sdk = _Sdk(letta, runner)
        for server in (ours, bare):
            server.initialize()
            server.list_tools()
        # Lists all conversations once: after that the server knows whose they are, as it does in the middle of a talk.
        ours.call("list_conversations", limit=CONVERSATIONS)
        measured = {
            what: interleave(_sides(mine, partial(sdk.seconds_of, request), bare, plain), rounds, warm_up)
            for what, mine, request, plain in (
                ("send_message", _our_sends(ours, letta), sdk.send_message, _plain_sends(raw, letta)),
                (
                    f"list_messages, {PAGE} of them",
                    partial(ours.call, "list_messages", conversation_id=letta.talk, limit=PAGE),
                    sdk.list_messages,
                    partial(
                        raw.get,
                        f"/v1/agents/{letta.agent_id}/messages",
                        params={"conversation_id": letta.talk, "limit": PAGE, "order": "desc"},
                    ),
                ),
                (
                    f"list_conversations, {CONVERSATIONS} of them",
                    partial(ours.call, "list_conversations", limit=CONVERSATIONS),
                    sdk.list_conversations,
                    partial(raw.get, "/v1/conversations/", params={"limit": CONVERSATIONS}),
                ),
            )
        }
        sdk.close()
    rows: list[Row] = []
    notes: list[str] = []
    for what, of in measured.items():
        both = [sdk_seconds + bare_seconds for sdk_seconds, bare_seconds in zip(of["sdk"], of["bare"], strict=True)]
        rows.append(Row.of_pairs(what, of["ours"], both, "ms", GOAL))
        notes.append(
            f"{what}: of the other's time {_ms(of['sdk'])} are the SDK and {_ms(of['bare'])} the bare call; "
            f"ours is {ratio_of_pairs(of['ours'], of['sdk']):.2f} of the SDK alone. "
            f"In both are {_ms(of['letta'])} of the fake Letta server and its connection."
        )
    return Group(
        f"A call over stdio, with a model that takes no time ({rounds} rounds)",
        "the same request with the Letta SDK, and one call of a bare MCPServer's empty tool",
        rows,
        notes,
    )


def _our_sends(ours: StdioServer, letta: Place) -> Callable[[], object]:
    conversations = cycle(letta.others)
    return lambda: ours.call("send_message", conversation_id=next(conversations), message=MESSAGE)


def _plain_sends(raw: httpx.Client, letta: Place) -> Callable[[], object]:
    conversations = cycle(letta.others)
    body = {"messages": [{"role": "user", "content": MESSAGE}]}
    return lambda: raw.post(f"/v1/conversations/{next(conversations)}/messages", json=body)


def _sides(
    ours: Callable[[], object], sdk: Callable[[], float], bare: StdioServer, letta: Callable[[], object]
) -> dict[str, Callable[[], float]]:
    """`letta` is the request as plain HTTP, its answer unread: what no client can save."""

    def request() -> None:
        response: Any = letta()
        response.raise_for_status()

    return {
        "ours": partial(seconds_of, _dropping(ours)),
        "sdk": sdk,
        "bare": partial(seconds_of, _dropping(partial(bare.call, "nothing"))),
        "letta": partial(seconds_of, request),
    }


def _dropping(call: Callable[[], object]) -> Run:
    def run() -> None:
        call()

    return run


def _ms(values: list[float]) -> str:
    return f"{median(values) * 1000:.2f} ms"
