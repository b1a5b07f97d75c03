"""Distinguishes the summary of a compaction from a user's message with the same text.

0.16.8 stores a summary as a user message whose text is a JSON object of type system_alert, which anybody can write.
What nobody can choose shows the difference (seen on 0.16.8): every message of a user has an otid, the server's own if
its sender gave none, and begins a run. The summary of `compact` has no otid. The summary of a compaction within a turn
has the run of that turn, which another message began. Here summaries become a `summary_message`, as newer servers send
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from pydantic_core import from_json

from letta_conversations_mcp.backends.letta_api.letta_json import Json
from letta_conversations_mcp.core.message_json import text_field, text_of
from letta_conversations_mcp.core.model import Chunk


def _alert(message: Chunk) -> str | None:
    """The text of what looks like a summary, None for any other message."""
    if message.get("message_type") != "user_message":
        return None
    text = text_of(message.get("content"))
    if '"system_alert"' not in text[:200]:
        return None
    try:
        alert = from_json(text)
    except (ValueError, TypeError):
        return None
    fields = cast("Json", alert) if isinstance(alert, dict) else {}
    return text_field(fields, "message") if fields.get("type") == "system_alert" else None


def streamed(chunk: Chunk) -> Chunk:
    """A chunk of a stream, in which a user's message never comes back: what looks like a summary is one."""
    text = _alert(chunk)
    return chunk if text is None else {**chunk, "message_type": "summary_message", "summary": text}


def unclear_runs(messages: Sequence[Json]) -> set[str]:
    """The runs whose messages are needed to decide which messages of this list are summaries."""
    begun = _begun(messages)
    unclear = {text_field(each, "run_id") for each in messages if _alert(each) is not None and each.get("otid")}
    return {run_id for run_id in unclear if run_id and run_id not in begun}


def with_summaries(messages: Sequence[Json], of_their_runs: Iterable[Json] = ()) -> list[Json]:
    """The messages of a list; `of_their_runs` are those of the unclear runs."""
    begun = _begun([*messages, *of_their_runs])
    return [
        cast("Json", streamed(each)) if not each.get("otid") or text_field(each, "run_id") in begun else each
        for each in messages
    ]


def _begun(messages: Iterable[Json]) -> set[str]:
    """The runs of which the message is here that began them."""
    return {
        text_field(each, "run_id")
        for each in messages
        if each.get("message_type") == "approval_response_message"
        or (each.get("message_type") == "user_message" and _alert(each) is None)
    } - {""}
