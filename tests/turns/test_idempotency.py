"""Which calls are one message: by key, by evidence, and across processes."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

import anyio
import pytest

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import Busy, ConversationError, InvalidArgument
from letta_conversations_mcp.core.model import Message, Run, Turn
from letta_conversations_mcp.turns import idempotency
from letta_conversations_mcp.turns.idempotency import CallIdentity, fingerprint
from letta_conversations_mcp.turns.scheduler import Scheduler
from tests.rig.place import (
    HERE,
    THERE,
    Place,
    at_once,
    given_up,
    message,
    says,
    scheduler_at,
    sending,
    silent,
    until_gone,
    when_opened,
)
from tests.rig.waiting import at_rest

pytestmark = pytest.mark.asyncio(loop_scope="module")
"""In a loop of its own: `at_rest` would wait for what other tests have started."""


async def call(scheduler: Scheduler, text: str, seconds: float = 10, **identity: str) -> Turn:
    turn, _ = await scheduler.send_and_wait(
        sending(HERE, message(text, otid=str(uuid.uuid4())), identity=identity), seconds, silent
    )
    return turn


async def give_up(scheduler: Scheduler, text: str, **identity: str) -> None:
    """A call that its client cancels while the turn runs."""
    await given_up(partial(call, scheduler, text, 1000, **identity))


# Evidence (a): the call was cancelled, or its connection ended


async def test_a_cancelled_call_that_is_made_again_joins_its_turn() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": when_opened(gate, says("done", "run-7"))}
    async with scheduler_at(place) as scheduler:
        await give_up(scheduler, "slow")
        early = await call(scheduler, "slow", 0.05)
        gate.set()
        await until_gone(scheduler)

    assert place.begun == ["slow"]
    assert (early.status, early.run_id, early.repeated) == ("running", "run-7", True)


async def test_the_reply_to_a_cancelled_call_answers_its_repetition_once() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": [when_opened(gate, says("first")), at_once(says("second"))]}
    async with scheduler_at(place) as scheduler:
        await give_up(scheduler, "slow")
        gate.set()
        await until_gone(scheduler)
        again = await call(scheduler, "slow")
        anew = await call(scheduler, "slow")

    assert (again.reply, again.repeated) == ("first", True)
    assert (anew.reply, anew.repeated) == ("second", False)


async def test_an_answered_call_is_no_evidence_while_another_like_it_is_cancelled() -> None:
    """Only the call that was given up is repeated, not one that was answered before."""
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": [at_once(says("first")), when_opened(gate, says("second"))]}
    async with scheduler_at(place) as scheduler:
        answered = await call(scheduler, "slow")
        await give_up(scheduler, "slow")
        gate.set()
        again = await call(scheduler, "slow")

    assert (answered.reply, answered.repeated) == ("first", False)
    assert (again.reply, again.repeated) == ("second", True)


async def test_the_reply_to_a_cancelled_call_is_kept_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": [when_opened(gate, says("first")), at_once(says("second"))]}
    async with scheduler_at(place) as scheduler:
        await give_up(scheduler, "slow")
        gate.set()
        await until_gone(scheduler)
        monkeypatch.setattr(idempotency, "KEPT_SECONDS", 0.0)
        monkeypatch.setattr(idempotency, "REPEATED_WITHIN_SECONDS", 0.0)
        later = await call(scheduler, "slow")

    assert (later.reply, later.repeated) == ("second", False)


async def test_a_repetition_that_is_cancelled_too_may_be_made_again() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": when_opened(gate, says("done"))}
    async with scheduler_at(place) as scheduler:
        await give_up(scheduler, "slow")
        await give_up(scheduler, "slow")
        gate.set()
        third = await call(scheduler, "slow")

    assert place.begun == ["slow"]
    assert third.reply == "done"


@pytest.mark.parametrize("other", [{"caller": "bob"}, {"target": "elsewhere"}, {"call": "another text"}])
async def test_a_call_that_differs_in_anything_is_another_message(other: dict[str, str]) -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": [when_opened(gate, says("first")), at_once(says("second"))]}
    async with scheduler_at(place) as scheduler:
        await give_up(scheduler, "slow")
        gate.set()
        await until_gone(scheduler)
        turn = await call(scheduler, "slow", 10, **other)

    assert (turn.reply, turn.repeated) == ("second", False)


@pytest.mark.parametrize("stop", ["llm_api_error", "cancelled"])
async def test_a_turn_that_failed_or_was_stopped_is_not_the_answer_to_a_repetition(stop: str) -> None:
    place, gate = Place(), anyio.Event()
    ended = [{"message_type": "ping"}, {"message_type": "stop_reason", "stop_reason": stop}]
    place.turns = {"slow": [when_opened(gate, ended), at_once(says("now"))]}
    async with scheduler_at(place) as scheduler:
        await give_up(scheduler, "slow")
        gate.set()
        await until_gone(scheduler)
        again = await call(scheduler, "slow")

    assert (again.reply, again.repeated) == ("now", False)


# No evidence


async def test_a_call_that_was_answered_is_sent_again() -> None:
    place = Place()
    place.turns = {"continue": [at_once(says("one")), at_once(says("two"))]}
    async with scheduler_at(place) as scheduler:
        replies = [(await call(scheduler, "continue", session="s")).reply for _ in range(2)]

    assert replies == ["one", "two"]


async def test_a_call_that_was_answered_running_is_not_taken_for_one_that_gave_up() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": [when_opened(gate, says("one")), at_once(says("two"))]}
    async with scheduler_at(place) as scheduler:
        running = await call(scheduler, "slow", 0.05, session="s")
        gate.set()
        again = await call(scheduler, "slow", session="s")

    assert running.status == "running"
    assert (again.reply, again.repeated) == ("two", False)


async def test_the_same_call_made_several_times_at_once_is_as_many_messages() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"hello": [when_opened(gate, says("1")), when_opened(gate, says("2")), when_opened(gate, says("3"))]}
    replies: list[str] = []
    async with scheduler_at(place) as scheduler, anyio.create_task_group() as calls:

        async def one() -> None:
            replies.append((await call(scheduler, "hello", session="s")).reply)

        for _ in range(3):
            calls.start_soon(one)
        await at_rest()
        gate.set()

    assert sorted(replies) == ["1", "2", "3"]


# Evidence (b) and (c): a session that gives up silently


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first call counts as old at once."""
    monkeypatch.setattr(idempotency, "SILENT_AFTER_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
async def test_a_session_that_repeats_an_unanswered_call_joins_it_and_so_does_its_next_repetition() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": [when_opened(gate, says("one")), at_once(says("two"))], "other": at_once(says("x"))}
    answers: list[Turn] = []
    async with scheduler_at(place) as scheduler, anyio.create_task_group() as calls:

        async def one() -> None:
            answers.append(await call(scheduler, "slow", session="s"))

        calls.start_soon(one)
        await at_rest()
        calls.start_soon(one)
        await at_rest()
        gate.set()
        await until_gone(scheduler)
        answers.append(await call(scheduler, "slow", session="s"))

    assert place.begun == ["slow"]
    assert [each.reply for each in answers] == ["one", "one", "one"]


@pytest.mark.usefixtures("impatient")
async def test_a_session_that_gives_up_silently_gets_an_answer_again_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": [when_opened(gate, says("one")), at_once(says("two"))]}
    async with scheduler_at(place) as scheduler:
        async with anyio.create_task_group() as calls:
            for _ in range(2):
                calls.start_soon(lambda: call(scheduler, "slow", session="s"))
                await at_rest()
            gate.set()
        monkeypatch.setattr(idempotency, "REPEATED_WITHIN_SECONDS", 0.0)
        later = await call(scheduler, "slow", session="s")

    assert (later.reply, later.repeated) == ("two", False)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("first", "second"), [("s", "another"), ("", "")])
