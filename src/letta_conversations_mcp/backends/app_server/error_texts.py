"""Interprets the terse error texts of an App Server. All seen with 0.34.12."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic_core import from_json

from letta_conversations_mcp.core.message_json import mapping_field, text_field

STUCK = (
    "All connections broke while a turn ran, and the App Server takes no message here until a person starts it again; "
    "fork opens a branch that goes on at once."
)

STALLED = (
    "The App Server has stopped in the middle of the answer, as it does when its disk is full, so the reply may be a "
    "part. cancel frees the conversation, and fork opens a branch with the messages that the server still has."
)

_CONFLICT = re.compile(r"\balready has an active run\b")

_BROKEN_FILE = re.compile(r"\bJSON (?:at position|input)\b|\bin JSON\b")

_NEXT_STEPS = {
    _CONFLICT: STUCK,
    re.compile(r"\b(?:ENOSPC|EDQUOT|EROFS|EACCES)\b"): (
        "It cannot write to its disk: a person has to make room there, or see to the permissions of its folder. "
        "Part of it may be done: look before repeating this."
    ),
    _BROKEN_FILE: (
        "A file that it keeps on this machine is broken. If that has just happened, fork may open a branch with the "
        "messages that the server still has; else a person has to repair the file, restore it from a backup, or do "
        "without it. Where the server was started by this one, list_messages names the file. Other conversations can "
        "be used."
    ),
    re.compile(r"\brejected by the queue\b|\binput ledger is at capacity\b"): (
        "Nothing was sent. It says this when its disk is full, and while a tool call waits for a decision."
    ),
}

_HTTP_STATUS = re.compile(r"[45]\d\d\b")


def next_step(words: str) -> str:
    """What to do about an error; "" if unknown."""
    return next((step for pattern, step in _NEXT_STEPS.items() if pattern.search(words)), "")


def is_broken_file(words: str) -> bool:
    """True if the server could not read one of its files."""
    return bool(_BROKEN_FILE.search(words))


def delete_line(path: Path, number: int) -> str:
    """How a file of messages is repaired: the other messages are then listed again, and the server need not be started
    again (seen with 0.34.12)."""
    return (
        f"Line {number} of the file {path} is broken, as a full disk leaves it. A person has to delete this line, and "
        "with it what one message said; then the conversation can be used again. If it has just happened, fork may "
        "open a branch with all that the server still has. Other conversations can be used."
    )


def is_conflict(words: str) -> bool:
    """True if a turn did not begin because of another active run."""
    return bool(_CONFLICT.search(words))


def innermost(error: str) -> Mapping[str, object]:
    """The error text of a turn, unwrapped from nested JSON."""
    try:
        found = mapping_field({"error": from_json(error)}, "error")
    except ValueError:
        return {"message": error}
    while inner := mapping_field(found, "error"):
        found = inner
    return found if text_field(found, "message") else {"message": error}


def in_words(kind: str, words: str) -> str:
    """The error of a turn, with its origin, which the server omits: "terminated" means that the connection to the model
    broke."""
    if _HTTP_STATUS.match(words):
        return f"The language model's server answered {words}"
    if kind == "llm_error":
        return f"The language model gave no whole answer: {words}"
    return f"{words.removesuffix('.')}. {next_step(words)}".rstrip()
