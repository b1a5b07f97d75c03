"""The id of a message: new for every send, and known again by who sends what."""

from __future__ import annotations

import uuid

import pytest

from letta_conversations_mcp.core.model import Image, OutgoingMessage
from letta_conversations_mcp.turns.message_ids import is_same_message, new_otid

HELLO = OutgoingMessage(text="hello")


def test_every_id_is_a_new_random_uuid() -> None:
    ids = {new_otid(HELLO, "ann") for _ in range(100)}

    assert len(ids) == 100
    assert {uuid.UUID(each).version for each in ids} == {4}


@pytest.mark.parametrize("again", [HELLO, HELLO.model_copy(update={"otid": "another", "opens": True})])
def test_the_same_message_of_the_same_caller_is_known_again(again: OutgoingMessage) -> None:
    assert is_same_message(new_otid(HELLO, "ann"), new_otid(again, "ann"))


@pytest.mark.parametrize(
    ("message", "caller"),
    [
        (HELLO, "bob"),
        (HELLO, ""),
        (OutgoingMessage(text="hello "), "ann"),
        (OutgoingMessage(text="hello", model="openai/gpt-5.2"), "ann"),
        (OutgoingMessage(text="hello", max_steps=3), "ann"),
        (OutgoingMessage(text="hello", images=(Image(url="https://example.org/a.png"),)), "ann"),
    ],
)
def test_another_message_or_caller_is_not_taken_for_it(message: OutgoingMessage, caller: str) -> None:
    assert not is_same_message(new_otid(HELLO, "ann"), new_otid(message, caller))


@pytest.mark.parametrize("other", ["", "message-1", "otid of hello"])
def test_ids_of_other_programs_are_of_other_messages(other: str) -> None:
    assert not is_same_message(new_otid(HELLO, "ann"), other)
    assert not is_same_message(other, other)


def test_a_text_that_is_no_whole_unicode_has_an_id_too() -> None:
    half = OutgoingMessage.model_construct(text="half \ud83d")

    assert is_same_message(new_otid(half, "ann"), new_otid(half, "ann"))