async def test_another_session_or_none_is_not_joined(first: str, second: str) -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"slow": [when_opened(gate, says("one")), at_once(says("two"))]}
    async with scheduler_at(place) as scheduler, anyio.create_task_group() as calls:

        async def one(session: str) -> None:
            await call(scheduler, "slow", session=session)

        calls.start_soon(one, first)
        await at_rest()
        calls.start_soon(one, second)
        await at_rest()
        gate.set()

    assert place.begun == ["slow", "slow"]


# Keys


async def test_a_key_names_one_message_in_one_process() -> None:
    place = Place()
    place.turns = {"pay": at_once(says("paid"))}
    async with scheduler_at(place) as scheduler:
        answers = [await call(scheduler, "pay", key="invoice 7") for _ in range(3)]

    assert place.begun == ["pay"]
    assert [(each.reply, each.repeated) for each in answers] == [("paid", False), ("paid", True), ("paid", True)]


async def test_a_key_with_another_text_is_refused() -> None:
    place = Place()
    place.turns = {"pay": at_once(says("paid"))}
    async with scheduler_at(place) as scheduler:
        await call(scheduler, "pay", key="invoice 7")
        with pytest.raises(InvalidArgument, match="message_key"):
            await call(scheduler, "pay twice", key="invoice 7")

    assert place.begun == ["pay"]


