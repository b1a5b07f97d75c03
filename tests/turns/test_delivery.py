"""One message, delivered once: what is done when the way to Letta breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest

from letta_conversations_mcp.core.backend import StreamLost
from letta_conversations_mcp.core.errors import (
    AwaitingApproval,
    Busy,
    ConversationError,
    Refused,
    ServerFault,
    TimedOut,
)
from letta_conversations_mcp.core.model import (
    Chunk,
    Message,
    OutgoingMessage,
    Run,
)
from letta_conversations_mcp.settings import Settings
from tests.rig.place import (
    HERE,
    QUICK,
    Place,
    at_once,
    result,
    says,
    scheduler_at,
    send,
    silent,
    when_opened,
)
from tests.rig.waiting import at_rest


async def test_a_lost_stream_with_a_run_is_followed_to_its_end() -> None:
    place = Place()
    place.turns = {"hello": at_once(says("x", "run-3")[:1], then=StreamLost("gone"))}
    running, done = Run(id="run-3", status="running"), Run(id="run-3", status="completed", stop_reason="end_turn")
    place.runs = {"run-3": [running, running, done]}
    place.chunks = says("the whole reply", "run-3")[1:2]
    async with scheduler_at(place) as scheduler:
        turn = await result(scheduler, HERE, "hello")

    assert (turn.status, turn.reply, turn.run_id) == ("completed", "the whole reply", "run-3")


async def test_a_run_whose_stream_is_not_kept_is_polled_and_not_resumed() -> None:
    place = Place()
    running, done = Run(id="run-3", status="running", keeps_stream=False), Run(id="run-3", status="completed")
    place.runs = {"run-3": [running, running, done]}
    place.resumptions = [at_once(says("not this"))]
    place.chunks = says("the whole reply", "run-3")[1:2]
    async with scheduler_at(place) as scheduler:
        turn = await scheduler.wait(await scheduler.find(HERE), 10, silent)

    assert (turn.status, turn.reply, place.resumed) == ("completed", "the whole reply", [])


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
    async with scheduler_at(place) as scheduler:
        turn = await result(scheduler, HERE, "hello")

    assert (turn.status, turn.reply) == ("completed", "found")


async def test_a_message_that_never_arrived_is_handed_over_once_more() -> None:
    place = Place()
    place.turns = {"hello": [at_once([], then=StreamLost("reset")), at_once(says("hi"))]}
    async with scheduler_at(place) as scheduler:
        turn = await result(scheduler, HERE, "hello")

    assert (turn.status, turn.reply) == ("completed", "hi")
    assert place.begun == ["hello", "hello"]


async def test_a_message_that_never_arrives_is_said_not_to_have_been_taken() -> None:
    place = Place()
    place.turns = {"hello": at_once([], then=StreamLost("HTTP 502", 502))}
    async with scheduler_at(place) as scheduler:
        with pytest.raises(ServerFault, match=r"HTTP 502.*safe to send it again"):
            await result(scheduler, HERE, "hello")

    assert place.begun == ["hello", "hello"]


async def test_a_message_that_may_have_arrived_is_never_called_unsent() -> None:
    """A busy server shows a turn late: after the message was searched for, and when it is handed over again."""
    place, handed_over = Place(), anyio.Event()

    async def busy(_: OutgoingMessage) -> AsyncIterator[Chunk]:
        place.runs = {"run-4": [Run(id="run-4", status="running")]}
        handed_over.set()
        raise Busy(HERE.conversation_id, "run-4")
        yield {}

    place.turns = {"hello": [at_once([], then=StreamLost("reset")), busy]}
    async with scheduler_at(place) as scheduler:
        early = await send(scheduler, HERE, "hello", 0)
        await handed_over.wait()
        await at_rest()
        still = await scheduler.wait(await scheduler.find(HERE), 0, silent)
        place.messages = [Message(id="m1", kind="user", type="user_message", otid="otid of hello", run_id="run-4")]
        place.chunks = says("found", "run-4")[1:2]
        place.runs = {"run-4": [Run(id="run-4", status="completed", stop_reason="end_turn")]}
        turn = await scheduler.wait(await scheduler.find(HERE), 10, silent)

    assert (early.status, still.status) == ("not_confirmed", "not_confirmed")
    assert (turn.status, turn.reply) == ("completed", "found")
    assert place.begun == ["hello", "hello"]


async def test_a_message_that_did_not_arrive_is_handed_over_when_its_conversation_is_free() -> None:
    place = Place()
    place.turns = {
        "hello": [
            at_once([], then=StreamLost("reset")),
            at_once([], then=Busy(HERE.conversation_id, "run-9")),
            at_once(says("hi")),
        ]
    }
    place.runs = {"run-9": [Run(id="run-9", status="running"), Run(id="run-9", status="completed")]}
    place.messages = [Message(id="m1", kind="user", type="user_message", otid="of another", run_id="run-9")]
    async with scheduler_at(place) as scheduler:
        turn = await result(scheduler, HERE, "hello")

    assert (turn.status, turn.reply) == ("completed", "hi")
    assert place.begun == ["hello", "hello", "hello"]


@pytest.mark.parametrize(
    "refusal",
    [AwaitingApproval(HERE.conversation_id), Refused("take the message", "a turn is stuck here", "Nothing was sent.")],
    ids=["a call waits", "refused"],
)
async def test_a_refusal_is_believed_only_if_the_message_did_not_arrive_before(refusal: ConversationError) -> None:
    place = Place()

    async def arrives_late(_: OutgoingMessage) -> AsyncIterator[Chunk]:
        place.runs = {"run-4": [Run(id="run-4", status="completed", stop_reason="requires_approval")]}
        place.messages = [Message(id="m1", kind="user", type="user_message", otid="otid of again", run_id="run-4")]
        raise refusal
        yield {}

    place.turns = {
        "hello": [at_once([], then=StreamLost("reset")), at_once([], then=refusal)],
        "again": [at_once([], then=StreamLost("reset")), arrives_late],
    }
    async with scheduler_at(place) as scheduler:
        with pytest.raises(type(refusal)):
            await result(scheduler, HERE, "hello")
        turn = await result(scheduler, HERE, "again")

    assert (turn.run_id, turn.stop_reason) == ("run-4", "requires_approval")


async def test_a_failed_run_is_anothers_where_the_server_knows_every_otid() -> None:
    """Its stream is still there, so the otid of ours would be too."""
    place = Place()
    place.turns = {"hello": [at_once([], then=StreamLost("reset")), at_once(says("hi"))]}
    place.runs = {"run-2": [Run(id="run-2", status="failed", created_at="2999-01-01T00:00:00Z")]}
    place.resumptions = [at_once([{"message_type": "ping", "run_id": "run-2", "seq_id": 1}]) for _ in range(100)]
    async with scheduler_at(place) as scheduler:
        turn = await result(scheduler, HERE, "hello")

    assert (turn.status, turn.reply) == ("completed", "hi")


def numbered(chunks: list[Chunk], first: int = 1) -> list[Chunk]:
    return [{**chunk, "seq_id": number} for number, chunk in enumerate(chunks, first)]


async def test_a_stream_that_lost_a_part_is_not_believed() -> None:
    """Redis was restarted: what it had of the stream is gone, and the run has the whole reply."""
    place = Place()
    place.turns = {"hello": at_once(numbered(says("x"))[:1], then=StreamLost("gone"))}
    place.resumptions = [at_once(numbered(says("the half"), first=5))]
    place.runs = {"run-1": [Run(id="run-1", status="completed", stop_reason="end_turn")]}
    place.chunks = says("the whole reply")[1:2]
    async with scheduler_at(place) as scheduler:
        turn = await result(scheduler, HERE, "hello")

    assert (turn.status, turn.reply) == ("completed", "the whole reply")


PING: Chunk = {"message_type": "ping", "run_id": "run-1", "seq_id": 1}


async def only_pings(_: OutgoingMessage) -> AsyncIterator[Chunk]:
    """As the server sends them to every reader of a run's stream, also when nothing works on it any more (0.16.8)."""
    while True:
        await anyio.lowlevel.checkpoint()
        yield PING


