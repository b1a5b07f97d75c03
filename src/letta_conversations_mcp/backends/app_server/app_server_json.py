"""Reads the App Server's JSON into our types. It mirrors the REST API's, with a few differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from letta_conversations_mcp.core.message_json import (
    int_field,
    mapping_field,
    mappings,
    text_field,
    text_of,
)
from letta_conversations_mcp.core.model import Agent, Chunk, Conversation

_ATTEMPTS = "attempts"

_ATTEMPT_MARK = "~"
"""Between a message's otid and the number of the attempt in the `client_message_id` of a later attempt."""

_INTERRUPTED = "<system-reminder>The user interrupted the active stream.</system-reminder>\n"

_REMINDER = ("<system-reminder>", "</system-reminder>")


def client_message_id(otid: str, attempt: int) -> str:
    """The id under which an attempt to hand a message over is sent: the server accepts each id only once, even if it
    then fails to begin the turn (seen with 0.34.12)."""
    return otid if attempt == 1 else f"{otid}{_ATTEMPT_MARK}{attempt}"


def otid_of(client_message_id: str) -> str:
    """The otid of a message that was handed over under this id."""
    return client_message_id.partition(_ATTEMPT_MARK)[0]


def with_otid(data: Mapping[str, object]) -> Mapping[str, object]:
    """A listed message with the otid that it was sent with, in whichever attempt."""
    otid = text_field(data, "otid")
    return {**data, "otid": otid_of(otid)} if _ATTEMPT_MARK in otid else data


def read_agent(data: Mapping[str, object]) -> Agent:
    return Agent(
        id=text_field(data, "id"),
        name=text_field(data, "name"),
        model=text_field(data, "model"),
        description=text_field(data, "description"),
        created_at=text_field(data, "created_at"),
        tags=_ids(data.get("tags")) or (),
        in_context=_ids(data.get("message_ids")),
        context_window=int_field(mapping_field(data, "llm_config"), "context_window") or None,
    )


def read_conversation(data: Mapping[str, object]) -> Conversation:
    in_context = _ids(data.get("in_context_message_ids"))
    # The server reports a time even if there is no message (seen with 0.34.12).
    last_message_at = text_field(data, "last_message_at") if in_context != () else ""
    return Conversation(
        id=text_field(data, "id"),
        agent_id=text_field(data, "agent_id"),
        summary=text_field(data, "summary"),
        description=text_field(data, "description"),
        model=text_field(data, "model"),
        model_settings=dict(mapping_field(data, "model_settings")),
        context_window_limit=int_field(data, "context_window_limit") or None,
        hidden=data.get("hidden") is True,
        archived=data.get("archived") is True,
        tags=_ids(data.get("tags")) or (),
        created_at=text_field(data, "created_at"),
        created_by=text_field(data, "created_by_id"),
        changed_at=text_field(data, "updated_at"),
        changed_by=text_field(data, "last_updated_by_id"),
        last_message_at=last_message_at,
        in_context=in_context,
    )


def _ids(value: object) -> tuple[str, ...] | None:
    return tuple(map(str, cast("list[object]", value))) if isinstance(value, list) else None


def without_reminders(data: Mapping[str, object]) -> Mapping[str, object]:
    """A user's message without the parts that Letta Code puts before it: about the machine, the agent, its tools. Each
    is a part of its own, and the user's text is the last one (seen with 0.34.12): what looks like a reminder within
    that text was written by the user, and stays. Only its note of an interruption stands alone."""
    content = data.get("content")
    if data.get("message_type") != "user_message" or isinstance(content, str):
        return data
    parts = mappings(content)
    texts = [part for part in parts if part.get("type") == "text"]
    if len(parts) == len(texts) == 1:
        return {**data, "content": []} if text_field(texts[0], "text") == _INTERRUPTED else data
    own = texts[-1] if len(texts) > 1 else None
    return {**data, "content": [part for part in parts if part is own or not _is_reminder(part)]}


def _is_reminder(part: Mapping[str, object]) -> bool:
    opening, closing = _REMINDER
    text = text_field(part, "text").strip()
    return text.startswith(opening) and text.endswith(closing) and text.count(closing) == 1


def is_only_reminder(data: Mapping[str, object]) -> bool:
    """True if a user's message consists of reminders only: that is how the server records an interruption (seen with
    0.34.12)."""
    return data.get("message_type") == "user_message" and not data.get("content")


def without_repeats(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Listed messages, oldest first, without the copies of a user's message that the server stores for every attempt to
    answer it: under the same otid if it was killed in a turn and started again, under another if the model failed and
    was asked again (both seen with 0.34.12)."""
    kept: list[Chunk] = []
    for chunk in chunks:
        if kept and _is_repeat(chunk, kept[-1]):
            chunk = {**chunk, _ATTEMPTS: [*attempts_of(kept[-1]), text_field(kept.pop(), "otid")]}
        kept.append(chunk)
    return kept


def attempts_of(chunk: Chunk) -> list[str]:
    """The otids of the earlier copies of a user's message that `without_repeats` has left out."""
    return cast("list[str]", chunk.get(_ATTEMPTS, []))


def _is_repeat(chunk: Chunk, before: Chunk) -> bool:
    if {chunk.get("message_type"), before.get("message_type")} != {"user_message"}:
        return False
    otid = text_field(chunk, "otid")
    same_words = text_of(chunk.get("content")) == text_of(before.get("content"))
    return bool(otid) and (same_words or otid == text_field(before, "otid"))