def keyed(text: str, key: str, **identity: str) -> tuple[str, CallIdentity]:
    """The otid that Letta knows a message with a key by."""
    named = CallIdentity(target=str(HERE), call=fingerprint(text), key=key, **identity)
    return named.otid(HERE), named


def stored(otid: str, text: str, run_id: str = "run-7") -> Message:
    return Message(id="message-1", kind="user", type="user_message", text=text, otid=otid, run_id=run_id)


async def call_with_key(place: Place, text: str, key: str) -> Turn:
    """The call as another process makes it, which remembers nothing."""
    outcome: Turn | ConversationError
    async with scheduler_at(place) as scheduler:
        send = sending(HERE, message(text).model_copy(update={"otid": ""}), identity={"key": key})
        try:
            outcome, _ = await scheduler.send_and_wait(send, 10, silent)
        except ConversationError as error:
            # Raised below: leaving the task group with it would wrap it.
            outcome = error
    if isinstance(outcome, ConversationError):
        raise outcome
    return outcome


async def test_a_message_with_a_key_is_found_in_the_history_however_long_its_turn_was() -> None:
    place = Place()
    otid, _ = keyed("pay", "k")
    later = [Message(id=f"message-{n}", kind="tool", type="tool_return_message", run_id="run-7") for n in range(2, 99)]
    place.messages = [stored(otid, "pay"), *later]
    place.runs = {"run-7": [Run(id="run-7", status="completed")]}
    place.chunks = says("paid", "run-7")

    turn = await call_with_key(place, "pay", "k")

    assert place.begun == []
    assert (turn.status, turn.reply, turn.repeated) == ("completed", "paid", True)


async def test_a_message_with_a_key_is_found_by_what_the_server_keeps_of_otids() -> None:
    place = Place()
    otid, _ = keyed("pay", "k")
    place.runs_of_otids = {otid: "run-7"}
    place.runs = {"run-7": [Run(id="run-7", status="completed")]}
    place.chunks = says("paid", "run-7")

    turn = await call_with_key(place, "pay", "k")

    assert (place.begun, turn.reply) == ([], "paid")


async def test_the_run_of_a_keyed_message_is_polled_if_its_stream_is_not_kept() -> None:
    place = Place()
    otid, _ = keyed("pay", "k")
    place.runs_of_otids = {otid: "run-7"}
    running = Run(id="run-7", status="running", keeps_stream=False)
    place.runs = {"run-7": [running, running, Run(id="run-7", status="completed")]}
    place.resumptions = [at_once(says("not this"))]
    place.chunks = says("paid", "run-7")

    turn = await call_with_key(place, "pay", "k")

    assert (place.begun, place.resumed, turn.reply) == ([], [], "paid")


