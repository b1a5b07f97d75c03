"""Turns in turn: their order, their waiting, and what is left when something breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest

from letta_conversations_mcp.core.errors import Busy, Refused, ServerFault, TooManyRequests
from letta_conversations_mcp.core.model import Chunk, ConversationRef, OutgoingMessage, Run, Turn
from tests.rig.bounds import HANG_SECONDS
from tests.rig.place import (
    HERE,
    QUICK,
    THERE,
    Place,
    at_once,
    given_up,
    message,
    result,
    says,
    scheduler_at,
    send,
    sending,
    silent,
    start,
    until_gone,
    when_opened,
)
from tests.rig.waiting import Record, at_rest

pytestmark = pytest.mark.asyncio(loop_scope="module")
"""In a loop of its own: `at_rest` would wait for what other tests have started."""


async def test_messages_to_one_conversation_wait_for_each_other_and_others_do_not() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {
        "first": when_opened(gate, says("1")),
        "second": at_once(says("2")),
        "elsewhere": at_once(says("3")),
    }
    async with scheduler_at(place) as scheduler:
        first, second = (start(scheduler, HERE, text) for text in ("first", "second"))
        elsewhere = await result(scheduler, THERE, "elsewhere")
        begun_before = list(place.begun)
        waiting = second.doing
        gate.set()
        replies = [(await scheduler.wait(each, 10, silent)).reply for each in (first, second)]

    assert elsewhere.reply == "3"
    assert begun_before == ["first", "elsewhere"]
    assert "waiting for the turn before it" in waiting
    assert replies == ["1", "2"]


async def test_a_wait_that_is_over_lasts_until_letta_has_the_message() -> None:
    place, arrives, ends = Place(), anyio.Event(), anyio.Event()

    async def think(_: OutgoingMessage) -> AsyncIterator[Chunk]:
        ping, *rest = says("done", "run-7")
        await arrives.wait()
        yield ping
        await ends.wait()
        for chunk in rest:
            yield chunk

    place.turns = {"think": think}
    answers = Record[Turn]()
    answered_before: list[Turn] = []
    async with scheduler_at(place, replace(QUICK, confirm=10)) as scheduler, anyio.create_task_group() as tasks:

        async def call() -> None:
            answers.append(await send(scheduler, HERE, "think", 0))

        tasks.start_soon(call)
        await at_rest()
        answered_before += answers
        arrives.set()
        await answers.until()
        ends.set()

    assert answered_before == []
    assert [(each.status, each.run_id) for each in answers] == [("running", "run-7")]


async def test_a_wait_for_letta_to_take_the_message_has_a_bound() -> None:
    place, arrives = Place(), anyio.Event()
    place.turns = {"think": when_opened(arrives, [{}, *says("done", "run-7")])}
    async with scheduler_at(place) as scheduler:
        with anyio.fail_after(HANG_SECONDS):
            answer = await send(scheduler, HERE, "think", 0)
        arrives.set()

    assert (answer.status, answer.run_id) == ("not_confirmed", "")


async def test_a_turn_that_letta_is_slow_to_show_is_found() -> None:
    class SlowToShow(Place):
        looks = 0

        async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
            self.looks += 1
            return [Run(id="run-7", status="running")] if self.looks > 5 else []

    async with scheduler_at(SlowToShow(), replace(QUICK, settle=10)) as scheduler:
        found = await scheduler.find(HERE)

    assert found.run_id == "run-7"


async def test_a_wait_that_ends_early_shows_what_has_come_and_leaves_the_turn() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": when_opened(gate, says("done", "run-7"))}
    async with scheduler_at(place) as scheduler:
        turn = start(scheduler, HERE, "slow")
        early = await scheduler.wait(turn, 0.05, silent)
        found = scheduler.find_here(HERE, "run-7")
        gate.set()
        late = await scheduler.wait(turn, 10, silent)
        afterwards = scheduler.find_here(HERE)

    assert (early.status, early.run_id) == ("running", "run-7")
    assert found is turn
    assert (late.status, late.reply) == ("completed", "done")
    assert afterwards is None


async def test_a_cancelled_wait_leaves_the_turn_running() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": when_opened(gate, says("done"))}
    async with scheduler_at(place) as scheduler:
        turn = start(scheduler, HERE, "slow")
        await given_up(scheduler.wait, turn, 1000, silent)
        gate.set()
        turn = await scheduler.wait(turn, 10, silent)

    assert turn.reply == "done"


async def test_a_message_whose_place_does_not_come_is_withdrawn() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": when_opened(gate, says("done", "run-7")), "late": at_once(says("never"))}
    async with scheduler_at(place) as scheduler:
        turn = start(scheduler, HERE, "slow")
        with pytest.raises(Busy, match="run-7"):
            await send(scheduler, HERE, "late", 0.05)
        gate.set()
        await scheduler.wait(turn, 10, silent)

    assert place.begun == ["slow"]


async def test_a_message_whose_caller_has_gone_before_its_place_came_is_withdrawn() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": when_opened(gate, says("done")), "left": at_once(says("never")), "next": at_once(says("n"))}
    async with scheduler_at(place) as scheduler:
        turn = start(scheduler, HERE, "slow")
        await given_up(send, scheduler, HERE, "left", 1000)
        gate.set()
        await scheduler.wait(turn, 10, silent)
        following = await send(scheduler, HERE, "next", 10)

    assert place.begun == ["slow", "next"]
    assert following.reply == "n"


async def test_an_unexpected_failure_ends_its_own_turn_only() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {
        "bad": at_once([], then=RuntimeError("a bug")),
        "good": when_opened(gate, says("fine")),
        "next": at_once(says("still served")),
    }
    async with scheduler_at(place) as scheduler:
        good = start(scheduler, THERE, "good")
        with pytest.raises(ServerFault, match="wait_for_reply") as raised:
            await result(scheduler, HERE, "bad")
        gate.set()
        fine = await scheduler.wait(good, 10, silent)
        following = await result(scheduler, HERE, "next")

    assert "a bug" not in str(raised.value)
    assert (fine.reply, following.reply) == ("fine", "still served")


async def test_a_turn_that_the_end_of_the_process_leaves_running_was_not_refused() -> None:
    place = Place()
    place.turns = {"slow": when_opened(anyio.Event(), says("done", "run-7"))}
    async with scheduler_at(place) as scheduler:
        turn = start(scheduler, HERE, "slow")
        await scheduler.wait(turn, 0.05, silent)

    assert turn.ending == "left"


async def test_a_refused_message_does_not_hold_up_the_next() -> None:
    place = Place()
    place.turns = {
        "refused": at_once([], then=Refused("take the message", "no")),
        "next": at_once(says("yes")),
    }
    async with scheduler_at(place) as scheduler:
        refused = start(scheduler, HERE, "refused")
        following = start(scheduler, HERE, "next")
        with pytest.raises(Refused):
            await scheduler.wait(refused, 10, silent)

        assert (await scheduler.wait(following, 10, silent)).reply == "yes"


async def test_a_conversation_that_is_busy_elsewhere_is_waited_for() -> None:
    place = Place()
    busy = at_once([], then=Busy(HERE.conversation_id, "run-else"))
    place.turns = {"hello": [busy, busy, at_once(says("my turn"))]}
    place.runs = {"run-else": [Run(id="run-else", status="running"), Run(id="run-else", status="completed")]}
    async with scheduler_at(place) as scheduler:
        turn = await send(scheduler, HERE, "hello", 10)

    assert turn.reply == "my turn"


@pytest.mark.parametrize("run_id", ["run-else", ""])
async def test_a_message_to_a_conversation_that_stays_busy_is_withdrawn(run_id: str) -> None:
    place = Place()
    place.turns = {"hello": at_once([], then=Busy(HERE.conversation_id, run_id))}
    place.runs = {"run-else": [Run(id="run-else", status="running")]}
    async with scheduler_at(place) as scheduler:
        with pytest.raises(Busy, match="Nothing was sent"):
            await send(scheduler, HERE, "hello", 0.05)
        await until_gone(scheduler)

    assert place.begun == ["hello"]


async def test_a_withdrawn_message_does_not_keep_its_conversation_busy() -> None:
    gone = anyio.Event()

    class SlowToLeave(Place):
        async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
            try:
                await anyio.sleep_forever()
            finally:
                # As a request that was cancelled closes its connection first.
                with anyio.CancelScope(shield=True):
                    await gone.wait()
            raise AssertionError

    place = SlowToLeave()
    place.turns = {
        "withdrawn": at_once([], then=Busy(HERE.conversation_id, "run-else")),
        "next": at_once(says("my turn")),
    }
    async with scheduler_at(place) as scheduler:
        with pytest.raises(Busy):
            await send(scheduler, HERE, "withdrawn", 0.05)
        turn = scheduler.start(sending(HERE, message("next"), on_busy="fail"))
        await at_rest()
        gone.set()
        reply = await scheduler.wait(turn, 10, silent)

    assert reply.reply == "my turn"


async def test_who_does_not_want_to_wait_is_told_at_once_that_it_is_busy() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {
        "slow": when_opened(gate, says("1", "run-7")),
        "elsewhere": at_once([], then=Busy(THERE.conversation_id, "run-8")),
    }
    async with scheduler_at(place) as scheduler:
        slow = start(scheduler, HERE, "slow")
        await scheduler.wait(slow, 0.02, silent)
        with pytest.raises(Busy, match="run-7"):
            await scheduler.send_and_wait(sending(HERE, message("quick"), "fail"), 10, silent)
        with pytest.raises(Busy, match="run-8"):
            await scheduler.send_and_wait(sending(THERE, message("elsewhere"), "fail"), 10, silent)
        gate.set()
        await scheduler.wait(slow, 10, silent)

    assert place.begun == ["slow", "elsewhere"]


async def test_a_server_that_wants_a_pause_gets_it_once() -> None:
    place = Place()
    refusal = TooManyRequests("take the message", 0.01)
    place.turns = {"patient": [at_once([], then=refusal), at_once(says("ok"))], "in vain": at_once([], then=refusal)}
    async with scheduler_at(place) as scheduler:
        assert (await result(scheduler, HERE, "patient")).reply == "ok"
        with pytest.raises(TooManyRequests):
            await result(scheduler, HERE, "in vain")

    assert place.begun == ["patient", "patient", "in vain", "in vain"]


async def test_a_pause_longer_than_the_wait_is_told_instead() -> None:
    place = Place()
    place.turns = {"hello": at_once([], then=TooManyRequests("take the message", 30))}
    async with scheduler_at(place) as scheduler:
        with pytest.raises(TooManyRequests, match="Wait 30 seconds"):
            await send(scheduler, HERE, "hello", 0.05)
        await until_gone(scheduler)

    assert place.begun == ["hello"]


async def test_the_active_run_is_found_before_newer_ones_that_ended() -> None:
    place = Place()
    place.runs = {
        "run-new": [Run(id="run-new", status="completed")],
        "run-active": [Run(id="run-active", status="running"), Run(id="run-active", status="completed")],
    }
    async with scheduler_at(place) as scheduler:
        assert (await scheduler.find(HERE)).run_id == "run-active"


async def test_reports_come_at_once_and_then_in_a_steady_pace_with_useful_words() -> None:
    place, gate = Place(), anyio.Event()
    call: dict[str, Any] = {"name": "web_search", "arguments": "{}", "tool_call_id": "c"}
    chunks: list[Chunk] = [{"message_type": "tool_call_message", "otid": "o", "tool_calls": [call]}, *says("x")]
    place.turns = {"slow": when_opened(gate, chunks)}
    words = Record[str]()

    async def report(said: str) -> None:
        words.append(said)

    async with scheduler_at(place) as scheduler, anyio.create_task_group() as tasks:
        turn = start(scheduler, HERE, "slow")
        tasks.start_soon(scheduler.wait, turn, 30, report)
        await words.until(times=4)
        gate.set()

    assert words[0].endswith(", 0 s")
    assert "running tool web_search" in words[-1]


async def test_leaving_the_sender_ends_the_waiting_at_once() -> None:
    place = Place()
    place.turns = {"for ever": when_opened(anyio.Event(), says("never"))}
    with anyio.fail_after(HANG_SECONDS):
        async with scheduler_at(place) as scheduler:
            turn = start(scheduler, HERE, "for ever")
            await scheduler.wait(turn, 0.01, silent)

    with pytest.raises(ServerFault):
        turn.result()
