"""From the App Server's JSON to our nouns. It mirrors the REST API's, with a few ways of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from letta_conversations_mcp.core.model import Agent, Chunk, Conversation, Message
from letta_conversations_mcp.core.wire import mappings, read_message, text_field

_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>\s*", re.DOTALL)


def read_agent(data: Mapping[str, object]) -> Agent:
    return Agent(
        id=text_field(data, "id"),
        name=text_field(data, "name"),
        model=text_field(data, "model"),
        description=text_field(data, "description"),
        created_at=text_field(data, "created_at"),
    )


def read_conversation(data: Mapping[str, object]) -> Conversation:
    return Conversation(
        id=text_field(data, "id"),
        agent_id=text_field(data, "agent_id"),
        summary=text_field(data, "summary"),
        description=text_field(data, "description"),
        model=text_field(data, "model"),
        hidden=data.get("hidden") is True,
        archived=data.get("archived") is True,
        created_at=text_field(data, "created_at"),
        last_message_at=text_field(data, "last_message_at"),
    )


def without_reminders(data: Mapping[str, object]) -> Mapping[str, object]:
    """A user's message without the texts that Letta Code puts before it: about the machine, the agent, its tools."""
    if data.get("message_type") != "user_message":
        return data
    content = data.get("content")
    if isinstance(content, str):
        return {**data, "content": _REMINDER.sub("", content)}
    parts = [
        {**part, "text": _REMINDER.sub("", text_field(part, "text"))} if part.get("type") == "text" else part
        for part in mappings(content)
    ]
    return {**data, "content": [part for part in parts if part.get("type") != "text" or part.get("text")]}


def without_repeats(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Listed messages, oldest first, with a user's message once: a server that is started again after it was killed in
    a turn stores the message a second time and takes the turn up by itself (seen with 0.34.12)."""
    kept: list[Chunk] = []
    for chunk in chunks:
        otid = text_field(chunk, "otid")
        if kept and otid and chunk.get("message_type") == "user_message" and otid == text_field(kept[-1], "otid"):
            kept.pop()
        kept.append(chunk)
    return kept


def read_local_message(data: Mapping[str, object]) -> Message:
    return read_message(without_reminders(data))
