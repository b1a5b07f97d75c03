"""Looking for words in texts, and what a caller writes for a date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_conversations_mcp.conversations.search import (
    MOST_REQUESTS,
    PAGE,
    SearchResult,
    check_search_cursor,
    fold,
    read_bound,
    search,
    snippet,
)
from letta_conversations_mcp.core.backend import Backend, NoSearch
from letta_conversations_mcp.core.errors import InvalidArgument, TimedOut
from letta_conversations_mcp.core.model import (
    Conversation,
    ConversationQuery,
    ConversationRef,
    FoundMessage,
    Message,
    MessageQuery,
    MessageSearch,
    Page,
)
from tests.rig.bounds import HANG_SECONDS

CONVERSATION = "conv-00000000-0000-4000-8000-000000000001"
MESSAGE = "message-00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("one", "other"),
    [("Straße", "STRASSE"), ("caf\u00e9", "cafe\u0301"), ("ﬁne", "Fine"), ("İ", "i\u0307"), ("ΣΊΣΥΦΟΣ", "σίσυφος")],
)
def test_spellings_of_one_word_are_the_same(one: str, other: str) -> None:
    assert fold(one) == fold(other)


def test_a_snippet_is_the_text_around_the_first_word() -> None:
    text = f"{'before ' * 100}the WALRUS sang{' after' * 100}"

    shown = snippet(text, "walrus", 60)

    assert "WALRUS" in shown
    assert shown.startswith("…before")
    assert shown.endswith("…")
    assert len(shown) <= 62


def test_a_snippet_of_a_short_text_is_the_text_in_one_line() -> None:
    assert snippet("one\n two", "TWO") == "one two"


def test_a_snippet_without_a_hit_is_the_beginning() -> None:
    assert snippet("about tea and cakes", "beverage", 9) == "about tea…"


@given(st.text(max_size=200), st.text(min_size=1, max_size=5), st.text(max_size=200))
def test_a_snippet_of_any_text_holds_the_word_or_ends_near_it(before: str, word: str, after: str) -> None:
    shown = snippet(f"{before} {word} {after}", word, 30)

    assert len(shown) <= 32


@given(st.text(alphabet="aßﬁ\u0301é😀 \u202e", max_size=100))
def test_a_word_is_in_its_snippet_wherever_it_is(before: str) -> None:
    assert "needle" in snippet(f"{before} needle", "needle", 60)


def test_a_date_alone_is_the_whole_day() -> None:
    start, end = read_bound("start_date", "2026-11-21"), read_bound("end_date", "2026-11-21", end=True)

    assert start is not None
    assert end is not None
    assert start.isoformat() == "2026-11-21T00:00:00+00:00"
    assert end.isoformat() == "2026-11-21T23:59:59.999999+00:00"


def test_a_time_keeps_its_zone_and_is_in_utc_without_one() -> None:
    zoned, bare = read_bound("end_date", "2026-11-21T06:12+02:00", end=True), read_bound("end_date", "2026-11-21T06:12")

    assert zoned is not None
    assert bare is not None
    assert (zoned.isoformat(), bare.isoformat()) == ("2026-11-21T06:12:00+02:00", "2026-11-21T06:12:00+00:00")


@pytest.mark.parametrize("wrong", ["yesterday", "21.11.2026", "2026-13-01", "9999999999", "\x00"])
def test_what_is_no_date_is_refused_by_its_argument(wrong: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^start_date: "):
        read_bound("start_date", wrong)


def test_no_date_is_no_bound() -> None:
    assert read_bound("start_date", " ") is None


@pytest.mark.parametrize(
    ("cursor", "place"), [(MESSAGE, ""), (CONVERSATION, CONVERSATION), ("x", ""), ("x", "default")]
)
def test_a_cursor_of_another_search_is_refused(cursor: str, place: str) -> None:
    with pytest.raises(InvalidArgument, match="another search"):
        check_search_cursor(cursor, place)


@pytest.mark.parametrize(("cursor", "place"), [(MESSAGE, CONVERSATION), (CONVERSATION, ""), ("default", ""), (" ", "")])
def test_a_cursor_of_the_same_search_is_taken(cursor: str, place: str) -> None:
    assert check_search_cursor(cursor, place) == cursor.strip()


AGENT = "agent-00000000-0000-4000-8000-000000000001"


SOON = 1.5
"""Seconds for a search that hangs in the end. What it asks before takes milliseconds, or more on a busy machine."""


class Endless:
    """Conversations without end in memory, of messages without end that say "walrus" and their number, the newest being
    number 0. From a given request for messages on, or for conversations, nothing is answered any more."""

    def __init__(self, *, silent_from: int = 10_000, lists_conversations: bool = True) -> None:
        self.requests = 0
        self._silent_from = silent_from
        self._lists_conversations = lists_conversations

    async def search_messages(self, wanted: MessageSearch) -> Sequence[FoundMessage]:
        raise NoSearch

    async def list_conversations(self, query: ConversationQuery) -> Page[Conversation]:
        if not self._lists_conversations:
            await anyio.sleep_forever()
        first = int(query.after.removeprefix("conv-") or -1) + 1
        ids = [f"conv-{number}" for number in range(first, first + query.limit)]
        made = [Conversation(id=each, agent_id=AGENT, last_message_at="2026-11-21T06:12:00Z") for each in ids]
        return Page(items=tuple(made), more=True)

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        if self.requests >= self._silent_from:
            await anyio.sleep_forever()
        self.requests += 1
        newest = int(query.before.removeprefix("message-") or -1) + 1
        numbers = range(newest + query.limit - 1, newest - 1, -1)
        said = [Message(id=f"message-{each}", kind="user", type="", text=f"walrus {each}") for each in numbers]
        return Page(items=tuple(said), more=True)


async def look(endless: Endless, query: str, seconds: float, place: str = "", after: str = "") -> SearchResult:
    wanted = MessageSearch(query=query, conversation_id=place, agent_id=AGENT, limit=1000)
    with anyio.fail_after(HANG_SECONDS):
        return await search(cast("Backend", endless), wanted, after=after, seconds=seconds)


async def test_a_request_that_hangs_ends_the_search_with_what_was_found_and_a_way_on() -> None:
    result = await look(Endless(silent_from=2), "walrus", SOON, CONVERSATION)
    following = await look(Endless(silent_from=1), "walrus", SOON, CONVERSATION, result.cursor)

    assert [each.message.text for each in result.found] == [f"walrus {number}" for number in range(200)]
    assert (result.scanned, result.cursor) == (200, "message-199")
    assert following.found[0].message.text == "walrus 200"


async def test_the_time_is_one_for_all_conversations_together() -> None:
    result = await look(Endless(silent_from=5 * 3 + 2), "walrus 499", SOON)
    following = await look(Endless(silent_from=1), "walrus", SOON, after=result.cursor)

    # The default conversation and two others; in the third it was cut short.
    assert (result.conversations, result.cut_short) == (4, ["default", "conv-0", "conv-1", "conv-2"])
    assert {each.conversation_id for each in result.found} == {"default", "conv-0", "conv-1"}
    assert result.cursor == "conv-2"
    assert {each.conversation_id for each in following.found} == {"conv-3"}


@pytest.mark.parametrize("place", [CONVERSATION, ""])
async def test_a_search_that_could_look_at_nothing_is_no_search_without_results(place: str) -> None:
    with pytest.raises(TimedOut, match="search the messages"):
        await look(Endless(silent_from=0), "walrus", 0.05, place)


async def test_a_list_of_conversations_that_hangs_ends_the_search_too() -> None:
    result = await look(Endless(lists_conversations=False), "walrus 7", SOON)

    assert result.found[0].message.text == "walrus 7"
    assert (result.conversations, result.cursor) == (1, "default")


async def test_with_time_left_the_number_of_requests_bounds_a_search() -> None:
    endless = Endless()

    result = await look(endless, "no such word", 600, CONVERSATION)

    assert endless.requests == MOST_REQUESTS
    assert result.cursor == f"message-{PAGE * MOST_REQUESTS - 1}"
