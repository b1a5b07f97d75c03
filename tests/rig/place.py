"""Conversations in memory, for the tests of sending: turns as a test writes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import anyio

from letta_conversations_mcp.core.backend import Backend, NotResumable
from letta_conversations_mcp.core.errors import NotFound
from letta_conversations_mcp.core.model import (
    Chunk,
    Conversation,
    ConversationRef,
    Message,
    MessageQuery,
    OnBusy,
    OutgoingMessage,
    Page,
    Run,
    Turn,
)
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.turns.idempotency import CallIdentity, fingerprint
from letta_conversations_mcp.turns.scheduler import Scheduler, open_scheduler
from letta_conversations_mcp.turns.sending import Fork, Send
from letta_conversations_mcp.turns.timing import Timing
from letta_conversations_mcp.turns.turn import TrackedTurn
from letta_conversations_mcp.turns.waiting import Report
from tests.rig.waiting import at_rest, until

HERE = ConversationRef(conversation_id="conv-00000000-0000-4000-8000-000000000001", agent_id="agent-1")
THERE = ConversationRef(conversation_id="conv-00000000-0000-4000-8000-000000000002", agent_id="agent-1")
QUICK = Timing(
    report_at_most_every=0.01,
    report_at_least_every=0.05,
    poll_first=0.001,
    poll_longest=0.002,
    unseen=0.001,
    settle=0.005,
    confirm=0.05,
    look_up=0.05,
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
        self.runs_of_otids: dict[str, str] = {}
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
        if self.resumptions is None or not run_id:
            raise NotResumable
        self.resumed.append((run_id, after))
        yield self.resumptions.pop(0)(message)

    async def get_conversation(self, conversation_id: str) -> Conversation:
        return Conversation(id=conversation_id, agent_id=HERE.agent_id)

    async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
        return [states[0] for states in self.runs.values()][:limit]

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        if run_id not in self.runs:
            raise NotFound.run(run_id)
        states = self.runs[run_id]
        return states.pop(0) if len(states) > 1 else states[0]

    async def run_of_otid(self, ref: ConversationRef, otid: str) -> str:
        return self.runs_of_otids.get(otid, "")

    async def list_run_chunks(self, ref: ConversationRef, run_id: str) -> Sequence[Chunk]:
        asked = [each for each in self.messages if each.run_id == run_id and each.kind == "user"]
        stored: list[Chunk] = [
            {"message_type": "user_message", "id": each.id, "otid": each.otid, "content": each.text} for each in asked
        ]
        return [*stored, *self.chunks]

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        """The newest, as many as were asked for."""
        ids = [each.id for each in self.messages]
        end = ids.index(query.before) if query.before else len(ids)
        begin = max(0, end - query.limit)
        return Page(items=tuple(self.messages[begin:end]), more=begin > 0)


@asynccontextmanager
async def scheduler_at(
    place: Place, timing: Timing = QUICK, settings: Settings | None = None
) -> AsyncGenerator[Scheduler]:
    async with open_scheduler(cast("Backend", place), settings or Settings(), timing) as scheduler:
        yield scheduler


def message(text: str, otid: str = "") -> OutgoingMessage:
    return OutgoingMessage(text=text, otid=otid or f"otid of {text}")


def sending(
    ref: ConversationRef,
    outgoing: OutgoingMessage,
    on_busy: OnBusy = "wait",
    fork: Fork | None = None,
    identity: Mapping[str, str] | None = None,
) -> Send:
    """A message to a place that needs no looking up. Of the identity of its call, what the test does not name is what
    its text says."""

    async def prepare(_: ConversationRef | None) -> tuple[ConversationRef, OutgoingMessage]:
        return ref, outgoing

    given = {"target": str(ref), "call": fingerprint(outgoing.text), **(identity or {})}
    return Send(prepare, CallIdentity(**given), on_busy, fork)


def start(scheduler: Scheduler, ref: ConversationRef, text: str) -> TrackedTurn:
    return scheduler.start(sending(ref, message(text)))


async def send(
    scheduler: Scheduler, ref: ConversationRef, text: str, seconds: float = 10, report: Report | None = None
) -> Turn:
    """Send, as a call of a tool does."""
    turn, _ = await scheduler.send_and_wait(sending(ref, message(text)), seconds, report or silent)
    return turn


async def silent(words: str) -> None:
    """Reports to nobody."""


async def result(scheduler: Scheduler, ref: ConversationRef, text: str, seconds: float = 10) -> Turn:
    return await scheduler.wait(start(scheduler, ref, text), seconds, silent)


async def given_up(call: Callable[..., Coroutine[None, None, object]], *arguments: object) -> None:
    """Make a call, and cancel it when all that it began waits for something."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, *arguments)
        await at_rest()
        tasks.cancel_scope.cancel()


async def until_gone(scheduler: Scheduler) -> None:
    """Wait until the place is free again."""
    await until(lambda: not scheduler.is_busy(HERE))


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
