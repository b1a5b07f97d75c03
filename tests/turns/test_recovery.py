"""The search for a message with a key, while a turn runs that does not show its message yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import cast

import anyio
import pytest

from letta_conversations_mcp.core.backend import Backend, StreamLost
from letta_conversations_mcp.core.model import Chunk, ConversationRef, Message, OutgoingMessage, Run
from letta_conversations_mcp.turns.idempotency import CallIdentity
from letta_conversations_mcp.turns.recovery import PAGE, KeySearch, find_by_key
from tests.rig.bounds import HANG_SECONDS
from tests.rig.place import HERE, QUICK, Place, message

KEYED = CallIdentity(target=str(HERE), key="monday")


class Thinking(Place):
    """An active turn that shows its message when it is asked for the third time. Its stream is kept, if any is."""

    def __init__(self, otid: str, *, keeps_streams: bool, otid_is_lost: bool = False) -> None:
        super().__init__()
        self.runs = {"run-1": [Run(id="run-1", status="running")]}
        self.resumptions = [_pings] if keeps_streams else None
        self._otid = otid
        self._otid_is_lost = otid_is_lost
        self.looks = 0

    async def run_of_otid(self, ref: ConversationRef, otid: str) -> str:
        if self._otid_is_lost:
            raise StreamLost("the connection broke")
        return await super().run_of_otid(ref, otid)

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        self.looks += 1
        if self.looks == 3:
            self.messages = [Message(id="m", kind="user", type="user_message", otid=self._otid, run_id="run-1")]
        return await super().get_run(ref, run_id)


async def _pings(_: OutgoingMessage) -> AsyncIterator[Chunk]:
    yield {"message_type": "ping", "run_id": "run-1", "seq_id": 1}
    await anyio.sleep_forever()


async def search(place: Place) -> KeySearch:
    with anyio.fail_after(HANG_SECONDS):
        return await find_by_key(cast("Backend", place), HERE, KEYED, message("hello"), QUICK)


async def test_a_turn_that_letta_knows_to_be_anothers_is_not_waited_for() -> None:
    place = Thinking("another's", keeps_streams=True)

    found = await search(place)

    assert found.run is None
    assert place.looks == 0


async def test_nobody_asks_for_a_stream_that_letta_says_it_does_not_keep() -> None:
    place = Thinking(KEYED.otid(HERE), keeps_streams=True)
    place.runs = {"run-1": [Run(id="run-1", status="running", keeps_stream=False)]}

    found = await search(place)

    assert found.run
    assert place.resumed == []


@pytest.mark.parametrize(("keeps_streams", "otid_is_lost"), [(False, False), (True, True)])
async def test_a_turn_of_which_nothing_is_known_is_waited_for_until_it_shows_its_message(
    *, keeps_streams: bool, otid_is_lost: bool
) -> None:
    place = Thinking(KEYED.otid(HERE), keeps_streams=keeps_streams, otid_is_lost=otid_is_lost)

    found = await search(place)

    assert found.run
    assert found.run.id == "run-1"


async def test_a_turn_that_began_during_the_search_is_found() -> None:
    place = Thinking(KEYED.otid(HERE), keeps_streams=True)
    asked: list[str] = []

    async def known_from_the_second_time(ref: ConversationRef, otid: str) -> str:
        asked.append(otid)
        return "run-1" if len(asked) > 1 else ""

    place.run_of_otid = known_from_the_second_time

    found = await search(place)

    assert found.run
    assert found.run.id == "run-1"


class Past(Place):
    """A conversation with ended turns, at a server that knows the otids of messages that came to nothing."""

    def __init__(self, *runs: Run, shown: int, known: dict[str, str]) -> None:
        super().__init__()
        self.runs = {each.id: [each] for each in runs}
        self.runs_of_otids = known
        self.messages = [
            Message(id=f"m{n}", kind="user", type="user_message", otid=f"o{n}", run_id=each.id, text="before")
            for n, each in enumerate(runs[:shown])
        ]
        self.asked: list[str] = []

    async def run_of_otid(self, ref: ConversationRef, otid: str) -> str:
        self.asked.append(otid)
        return await super().run_of_otid(ref, otid)


def ended(name: str, status: str = "completed", hours_ago: float = 0.1) -> Run:
    return Run(id=name, status=status, created_at=(datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat())


@pytest.mark.parametrize(
    ("runs", "shown"),
    [
        ([], 0),
        ([ended("run-1"), ended("run-2")], 2),
        ([ended("run-1"), ended("run-2", "failed", hours_ago=4)], 1),
    ],
    ids=["nothing was sent", "all turns are shown", "the server forgets an otid after three hours"],
)
async def test_a_new_key_is_not_asked_for_where_the_history_shows_every_turn(runs: list[Run], shown: int) -> None:
    place = Past(*runs, shown=shown, known={})

    found = await search(place)

    assert (found.run, found.failed) == (None, None)
    assert found.message.otid == KEYED.otid(HERE)
    assert place.asked == []


async def test_a_message_that_failed_without_a_trace_in_the_history_gets_another_otid() -> None:
    place = Past(ended("run-1"), ended("run-2", "failed"), shown=1, known={KEYED.otid(HERE): "run-2"})

    found = await search(place)

    assert found.run is None
    assert found.failed
    assert found.failed.id == "run-2"
    assert found.message.otid == KEYED.otid(HERE, attempt=1)


async def test_a_turn_longer_than_what_was_read_of_the_history_is_asked_for() -> None:
    place = Past(ended("run-1"), ended("run-2"), shown=1, known={KEYED.otid(HERE): "run-2"})

    found = await search(place)

    assert found.run
    assert found.run.id == "run-2"


async def test_the_server_is_asked_where_more_has_run_of_late_than_one_page_lists() -> None:
    runs = [ended(f"run-{n}") for n in range(PAGE)]
    place = Past(*runs, shown=PAGE, known={})

    await search(place)

    assert place.asked == [KEYED.otid(HERE)]
