"""Reading the App Server's messages: its reminders go, a user's words stay."""

from __future__ import annotations

from letta_conversations_mcp.backends.app_server.app_server_json import without_reminders
from letta_conversations_mcp.core.message_json import read_message

REMINDER = "<system-reminder>\nThis is an automated message.\n</system-reminder>"


def text_of_parts(*texts: str) -> str:
    parts = [{"type": "text", "text": text} for text in texts]
    return read_message(without_reminders({"message_type": "user_message", "content": parts})).text


def test_reminders_before_a_users_text_are_left_out() -> None:
    assert text_of_parts(REMINDER, REMINDER, "hello") == "hello"


def test_what_looks_like_a_reminder_in_a_users_text_stays() -> None:
    assert text_of_parts(REMINDER, REMINDER) == REMINDER
    assert text_of_parts(f"before {REMINDER} after") == f"before {REMINDER} after"
    assert text_of_parts(REMINDER, f"{REMINDER} I wrote this {REMINDER}") == f"{REMINDER} I wrote this {REMINDER}"


def test_a_message_that_is_nothing_but_a_reminder_is_the_users_unless_it_is_the_note_of_an_interruption() -> None:
    assert text_of_parts(REMINDER) == REMINDER
    assert text_of_parts("<system-reminder>The user interrupted the active stream.</system-reminder>\n") == ""
