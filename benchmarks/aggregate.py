"""From the bytes of a long reply to its text: our reader and TurnBuilder beside the Letta SDK's typed stream.

A reply of many chunks is where a client works while the model writes. Both sides read the same bytes through the same
HTTP client, with no network; both must end with the same text.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from time import perf_counter

import httpx
from letta_client import AsyncLetta

from benchmarks.pairs import interleave
from benchmarks.table import Group, Row
from letta_conversations_mcp.backends.letta_api.stream import read_stream
from letta_conversations_mcp.turns.aggregate import TurnBuilder

GOAL = 0.3

CONVERSATION = "conv-123e4567-e89b-42d3-a456-426614174000"
WORDS = ("The", " report", " is", " at", " ten,", " and", " Oslo", " calls", " at", " three.")


class _Stream(httpx.AsyncByteStream):
    """A reply by the token, as Letta streams it: one piece for each event, the way they come from a server."""

    def __init__(self, chunks: int) -> None:
        head = {
            "id": "message-c7184461-6989-4079-83b1-9dd3b073ae10",
            "date": "2026-11-21T00:52:48+00:00",
            "name": None,
            "message_type": "assistant_message",
            "otid": "c7184461-6989-4079-83b1-9dd3b073ae00",
            "sender_id": None,
            "step_id": "step-55e97600-3f23-4617-aaf6-5f02595daf58",
            "is_err": None,
            "seq_id": None,
            "run_id": "run-6c6b41b2-8804-4042-80a2-06ba017f0873",
        }
        ping = {**head, "id": "ping-f694cd7c-0d89-4b29-8664-1dff6a18603c", "message_type": "ping", "otid": None}
        usage = {"message_type": "usage_statistics", "completion_tokens": chunks, "prompt_tokens": 688, "step_count": 1}
        words = [WORDS[number % len(WORDS)] for number in range(chunks)]
        events = [
            ping,
            *({**head, "content": word} for word in words),
            {"message_type": "stop_reason", "stop_reason": "end_turn"},
            usage,
        ]
        lines = [json.dumps(event, separators=(",", ":")) for event in events]
        self.text = "".join(words)
        self.pieces = [f"data: {line}\n\n".encode() for line in (*lines, "[DONE]")]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece


def _http(stream: _Stream) -> httpx.AsyncClient:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)

    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


async def _with_ours(stream: _Stream) -> str:
    builder = TurnBuilder()
    async with (
        _http(stream) as http,
        http.stream("POST", "http://letta.test/") as response,
        read_stream(response, silence_seconds=60) as chunks,
    ):
        async for chunk in chunks:
            builder.add(chunk)
    return builder.build().reply


async def _with_sdk(stream: _Stream) -> str:
    async with AsyncLetta(base_url="http://letta.test", api_key="none", http_client=_http(stream)) as client:
        chunks = await client.conversations.messages.create(
            CONVERSATION, messages=[{"role": "user", "content": "hello"}], stream_tokens=True
        )
        words = [chunk.content async for chunk in chunks if chunk.message_type == "assistant_message"]
        return "".join(word for word in words if isinstance(word, str))


def _seconds_of(read: Callable[[_Stream], Awaitable[str]], stream: _Stream) -> float:
    """Read the stream once, without garbage of the one before. Raises RuntimeError when its text comes out wrong."""
    gc.collect()

    async def timed() -> tuple[float, str]:
        started = perf_counter()
        text = await read(stream)
        return perf_counter() - started, text

    seconds, text = asyncio.run(timed())
    if text != stream.text:
        raise RuntimeError(f"{len(text)} characters came out of {len(stream.text)}")
    return seconds


def measure(*, quick: bool) -> Group:
    """A reply of 20,000 chunks, and one of 2,000: ten times the chunks should take ten times the time."""
    rows = [_row(2_000, 3 if quick else 9, None), _row(20_000, 1 if quick else 5, GOAL)]
    growth = rows[1].ours / rows[0].ours
    return Group(
        "A reply read by the token, to its text",
        "the Letta SDK's typed stream of the same bytes",
        rows,
        [f"Ten times the chunks take us {growth:.1f} times as long."],
    )


def _row(chunks: int, rounds: int, goal: float | None) -> Row:
    stream = _Stream(chunks)
    sides = {"ours": partial(_seconds_of, _with_ours, stream), "sdk": partial(_seconds_of, _with_sdk, stream)}
    measured = interleave(sides, rounds, warm_up=1)
    return Row.of_pairs(f"{chunks:,} chunks", measured["ours"], measured["sdk"], "ms", goal)
