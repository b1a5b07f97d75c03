"""Messages as text within a budget of characters, as JSON counts them."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from letta_conversations_mcp.conversations.transcript import (
    SPEAKER,
    body,
    call_line,
    cut,
    fair_share,
    heading,
    length,
    shorten,
    to_markdown,
)
from letta_conversations_mcp.core.model import Message, ToolCall
from letta_conversations_mcp.core.untrusted import MARK, quoted

lengths = st.lists(st.integers(0, 5_000), max_size=30)
ANY_TEXT = st.text(max_size=120)
COSTLY_TEXT = st.text(alphabet='a"\\\n\t\x00\x1b\x7f🙂é\u2028', max_size=120)


def _in_json(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False)) - 2


@given(lengths, st.integers(-100, 20_000))
def test_what_each_may_have_fits_the_budget_together(sizes: list[int], budget: int) -> None:
    share = fair_share(sizes, budget)

    assert share >= 1 or not any(sizes)
    assert sum(min(size, share) for size in sizes) <= max(budget, len(sizes))


@given(lengths, st.integers(0, 20_000))
def test_nothing_is_cut_while_everything_fits_and_no_room_is_wasted_else(sizes: list[int], budget: int) -> None:
    share = fair_share(sizes, budget)

    if sum(sizes) <= budget:
        assert all(size <= share for size in sizes)
    else:
        # One character more for each of those that are cut would be too much.
        assert sum(min(size, share + 1) for size in sizes) > budget


@given(st.lists(st.text(alphabet="abc", max_size=400), max_size=12), st.integers(12, 3_000))
def test_short_texts_stay_whole_and_the_longest_are_cut_to_the_same_length(texts: list[str], budget: int) -> None:
    shown = shorten(texts, budget)

    assert sum(map(len, shown)) <= budget
    cut_ones = [each for each, text in zip(shown, texts, strict=True) if each != text]
    assert len({len(each) for each in cut_ones}) <= 1
    longest_whole = max((len(text) for each, text in zip(shown, texts, strict=True) if each == text), default=0)
    assert all(len(each) >= longest_whole for each in cut_ones)
    assert all(text.startswith(each.removesuffix("…")) for each, text in zip(shown, texts, strict=True))


@given(ANY_TEXT | COSTLY_TEXT)
def test_the_length_of_a_text_is_what_json_makes_of_it(text: str) -> None:
    # \x7f may be written in one character or in six: never count it for less than it travels as.
    assert length(text) >= max(_in_json(text), _in_json(quoted(text)) - len(MARK))
    assert length("plain") == 5
    assert length('"\x00') == 2 + 6
    # Marked, a line costs two more characters; the first one's mark is not counted.
    assert length("a\nb") == 1 + 2 + 2 + 1


@given(ANY_TEXT | COSTLY_TEXT, st.integers(0, 150))
@example('"' * 50, 49)
@example("\x00" * 50, 13)
@example("🙂" * 50, 7)
def test_a_cut_text_costs_no_more_than_its_limit_and_no_room_is_wasted(text: str, limit: int) -> None:
    kept = cut(text, limit)

    assert length(kept) <= limit
    if length(text) <= limit:
        assert kept == text
    else:
        assert kept.endswith("…") or not limit
        assert text.startswith(kept[:-1])
        # Of what is dropped, one character more could cost up to eleven.
        assert length(kept) + 12 > limit


@pytest.mark.parametrize("text", ["\ud83d", "half \ud83d of a pair", "\udfff" * 40], ids=["alone", "within", "many"])
def test_half_of_a_pair_of_surrogates_breaks_nothing(text: str) -> None:
    assert length(text) >= len(text)
    assert len(cut(text, 5)) <= 5
    assert len(shorten([text, "other"], 8)) == 2


def test_a_share_of_nothing_is_harmless() -> None:
    assert fair_share([], 100) >= 1
    assert shorten([], 100) == []
    assert cut("", 0) == ""
    assert cut("abc", 0) == ""


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (ToolCall(name="search", arguments='{"q":1}'), 'search({"q":1})'),
        (ToolCall(name="search", arguments='{"q":1}', status="success", result="3"), 'search({"q":1}) → 3'),
        (ToolCall(name="search", arguments="{}", status="error", result="no"), "search() → error: no"),
        (ToolCall(name="search"), "search"),
        (ToolCall(status="success", result="3"), "call → 3"),
    ],
)
def test_a_call_is_one_line_with_its_result(call: ToolCall, line: str) -> None:
    assert call_line(call) == line


def test_a_message_says_its_text_and_its_calls() -> None:
    message = Message(
        id="m", kind="tool", type="tool_call_message", text="Look:", calls=(ToolCall(name="a"), ToolCall(name="b"))
    )

    assert body(message) == "Look:\na\nb"
    assert body(Message(id="m", kind="assistant", type="assistant_message")) == ""


@pytest.mark.parametrize("kind", SPEAKER)
def test_every_kind_has_a_heading_that_says_who_speaks_and_when(kind: str) -> None:
    fields = {"id": "m", "kind": kind, "type": "event_message", "at": "2026-11-21T00:52:48+00:00"}
    message = Message.model_validate(fields)

    who = "event" if kind == "other" else SPEAKER[message.kind]
    assert heading(message) == f"**{who}** · 2026-11-21T00:52Z"
    assert heading(message.model_copy(update={"at": ""})) == f"**{who}**"


def test_a_message_without_a_type_is_headed_other() -> None:
    assert heading(Message(id="m", kind="other", type="")) == "**other**"


def test_a_transcript_is_headings_and_texts_in_order() -> None:
    messages = [
        Message(id="1", kind="user", type="user_message", at="2026-11-21T00:52:48+00:00", text="long"),
        Message(id="2", kind="assistant", type="assistant_message", text="yes"),
    ]

    assert to_markdown(messages, ["lo", "yes"]) == "**user** · 2026-11-21T00:52Z\n> lo\n\n**agent**\n> yes"