DEAD_SOON = replace(QUICK, silence=0.02)


async def test_a_run_whose_stream_has_nothing_but_pings_is_dead_in_the_end() -> None:
    place = Place()
    place.turns = {"hello": at_once([PING], then=StreamLost("gone"))}
    place.resumptions = [only_pings]
    place.runs = {"run-1": [Run(id="run-1", status="running")]}
    async with scheduler_at(place, DEAD_SOON) as scheduler:
        turn = await result(scheduler, HERE, "hello")

    assert (turn.status, turn.stop_reason) == ("failed", "died")


async def test_a_run_that_another_process_began_is_dead_in_the_end_too() -> None:
    place = Place()
    place.resumptions = [only_pings]
    place.runs = {"run-1": [Run(id="run-1", status="running")]}
    async with scheduler_at(place, DEAD_SOON) as scheduler:
        turn = await scheduler.wait(await scheduler.find(HERE, "run-1"), 10, silent)

    assert (turn.status, turn.stop_reason) == ("failed", "died")


async def test_the_reply_of_another_processes_turn_grows_as_it_is_waited_for() -> None:
    place, gate = Place(), anyio.Event()
    place.resumptions = [when_opened(gate, numbered(says("half")[:2])), at_once([])]
    running = Run(id="run-1", status="running")
    place.runs = {"run-1": [running]}
    async with scheduler_at(place) as scheduler:
        found = await scheduler.find(HERE, "run-1")
        gate.set()
        early = await scheduler.wait(found, 0.05, silent)
        place.runs = {"run-1": [Run(id="run-1", status="completed", stop_reason="end_turn")]}
        place.chunks = says("half and whole")[1:2]
        late = await scheduler.wait(found, 10, silent)

    assert (early.status, early.reply) == ("running", "half")
    assert (late.status, late.reply) == ("completed", "half and whole")


