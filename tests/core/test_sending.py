"""Turns in flight: their order, their waiting, and what is left when something breaks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest

from letta_conversations_mcp.core.backend import Backend, StreamLost
from letta_conversations_mcp.core.errors import Busy, NotFound, Refused, ServerFault
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
from letta_conversations_mcp.core.sending import Pace, Sender, open_sender

HERE = ConversationRef(conversation_id="conv-00000000-0000-4000-8000-000000000001", agent_id="agent-1")
THERE = ConversationRef(conversation_id="conv-00000000-0000-4000-8000-000000000002", agent_id="agent-1")
QUICK = Pace(report_at_most_every=0.01, report_at_least_every=0.05, poll_first=0.001, poll_longest=0.002)

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
        self.turns: dict[str, Turning] = {}
        self.runs: dict[str, list[Run]] = {}
        self.messages: list[Message] = []
        self.chunks: list[Chunk] = []
        self.begun: list[str] = []

    @asynccontextmanager
    async def send(self, ref: ConversationRef, message: OutgoingMessage) -> AsyncGenerator[AsyncIterator[Chunk]]:
        self.begun.append(message.text)
        yield self.turns[message.text](message)

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


def message(text: str) -> OutgoingMessage:
    return OutgoingMessage(text=text, otid=f"otid of {text}")


async def silent(words: str) -> None:
    """Reports to nobody."""


async def result(sender: Sender, ref: ConversationRef, text: str, seconds: float = 10) -> Turn:
    return await sender.wait(sender.send(ref, message(text)), seconds, silent)


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


async def test_messages_to_one_conversation_wait_for_each_other_and_others_do_not() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {
        "first": when_opened(gate, says("1")),
        "second": at_once(says("2")),
        "elsewhere": at_once(says("3")),
    }
    async with sender_at(place) as sender:
        first, second = (sender.send(HERE, message(text)) for text in ("first", "second"))
        elsewhere = await result(sender, THERE, "elsewhere")
        begun_before = list(place.begun)
        waiting = second.doing
        gate.set()
        replies = [(await sender.wait(each, 10, silent)).reply for each in (first, second)]

    assert elsewhere.reply == "3"
    assert begun_before == ["first", "elsewhere"]
    assert "waiting for the turn before it" in waiting
    assert replies == ["1", "2"]


async def test_a_wait_that_ends_early_shows_what_has_come_and_leaves_the_turn() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": when_opened(gate, says("done", "run-7"))}
    async with sender_at(place) as sender:
        flight = sender.send(HERE, message("slow"))
        early = await sender.wait(flight, 0.05, silent)
        found = sender.in_flight(HERE, "run-7")
        gate.set()
        late = await sender.wait(flight, 10, silent)
        afterwards = sender.in_flight(HERE)

    assert (early.status, early.run_id) == ("running", "run-7")
    assert found is flight
    assert (late.status, late.reply) == ("completed", "done")
    assert afterwards is None


async def test_a_cancelled_wait_leaves_the_turn_running() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": when_opened(gate, says("done"))}
    async with sender_at(place) as sender:
        flight = sender.send(HERE, message("slow"))
        with anyio.move_on_after(0.05):
            await sender.wait(flight, 1000, silent)
        gate.set()
        turn = await sender.wait(flight, 10, silent)

    assert turn.reply == "done"


async def test_a_message_whose_place_does_not_come_is_withdrawn() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": when_opened(gate, says("done", "run-7")), "late": at_once(says("never"))}
    async with sender_at(place) as sender:
        flight = sender.send(HERE, message("slow"))
        with pytest.raises(Busy, match="run-7"):
            await sender.send_and_wait(HERE, message("late"), 0.05, silent)
        gate.set()
        await sender.wait(flight, 10, silent)

    assert place.begun == ["slow"]


async def test_a_message_whose_caller_has_gone_before_its_place_came_is_withdrawn() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": when_opened(gate, says("done")), "left": at_once(says("never")), "next": at_once(says("n"))}
    async with sender_at(place) as sender:
        flight = sender.send(HERE, message("slow"))
        with anyio.move_on_after(0.05):
            await sender.send_and_wait(HERE, message("left"), 1000, silent)
        gate.set()
        await sender.wait(flight, 10, silent)
        following = await sender.send_and_wait(HERE, message("next"), 10, silent)

    assert place.begun == ["slow", "next"]
    assert following.reply == "n"


async def test_an_unexpected_failure_ends_its_own_turn_only() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {
        "bad": at_once([], then=RuntimeError("a bug")),
        "good": when_opened(gate, says("fine")),
        "next": at_once(says("still served")),
    }
    async with sender_at(place) as sender:
        good = sender.send(THERE, message("good"))
        with pytest.raises(ServerFault, match="wait_for_reply") as raised:
            await result(sender, HERE, "bad")
        gate.set()
        fine = await sender.wait(good, 10, silent)
        following = await result(sender, HERE, "next")

    assert "a bug" not in str(raised.value)
    assert (fine.reply, following.reply) == ("fine", "still served")


async def test_a_refused_message_does_not_hold_up_the_next() -> None:
    place = Place()
    place.turns = {
        "refused": at_once([], then=Refused("take the message", "no")),
        "next": at_once(says("yes")),
    }
    async with sender_at(place) as sender:
        refused = sender.send(HERE, message("refused"))
        following = sender.send(HERE, message("next"))
        with pytest.raises(Refused):
            await sender.wait(refused, 10, silent)

        assert (await sender.wait(following, 10, silent)).reply == "yes"


async def test_a_lost_stream_with_a_run_is_followed_to_its_end() -> None:
    place = Place()
    place.turns = {"hello": at_once(says("x", "run-3")[:1], then=StreamLost("gone"))}
    running, done = Run(id="run-3", status="running"), Run(id="run-3", status="completed", stop_reason="end_turn")
    place.runs = {"run-3": [running, running, done]}
    place.chunks = says("the whole reply", "run-3")[1:2]
    async with sender_at(place) as sender:
        turn = await result(sender, HERE, "hello")

    assert (turn.status, turn.reply, turn.run_id) == ("completed", "the whole reply", "run-3")


async def test_a_lost_send_is_found_by_its_otid_once_nothing_runs() -> None:
    place = Place()
    place.turns = {"hello": at_once([], then=StreamLost("gone"))}
    active, done = Run(id="run-4", status="created"), Run(id="run-4", status="completed")
    place.runs = {"run-4": [active, active, done]}
    place.messages = [
        Message(id="m1", kind="user", type="user_message", otid="another", run_id="run-9"),
        Message(id="m2", kind="user", type="user_message", otid="otid of hello", run_id="run-4"),
    ]
    place.chunks = says("found", "run-4")[1:2]
    async with sender_at(place) as sender:
        turn = await result(sender, HERE, "hello")

    assert (turn.status, turn.reply) == ("completed", "found")


async def test_a_lost_send_that_nothing_tells_of_is_unknown() -> None:
    place = Place()
    place.turns = {
        "hello": at_once([], then=StreamLost("gone")),
        "named": at_once(says("x")[:1], then=StreamLost("gone")),
    }
    async with sender_at(place) as sender:
        assert (await result(sender, HERE, "hello")).status == "unknown"
        assert (await result(sender, HERE, "named")).status == "unknown"


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (Run(id="run-1", status="completed"), "completed"),
        (Run(id="run-1", status="failed"), "failed"),
        (Run(id="run-1", status="failed", stop_reason="llm_api_error"), "failed"),
        (Run(id="run-1", status="cancelled"), "cancelled"),
        (Run(id="run-1", status="completed", stop_reason="max_steps"), "completed"),
    ],
)
async def test_a_run_that_has_ended_tells_how(run: Run, status: str) -> None:
    place = Place()
    place.runs = {"run-1": [run]}
    place.chunks = says("text")[1:2]
    async with sender_at(place) as sender:
        turn = await sender.wait(await sender.find(HERE, "run-1"), 10, silent)

    assert turn.status == status


async def test_the_active_run_is_found_before_newer_ones_that_ended() -> None:
    place = Place()
    place.runs = {
        "run-new": [Run(id="run-new", status="completed")],
        "run-active": [Run(id="run-active", status="running"), Run(id="run-active", status="completed")],
    }
    async with sender_at(place) as sender:
        assert (await sender.find(HERE)).run_id == "run-active"


async def test_reports_come_at_once_and_then_in_a_steady_pace_with_useful_words() -> None:
    place, gate = Place(), anyio.Event()
    call: dict[str, Any] = {"name": "web_search", "arguments": "{}", "tool_call_id": "c"}
    chunks: list[Chunk] = [{"message_type": "tool_call_message", "otid": "o", "tool_calls": [call]}, *says("x")]
    place.turns = {"slow": when_opened(gate, chunks)}
    words: list[str] = []
    enough = anyio.Event()

    async def report(said: str) -> None:
        words.append(said)
        if len(words) == 4:
            enough.set()

    async with sender_at(place) as sender, anyio.create_task_group() as tasks:
        flight = sender.send(HERE, message("slow"))
        tasks.start_soon(sender.wait, flight, 30, report)
        with anyio.fail_after(20):
            await enough.wait()
        gate.set()

    assert words[0].endswith(", 0 s")
    assert "running tool web_search" in words[-1]


async def test_leaving_the_sender_ends_the_waiting_at_once() -> None:
    place = Place()
    place.turns = {"for ever": when_opened(anyio.Event(), says("never"))}
    with anyio.fail_after(5):
        async with sender_at(place) as sender:
            flight = sender.send(HERE, message("for ever"))
            await sender.wait(flight, 0.01, silent)

    with pytest.raises(ServerFault):
        flight.result()
