"""Conversations in memory, for the tests of sending: turns as a test writes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import anyio

from letta_conversations_mcp.core.backend import Backend, NotResumable
from letta_conversations_mcp.core.errors import NotFound
from letta_conversations_mcp.core.model import (
    Chunk,
    ConversationRef,
    Message,
    MessageQuery,
    OutgoingMessage,
    Page,
    Run,
    Turn,
)
from letta_conversations_mcp.turns.scheduler import Sender, open_sender
from letta_conversations_mcp.turns.timing import Pace
from tests.rig.bounds import HANG_SECONDS

HERE = ConversationRef(conversation_id="conv-00000000-0000-4000-8000-000000000001", agent_id="agent-1")
THERE = ConversationRef(conversation_id="conv-00000000-0000-4000-8000-000000000002", agent_id="agent-1")
QUICK = Pace(
    report_at_most_every=0.01,
    report_at_least_every=0.05,
    poll_first=0.001,
    poll_longest=0.002,
    unseen=0.001,
    settle=0.005,
    confirm=0.05,
    give_up=0.05,
)

Turning = Callable[[OutgoingMessage], AsyncIterator[Chunk]]


def says(text: str, run_id: str = "run-1") -> list[Chunk]:
    return [
        {"message_type": "ping", "run_id": run_id},
        {"message_type": "assistant_message", "otid": "o", "content": text, "run_id": run_id},
        {"message_type": "stop_reason", "stop_reason": "end_turn"},
    ]


class Place:
    """Conversations in memory: turns as the test writes them, runs and messages as it sets them."""

    def __init__(self) -> None:
        self.turns: dict[str, Turning | list[Turning]] = {}
        self.resumed: list[tuple[str, int]] = []
        self.resumptions: list[Turning] | None = None
        """None for a place that keeps no streams."""
        self.runs: dict[str, list[Run]] = {}
        self.messages: list[Message] = []
        self.chunks: list[Chunk] = []
        self.begun: list[str] = []

    @asynccontextmanager
    async def send(self, ref: ConversationRef, message: OutgoingMessage) -> AsyncGenerator[AsyncIterator[Chunk]]:
        self.begun.append(message.text)
        turning = self.turns[message.text]
        yield (turning.pop(0) if isinstance(turning, list) else turning)(message)

    @asynccontextmanager
    async def resume(
        self, ref: ConversationRef, message: OutgoingMessage, *, run_id: str, after: int
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        if self.resumptions is None:
            raise NotResumable
        self.resumed.append((run_id, after))
        yield self.resumptions.pop(0)(message)

    async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
        return [states[0] for states in self.runs.values()]

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        if run_id not in self.runs:
            raise NotFound.run(run_id)
        states = self.runs[run_id]
        return states.pop(0) if len(states) > 1 else states[0]

    async def list_run_chunks(self, ref: ConversationRef, run_id: str) -> Sequence[Chunk]:
        return self.chunks

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        return Page(items=tuple(self.messages))


@asynccontextmanager
async def sender_at(place: Place, pace: Pace = QUICK) -> AsyncGenerator[Sender]:
    async with open_sender(cast("Backend", place), pace) as sender:
        yield sender


def message(text: str, otid: str = "") -> OutgoingMessage:
    return OutgoingMessage(text=text, otid=otid or f"otid of {text}")


async def silent(words: str) -> None:
    """Reports to nobody."""


async def result(sender: Sender, ref: ConversationRef, text: str, seconds: float = 10) -> Turn:
    return await sender.wait(sender.send(ref, message(text)), seconds, silent)


async def until_gone(sender: Sender) -> None:
    """Wait until the place is free again."""
    with anyio.fail_after(HANG_SECONDS):
        while sender.is_busy(HERE):
            await anyio.sleep(0.001)


def at_once(chunks: Sequence[Chunk], then: Exception | None = None) -> Turning:
    async def turn(_: OutgoingMessage) -> AsyncIterator[Chunk]:
        for chunk in chunks:
            yield chunk
        if then is not None:
            raise then

    return turn


def when_opened(gate: anyio.Event, chunks: Sequence[Chunk]) -> Turning:
    async def turn(_: OutgoingMessage) -> AsyncIterator[Chunk]:
        yield chunks[0]
        await gate.wait()
        for chunk in chunks[1:]:
            yield chunk

    return turn