async def test_a_run_that_failed_since_is_the_fate_of_a_message_without_a_trace() -> None:
    place = Place()
    place.turns = {"hello": at_once([], then=StreamLost("reset"))}
    before = Run(id="run-1", status="failed", created_at="2001-01-01T00:00:00Z")
    since = Run(id="run-2", status="failed", stop_reason="llm_api_error", created_at="2999-01-01T00:00:00Z")
    place.runs = {"run-1": [before], "run-2": [since]}
    async with scheduler_at(place) as scheduler:
        turn = await result(scheduler, HERE, "hello")

    assert (turn.status, turn.run_id) == ("failed", "run-2")
    assert place.begun == ["hello"]


async def test_a_fate_that_letta_cannot_be_asked_about_is_unknown() -> None:
    place = Place()
    place.turns = {"named": at_once(says("x")[:1], then=StreamLost("gone"))}
    async with scheduler_at(place) as scheduler:
        assert (await result(scheduler, HERE, "named")).status == "unknown"


async def test_a_stream_is_taken_up_again_where_it_broke() -> None:
    place = Place()
    numbered = [{**chunk, "seq_id": number} for number, chunk in enumerate(says("the reply")[:2], 1)]
    place.turns = {"hello": at_once(numbered[:1], then=StreamLost("gone"))}
    place.resumptions = [
        at_once([], then=StreamLost("again")),
        at_once(numbered, then=StreamLost("and again")),
        at_once(says("")[2:]),
    ]
    async with scheduler_at(place) as scheduler:
        turn = await result(scheduler, HERE, "hello")

    assert (turn.status, turn.reply) == ("completed", "the reply")
    assert place.resumed == [("run-1", 1), ("run-1", 1), ("run-1", 2)]
    assert place.begun == ["hello"]


async def test_a_stream_that_cannot_be_taken_up_is_asked_after() -> None:
    place = Place()
    place.turns = {"hello": at_once(says("x", "run-3")[:1], then=StreamLost("gone"))}
    place.resumptions = [at_once([], then=StreamLost("no")) for _ in range(3)]
    place.runs = {"run-3": [Run(id="run-3", status="completed")]}
    place.chunks = says("stored", "run-3")[1:2]
    async with scheduler_at(place) as scheduler:
        turn = await result(scheduler, HERE, "hello")

    assert turn.reply == "stored"


async def test_a_turn_is_not_followed_for_ever() -> None:
    place = Place()
    place.turns = {"endless": when_opened(anyio.Event(), says("never")), "next": at_once(says("yes"))}
    async with scheduler_at(place, settings=Settings(turn_timeout=0.05)) as scheduler:
        with pytest.raises(TimedOut, match="wait_for_reply"):
            await result(scheduler, HERE, "endless")

        assert (await result(scheduler, HERE, "next")).reply == "yes"


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
    async with scheduler_at(place) as scheduler:
        turn = await scheduler.wait(await scheduler.find(HERE, "run-1"), 10, silent)

    assert turn.status == status
