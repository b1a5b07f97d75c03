"""Changing a conversation, and reporting what the server ignored: 0.16.8 silently drops fields it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import cast

from letta_conversations_mcp.conversations.keys import KEY_TAG, check_tags, key_of, mark, without_mark
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import NO_TAGS, ConversationError, InvalidArgument, Refused
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, Conversation, ConversationChanges, ConversationRef
from letta_conversations_mcp.core.quoting import NAME_CHARS, quote

MODELS_NAMED = 5
"""How many models an error suggests: the most similar, or else the first."""


@dataclass(frozen=True)
class UpdateResult:
    """The conversation after the update, with the names of the fields that changed and of those that were ignored."""

    conversation: Conversation
    changed: tuple[str, ...]
    ignored: tuple[str, ...]


async def update(backend: Backend, conversation_id: str, changes: ConversationChanges) -> UpdateResult:
    """Change the given fields.

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
    if changes.tags is not None and not backend.keeps_tags:
        raise Refused("change the tags", NO_TAGS, "Nothing was changed; leave tags out.")
    if changes.model:
        await check_model(backend, changes.model)
    changes = await _with_key(backend, conversation_id, changes)
    wanted = {name: value for name, value in changes.model_dump(exclude_none=True).items() if name in wanted}
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


async def _with_key(backend: Backend, conversation_id: str, changes: ConversationChanges) -> ConversationChanges:
    """The changes, adjusted so that the conversation keeps its key and does not look like one with another key."""
    texts = {name: text for name in ("summary", "description") if (text := getattr(changes, name)) is not None}
    if not texts and changes.tags is None:
        return changes
    now = await backend.get_conversation(conversation_id)
    key = key_of(now)
    if not backend.keeps_tags:
        marked = {name: mark(text, now.agent_id, key) if key else without_mark(text) for name, text in texts.items()}
        return changes.model_copy(update=marked)
    own = (KEY_TAG + key,) if key else ()
    wanted = now.tags if changes.tags is None else changes.tags
    tags = (*check_tags(tag for tag in wanted if tag not in own), *own)
    update: dict[str, object] = {name: without_mark(text) for name, text in texts.items()}
    return changes.model_copy(update=update if tags == now.tags else {**update, "tags": tags})


def check_text(argument: str, text: str) -> None:
    """Raises InvalidArgument for a text that the server's database cannot store: 0.16.8 fails on it."""
    if any(each == "\x00" or "\ud800" <= each <= "\udfff" for each in text):
        raise InvalidArgument(argument, "it holds a character (NUL, or half of a pair) that cannot be stored.")


async def has_model_settings(backend: Backend, ref: ConversationRef) -> bool:
    """True if a conversation has its own model settings, which do not apply to a model given for one message (0.16.8).
    False if that could not be read."""
    if ref.conversation_id == DEFAULT_CONVERSATION:
        return False
    try:
        return bool((await backend.get_conversation(ref.conversation_id)).model_settings)
    except ConversationError:
        return False


async def check_model(backend: Backend, model: str) -> None:
    """Raises InvalidArgument for an unknown model: servers accept any, and fail at the next message (0.16.8, Letta Code
    0.34.12)."""
    models = await backend.list_models()
    if model in models:
        return
    close = get_close_matches(model, models, MODELS_NAMED) or models[:MODELS_NAMED]
    named = f"it has {', '.join(close)}" if close else "it has none"
    more = "; list_models shows more" if len(close) < len(models) else ""
    raise InvalidArgument("model", f"this server has no {quote(model, NAME_CHARS)!r}; {named}{more}.")


def _is_taken(wanted: object, got: object) -> bool:
    """True if the server has the wanted value. It adds defaults to settings, so only the given ones are compared."""
    if not isinstance(wanted, Mapping):
        return wanted == got
    given = cast("Mapping[str, object]", wanted)
    if not isinstance(got, Mapping):
        return not given
    has = cast("Mapping[str, object]", got)
    return all(_is_taken(value, has.get(name)) for name, value in given.items())