async def test_another_key_or_the_same_text_without_one_is_another_message() -> None:
    place = Place()
    otid, _ = keyed("pay", "k")
    place.messages = [stored(otid, "pay")]
    place.runs = {"run-7": [Run(id="run-7", status="completed")]}
    place.turns = {"pay": at_once(says("again"))}

    turn = await call_with_key(place, "pay", "another")

    assert (place.begun, turn.reply, turn.repeated) == (["pay"], "again", False)


async def test_a_key_that_another_process_used_for_another_text_is_refused() -> None:
    place = Place()
    otid, _ = keyed("pay", "k")
    place.messages = [stored(otid, "something else")]
    place.runs = {"run-7": [Run(id="run-7", status="completed")]}

    with pytest.raises(InvalidArgument, match="message_key"):
        await call_with_key(place, "pay", "k")

    assert place.begun == []


async def test_a_message_whose_run_failed_is_sent_again_under_its_key_with_another_otid() -> None:
    place = Place()
    otid, identity = keyed("pay", "k")
    place.runs_of_otids = {otid: "run-7"}
    place.runs = {"run-7": [Run(id="run-7", status="failed")]}
    place.turns = {"pay": at_once(says("now"))}

    turn = await call_with_key(place, "pay", "k")

    assert (turn.reply, turn.repeated) == ("now", False)
    assert identity.otid(HERE, 1) != otid


@pytest.mark.parametrize("key", ["k", "otid:11111111-1111-4111-8111-111111111111"])
async def test_whoever_waits_for_a_message_whose_run_failed_is_given_that_failure(key: str) -> None:
    place = Place()
    identity = CallIdentity(key=key)
    place.runs_of_otids = {identity.otid(HERE): "run-7"}
    place.runs = {"run-7": [Run(id="run-7", status="failed")]}
    async with scheduler_at(place) as scheduler:
        found = await scheduler.find_message(HERE, identity)

    assert found is not None
    assert found.run_id == "run-7"


async def test_a_key_that_only_looks_like_an_otid_is_a_key_like_any_other() -> None:
    otid = CallIdentity(key="otid:somebody's").otid(HERE)

    assert uuid.UUID(otid).version == 4


async def test_a_history_too_long_to_be_searched_is_said_to_be() -> None:
    place = Place()
    place.messages = [
        Message(id=f"message-{n}", kind="user", type="user_message", text="old", otid=f"{n}", run_id="run-1")
        for n in range(700)
    ]
    place.turns = {"pay": at_once(says("paid"))}

    turn = await call_with_key(place, "pay", "k")

    assert "newest part only" in turn.note


async def test_a_key_is_of_one_caller_and_one_conversation() -> None:
    mine = CallIdentity(caller="ann", key="k", call="c")

    assert mine.otid(HERE) == CallIdentity(caller="ann", key="k", call="another").otid(HERE)
    assert mine.otid(HERE) != mine.otid(THERE)
    assert mine.otid(HERE) != CallIdentity(caller="bob", key="k", call="c").otid(HERE)


# Other processes

BEFORE = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
LATER = (datetime.now(UTC) + timedelta(hours=1)).isoformat()


def held_by(place: Place, otid: str, created_at: str) -> None:
    """Let another process be at work on a message here: run-7, which ends and says "done"."""
    run = Run(id="run-7", status="running", created_at=created_at)
    place.runs = {"run-7": [run, run, run.model_copy(update={"status": "completed"})]}
    place.messages = [stored(otid, "hello")]
    place.chunks = says("done", "run-7")
    place.turns = {"hello": [at_once([], then=Busy("conv-1", "run-7")), at_once(says("to this one"))]}


HELLO = CallIdentity(request="3", target=str(HERE), call=fingerprint("hello"))


