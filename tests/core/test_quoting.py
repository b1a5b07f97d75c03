"""Text of others within an error: one line, bounded, without markup and secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_conversations_mcp.core.quoting import QUOTE_CHARS, quote, said, without_password

CONVERSATION = "conv-123e4567-e89b-42d3-a456-426614174000"
KEY = "sk-let-NmYyZTk4ZjMtYjVhZC00MGE3LWI2ZTktM2Q4YjBiODEyMzQ1"
PLAIN_KEY = "hunter2hunter2"


@pytest.mark.parametrize(
    "page",
    [
        "<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
        "  <HTML>\n<head><title>502</title></head></HTML>",
        "<body class='x'>nginx",
        "upstream said: <html>",
    ],
)
def test_a_page_of_html_is_named_and_not_shown(page: str) -> None:
    assert quote(page) == "(a page of HTML)"


def test_words_that_speak_of_markup_are_no_page() -> None:
    assert quote("use <header> and <b>bold</b>") == "use <header> and <b>bold</b>"


def test_a_record_that_letta_prints_into_its_message_is_left_out() -> None:
    leaked = (
        f"Conversation not found with id='['{CONVERSATION}']', access level in ['read'] for actor='id='user-0000' "
        "name='default_user' organization_id='org-0000'\ncreated_at=datetime.datetime(2026, 11, 21)'"
    )

    assert quote(leaked) == f"Conversation not found with id='['{CONVERSATION}']'"


@pytest.mark.parametrize(
    ("words", "secret"),
    [
        (f"Incorrect API key provided: {KEY}. Look at your account", KEY),
        (f"Authorization: Bearer {PLAIN_KEY}", PLAIN_KEY),
        (f"bearer   {PLAIN_KEY}", PLAIN_KEY),
        (f"api_key={PLAIN_KEY}", PLAIN_KEY),
        (f"x-api-key: {PLAIN_KEY}", PLAIN_KEY),
        (f"password = {PLAIN_KEY}", PLAIN_KEY),
        (f"token:{PLAIN_KEY}", PLAIN_KEY),
        (f"LETTA_API_KEY={PLAIN_KEY}", PLAIN_KEY),
        (f"?access_token={PLAIN_KEY}", PLAIN_KEY),
        (f'{{"api_key": "{PLAIN_KEY}"}}', PLAIN_KEY),
        (f"{{'password': '{PLAIN_KEY}'}}", PLAIN_KEY),
        ("sk-ant-api03-abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz"),
        ("sk-proj-abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz"),
    ],
)
def test_a_key_is_never_quoted(words: str, secret: str) -> None:
    assert secret not in quote(words)
    assert "[secret]" in quote(words)


def test_a_key_is_not_shown_by_cutting_it_in_two() -> None:
    assert "sk-let" not in quote("x" * (QUOTE_CHARS - 12) + " " + KEY)


@pytest.mark.parametrize("words", ["1200 tokens: too many", "the task-list is empty", "risk-averse answers"])
def test_words_that_only_look_like_keys_are_kept(words: str) -> None:
    assert quote(words) == words


@given(st.text(max_size=2_000), st.integers(1, 400))
def test_a_quotation_is_one_line_of_bounded_length(words: str, limit: int) -> None:
    quoted = quote(words, limit)

    assert len(quoted.splitlines()) <= 1
    assert len(quoted) <= max(limit + 1, len("(a page of HTML)"))


def test_control_characters_are_not_quoted() -> None:
    assert quote("red \x1b[31malert\x07 \x00end").isprintable()


def test_what_is_cut_off_is_marked() -> None:
    assert quote("a" * (QUOTE_CHARS + 1)) == "a" * QUOTE_CHARS + "…"
    assert quote("a" * QUOTE_CHARS) == "a" * QUOTE_CHARS


@pytest.mark.parametrize(("thing", "quoted"), [(None, "None"), (7, "7"), (["a"], "['a']"), ("", "")])
def test_what_is_no_text_is_quoted_too(thing: object, quoted: str) -> None:
    assert quote(thing) == quoted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no such thing", '"no such thing"'),
        ('it said "stop" and', "\"it said 'stop' and\""),
        (" \n ", ""),
        ("", ""),
    ],
)
def test_a_text_within_a_sentence_ends_where_its_quotation_marks_do(text: str, told: str) -> None:
    assert said(text) == told


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://letta.local:8283/v1?x=1", "http://letta.local:8283/v1?x=1"),
        ("http://ann:hush@letta.local:8283/v1", "http://letta.local:8283/v1"),
        ("http://ann@letta.local", "http://letta.local"),
        ("http://ann:hu@sh@letta.local", "http://letta.local"),
    ],
)
def test_an_address_is_shown_without_name_and_password(url: str, shown: str) -> None:
    assert without_password(url) == shown
