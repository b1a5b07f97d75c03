"""Turns as a real Letta 0.16.8 server streamed them, byte for byte; and the way from such bytes to a Turn.

Each file in `data/streams` begins with two lines that give the request and the response's head.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx

from letta_conversations_mcp.backends.letta_api.stream import read_stream
from letta_conversations_mcp.core.model import Chunk, Turn
from letta_conversations_mcp.turns.aggregate import TurnBuilder

STREAMS = {
    path.stem: path.read_bytes().split(b"\n", 2)[2]
    for path in sorted((Path(__file__).parents[1] / "data" / "streams").glob("*.txt"))
}


async def chunks_of(*pieces: bytes) -> list[Chunk]:
    """The chunks of a stream that comes in these pieces and then ends."""

    async def arriving() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=arriving())
    async with read_stream(response, silence_seconds=60) as chunks:
        return [chunk async for chunk in chunks]


def builder_of(chunks: Iterable[Chunk]) -> TurnBuilder:
    builder = TurnBuilder()
    for chunk in chunks:
        builder.add(chunk)
    return builder


def turn_of(*chunks: Chunk) -> Turn:
    return builder_of(chunks).build()