@pytest.mark.parametrize(
    ("theirs", "created_at", "joins"),
    [
        pytest.param(HELLO, LATER, True, id="a verbatim copy of the request"),
        pytest.param(CallIdentity(**{**vars(HELLO), "request": "9"}), BEFORE, True, id="an older call"),
        pytest.param(CallIdentity(**{**vars(HELLO), "request": "9"}), LATER, False, id="a call beside this process"),
        pytest.param(CallIdentity(**{**vars(HELLO), "caller": "bob"}), BEFORE, False, id="another caller"),
        pytest.param(CallIdentity(**{**vars(HELLO), "call": "other"}), BEFORE, False, id="another text"),
    ],
)
async def test_a_turn_of_another_process_is_joined_only_on_evidence(
    theirs: CallIdentity, created_at: str, joins: bool
) -> None:
    place = Place()
    held_by(place, theirs.otid(HERE), created_at)
    async with scheduler_at(place) as scheduler:
        send = sending(HERE, message("hello").model_copy(update={"otid": ""}), identity={"request": "3"})
        turn, _ = await scheduler.send_and_wait(send, 10, silent)

    assert (turn.reply, turn.repeated) == (("done", True) if joins else ("to this one", False))


async def test_a_run_that_letta_created_after_this_process_began_is_joined_if_its_message_is_older() -> None:
    call = {"target": str(HERE), "call": fingerprint("hello")}
    place = Place()
    a_second_older = uuid.UUID(int=uuid.UUID(CallIdentity(**call).otid(HERE)).int - (1000 << 80))
    held_by(place, str(a_second_older), LATER)
    async with scheduler_at(place) as scheduler:
        send = sending(HERE, message("hello").model_copy(update={"otid": ""}))
        turn, _ = await scheduler.send_and_wait(send, 10, silent)

    assert (turn.reply, turn.repeated) == ("done", True)


async def test_a_message_that_was_made_after_this_process_began_is_anothers() -> None:
    call = {"target": str(HERE), "call": fingerprint("hello")}
    place = Place()
    async with scheduler_at(place) as scheduler:
        held_by(place, CallIdentity(**call).otid(HERE), LATER)
        send = sending(HERE, message("hello").model_copy(update={"otid": ""}))
        turn, _ = await scheduler.send_and_wait(send, 10, silent)

    assert (turn.reply, turn.repeated) == ("to this one", False)


async def test_a_busy_conversation_whose_run_is_not_named_yet_is_asked_for_it() -> None:
    place = Place()
    held_by(place, HELLO.otid(HERE), LATER)
    place.turns = {"hello": at_once([], then=Busy("conv-1", ""))}
    async with scheduler_at(place) as scheduler:
        send = sending(HERE, message("hello").model_copy(update={"otid": ""}), identity={"request": "3"})
        turn, _ = await scheduler.send_and_wait(send, 10, silent)

    assert (turn.reply, turn.repeated) == ("done", True)


async def test_otids_are_uuids_and_differ_for_every_send() -> None:
    call = CallIdentity(call=fingerprint("hello"))
    otids = {call.otid(HERE) for _ in range(100)}

    assert len(otids) == 100
    assert {uuid.UUID(each).version for each in otids} == {4}


async def test_a_request_with_an_id_of_its_own_has_always_the_same_otid() -> None:
    assert HELLO.otid(HERE) == HELLO.otid(HERE)
    for other in ({"request": "9"}, {"caller": "bob"}, {"session": "s"}, {"call": "other"}):
        assert HELLO.otid(HERE) != CallIdentity(**{**vars(HELLO), **other}).otid(HERE)


async def test_a_call_that_was_given_up_is_not_joined_from_elsewhere() -> None:
    place, gate = Place(), anyio.Event()
    place.turns = {"hello": [when_opened(gate, says("to the first", "run-7")), at_once(says("to the second"))]}
    async with scheduler_at(place) as scheduler:
        await give_up(scheduler, "hello", origin="here")
        gate.set()
        other = await call(scheduler, "hello", origin="there")

    assert (other.reply, other.repeated) == ("to the second", False)


async def test_a_foreign_otid_is_never_recognised() -> None:
    assert not HELLO.is_same_call("")
    assert not HELLO.is_same_call("message-of-somebody-else")


async def test_callers_are_told_apart_by_their_token() -> None:
    place = Place()
    place.turns = {"hello": at_once(says("hi"))}
    async with scheduler_at(place) as scheduler:
        assert scheduler.on_behalf_of("bob", cast("Backend", place)).caller == "bob"
