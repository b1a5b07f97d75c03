"""A message that comes once more because its caller gave up: to this process, and to another one."""

from __future__ import annotations

from typing import cast

import anyio
import pytest

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import Busy
from letta_conversations_mcp.core.model import Chunk, ConversationRef, Message, MessageQuery, OutgoingMessage, Page, Run
from letta_conversations_mcp.turns.message_ids import new_otid
from tests.rig.place import (
    HERE,
    THERE,
    Place,
    at_once,
    message,
    result,
    says,
    sender_at,
    silent,
    until_gone,
    when_opened,
)


async def test_a_message_that_comes_again_while_its_turn_runs_is_not_sent_a_second_time() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": when_opened(gate, says("done", "run-7"))}
    async with sender_at(place) as sender:
        with anyio.move_on_after(0.05):
            await sender.send_and_wait(HERE, message("slow"), 1000, silent)
        early = await sender.send_and_wait(HERE, message("slow", "another otid"), 0.05, silent, wait_if_busy=False)
        gate.set()
        late = await sender.send_and_wait(HERE, message("slow", "another otid"), 10, silent)

    assert place.begun == ["slow"]
    assert (early.status, early.run_id, early.repeated) == ("running", "run-7", True)
    assert (late.status, late.reply, late.repeated) == ("completed", "done", True)


async def test_a_reply_that_nobody_was_told_answers_the_same_message_once() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": [when_opened(gate, says("first")), at_once(says("second"))]}
    async with sender_at(place) as sender:
        with anyio.move_on_after(0.05):
            await sender.send_and_wait(HERE, message("slow"), 1000, silent)
        gate.set()
        await until_gone(sender)
        again = await sender.send_and_wait(HERE, message("slow", "another otid"), 10, silent)
        anew = await sender.send_and_wait(HERE, message("slow"), 10, silent)

    assert place.begun == ["slow", "slow"]
    assert (again.reply, again.repeated) == ("first", True)
    assert (anew.reply, anew.repeated) == ("second", False)


async def test_a_reply_that_was_waited_for_or_overtaken_answers_no_message_that_comes_later() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {
        "slow": [when_opened(gate, says("first")), at_once(says("second")), at_once(says("third"))],
        "other": at_once(says("other")),
    }
    async with sender_at(place) as sender:
        with anyio.move_on_after(0.05):
            await sender.send_and_wait(HERE, message("slow"), 1000, silent)
        found = await sender.find(HERE)
        gate.set()
        await sender.wait(found, 10, silent)
        after_waiting = await sender.send_and_wait(HERE, message("slow"), 10, silent)
        await result(sender, HERE, "other")
        after_another = await sender.send_and_wait(HERE, message("slow"), 10, silent)

    assert [after_waiting.reply, after_another.reply] == ["second", "third"]


async def test_the_same_message_of_another_caller_or_elsewhere_is_another_message() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": [when_opened(gate, says("one")), at_once(says("two")), at_once(says("three"))]}
    async with sender_at(place) as sender:
        bob = sender.on_behalf_of("bob", cast("Backend", place))
        first = sender.send(HERE, message("slow"))
        there = await sender.send_and_wait(THERE, message("slow"), 10, silent)
        with pytest.raises(Busy):
            await bob.send_and_wait(HERE, message("slow"), 0.05, silent)
        gate.set()
        await sender.wait(first, 10, silent)
        of_bob = await bob.send_and_wait(HERE, message("slow"), 10, silent)

    assert (there.reply, of_bob.reply) == ("two", "three")


async def test_a_failed_message_that_comes_again_is_sent_again() -> None:
    place, gate = Place(), anyio.Event()
    failed: list[Chunk] = [{"message_type": "ping"}, {"message_type": "stop_reason", "stop_reason": "llm_api_error"}]
    place.turns = {"slow": [when_opened(gate, failed), at_once(says("now"))]}
    async with sender_at(place) as sender:
        with anyio.move_on_after(0.05):
            await sender.send_and_wait(HERE, message("slow"), 1000, silent)
        gate.set()
        await until_gone(sender)
        again = await sender.send_and_wait(HERE, message("slow"), 10, silent)

    assert (again.reply, again.repeated) == ("now", False)


def held_by(place: Place, asked: OutgoingMessage, caller: str = "") -> None:
    """Let another process be at work on a message here: run-7, which ends and says "done"."""
    place.runs = {"run-7": [Run(id="run-7", status="running"), Run(id="run-7", status="completed")]}
    otid = new_otid(asked, caller)
    place.messages = [Message(id="m1", kind="user", type="user_message", otid=otid, run_id="run-7")]
    place.chunks = says("done", "run-7")


@pytest.mark.parametrize("wait_if_busy", [True, False])
async def test_a_message_that_another_process_has_for_the_same_caller_is_not_sent_a_second_time(
    wait_if_busy: bool,
) -> None:
    place, asked = Place(), OutgoingMessage(text="hello")
    held_by(place, asked)
    place.turns = {"hello": at_once([], then=Busy("conv-1", "run-7"))}
    async with sender_at(place) as sender:
        turn = await sender.send_and_wait(HERE, asked, 10, silent, wait_if_busy=wait_if_busy)

    assert place.begun == ["hello"]
    assert (turn.status, turn.reply, turn.run_id, turn.repeated) == ("completed", "done", "run-7", True)


async def test_a_message_that_another_process_has_is_known_again_when_it_is_listed_with_its_reply() -> None:
    class SlowToList(Place):
        looks = 0

        async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
            self.looks += 1
            return Page(items=tuple(self.messages if self.looks > 1 else ()))

    place, asked = SlowToList(), OutgoingMessage(text="hello")
    held_by(place, asked)
    place.turns = {"hello": at_once([], then=Busy("conv-1", "run-7"))}
    async with sender_at(place) as sender:
        turn = await sender.send_and_wait(HERE, asked, 10, silent)

    assert place.begun == ["hello"]
    assert (turn.reply, turn.repeated) == ("done", True)


async def test_a_call_that_ends_before_the_turn_of_another_process_names_its_run() -> None:
    place, asked = Place(), OutgoingMessage(text="hello")
    held_by(place, asked)
    place.runs["run-7"] = [Run(id="run-7", status="running")]
    place.turns = {"hello": at_once([], then=Busy("conv-1", "run-7"))}
    async with sender_at(place) as sender:
        turn = await sender.send_and_wait(HERE, asked, 0, silent)

    assert (turn.status, turn.run_id, turn.repeated) == ("running", "run-7", True)


@pytest.mark.parametrize(
    ("asked", "caller", "run_id"),
    [("another", "", "run-7"), ("hello", "bob", "run-7"), ("hello", "", "run-6"), ("hello", "", "")],
)
async def test_what_another_process_has_of_others_or_had_before_is_another_message(
    asked: str, caller: str, run_id: str
) -> None:
    place = Place()
    held_by(place, OutgoingMessage(text=asked), caller)
    place.runs["run-6"] = [Run(id="run-6", status="completed")]
    place.turns = {"hello": [at_once([], then=Busy("conv-1", run_id)), at_once(says("to this one"))]}
    async with sender_at(place) as sender:
        turn = await sender.send_and_wait(HERE, OutgoingMessage(text="hello"), 10, silent)

    assert place.begun == ["hello", "hello"]
    assert (turn.reply, turn.repeated) == ("to this one", False)
