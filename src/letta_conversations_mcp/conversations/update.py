"""Changing a conversation, and reporting what the server ignored: 0.16.8 silently drops fields it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import cast

from letta_conversations_mcp.conversations.keys import key_of, mark
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import NAME_CHARS, InvalidArgument, Refused, quote
from letta_conversations_mcp.core.model import Conversation, ConversationChanges

MODELS_NAMED = 5
"""Models that an error suggests: the most similar ones, or the first."""


@dataclass(frozen=True)
class UpdateResult:
    """The conversation after the update, with the names of the fields that changed and of those that were ignored."""

    conversation: Conversation
    changed: tuple[str, ...]
    ignored: tuple[str, ...]


async def update(backend: Backend, conversation_id: str, changes: ConversationChanges) -> UpdateResult:
    """Change what is given.

    Raises:
        InvalidArgument: nothing is given, or there is no such model.
        NotFound: there is no such conversation.
        Refused: the server ignored all of it.
    """
    wanted = changes.model_dump(exclude_none=True)
    if not wanted:
        raise InvalidArgument("arguments", "there is nothing to change: give at least one thing besides the id.")
    for name in ("summary", "description"):
        check_text(name, str(wanted.get(name, "")))
    if changes.model:
        await check_model(backend, changes.model)
    texts = {name: str(value) for name, value in wanted.items() if name in ("summary", "description")}
    if texts and (key := key_of(await backend.get_conversation(conversation_id))):
        changes = changes.model_copy(update={name: mark(text, key) for name, text in texts.items()})
        wanted = changes.model_dump(exclude_none=True)
    conversation = await backend.update_conversation(conversation_id, changes)
    ignored = tuple(name for name, value in wanted.items() if not _is_taken(value, getattr(conversation, name)))
    if len(ignored) == len(wanted):
        raise Refused(
            "update the conversation",
            f"this server ignored {', '.join(ignored)}",
            "Nothing was changed, and trying again will not help.",
        )
    changed = tuple(name for name in wanted if name not in ignored)
    return UpdateResult(conversation=conversation, changed=changed, ignored=ignored)


def check_text(argument: str, text: str) -> None:
    """Raises InvalidArgument for a text that no database stores: 0.16.8 fails on it (seen)."""
    if any(each == "\x00" or "\ud800" <= each <= "\udfff" for each in text):
        raise InvalidArgument(argument, "it holds a character (NUL, or half of a pair) that cannot be stored.")


async def check_model(backend: Backend, model: str) -> None:
    """Raises InvalidArgument for an unknown model: servers accept any, and fail at the next message (0.16.8, Letta Code
    0.34.12)."""
    models = await backend.list_models()
    if model in models:
        return
    close = get_close_matches(model, models, MODELS_NAMED) or models[:MODELS_NAMED]
    named = f"it has {', '.join(close)}" if close else "it has none"
    raise InvalidArgument("model", f"this server has no {quote(model, NAME_CHARS)!r}; {named}; list_models shows more.")


def _is_taken(wanted: object, got: object) -> bool:
    """True if the server has the wanted value. It adds defaults to settings, so only the given ones are compared."""
    if not isinstance(wanted, Mapping):
        return wanted == got
    given = cast("Mapping[str, object]", wanted)
    if not isinstance(got, Mapping):
        return not given
    has = cast("Mapping[str, object]", got)
    return all(_is_taken(value, has.get(name)) for name, value in given.items())
