"""Looking for words in texts, and what a caller writes for a date."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_conversations_mcp.conversations.search import check_search_cursor, fold, read_bound, snippet
from letta_conversations_mcp.core.errors import InvalidArgument

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
