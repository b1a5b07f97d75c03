"""Compacting a conversation: which settings can be combined, and what a server calls them."""

from __future__ import annotations

from contextlib import suppress

from letta_conversations_mcp.conversations.update import check_model
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, Compaction, CompactionSettings, ConversationRef

FIRST_STEP = 0.1
"""Both servers start by evicting this share more than requested, and continue until enough is gone (source of 0.16.8
and of Letta Code 0.34.12)."""

TOO_LITTLE = "there is too little in its context to compact this way"
"""The reason of a refused compaction."""

SLIDING_MODES = ("sliding_window", "self_compact_sliding_window")


async def compact(backend: Backend, ref: ConversationRef, settings: CompactionSettings) -> Compaction:
    """Compact, after checking that every setting has an effect.

    Raises:
        InvalidArgument: a setting would have no effect, or there is no such model. Servers silently ignore both.
        Refused: there is too little to summarise.
    """
    if settings.keep_percent is not None:
        if settings.mode is None:
            settings = settings.model_copy(update={"mode": "sliding_window"})
        elif settings.mode not in SLIDING_MODES:
            raise InvalidArgument("keep_percent", f"mode={settings.mode!r} keeps nothing; leave one of the two out.")
    if settings.model:
        if settings.mode is not None and settings.mode.startswith("self_compact"):
            raise InvalidArgument("model", f"with mode={settings.mode!r} the agent's own model writes the summary.")
        await check_model(backend, settings.model)
    before = await count_in_context(backend, ref)
    done = await backend.compact(ref, settings)
    counts: dict[str, int] = {} if before is None else {"before": before}
    with suppress(ConversationError):
        after = await count_in_context(backend, ref)
        counts |= {} if after is None else {"after": after}
    return done.model_copy(update=counts)


async def count_in_context(backend: Backend, ref: ConversationRef) -> int | None:
    """How many messages of a conversation the agent sees: those that the server stores as one, without the system
    prompt. None if the server does not report it."""
    if ref.conversation_id == DEFAULT_CONVERSATION:
        ids = (await backend.get_agent(ref.agent_id)).in_context
    else:
        ids = (await backend.get_conversation(ref.conversation_id)).in_context
    return None if ids is None else len(ids)


def compaction_body(settings: CompactionSettings) -> dict[str, object]:
    """The settings in the server's JSON. The server takes what it calls the share to keep for the share to evict
    (seen on 0.16.8: 0.9 leaves 2 of 13 messages, 0.3 leaves 11)."""
    body: dict[str, object] = settings.model_dump(exclude_defaults=True, exclude={"keep_percent"})
    if settings.keep_percent is not None:
        evicted = 1 - settings.keep_percent / 100
        body["sliding_window_percentage"] = round(max(evicted - FIRST_STEP, 0.01), 2)
    return body
