"""The order of conversations in a list, where it is made here and not by a server. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from letta_conversations_mcp.core.model import Conversation, ConversationQuery


def in_order(conversations: Iterable[Conversation], query: ConversationQuery) -> list[Conversation]:
    """By time, then by id, and what has no time at the end, in both directions: as the REST API has it. The time of the
    last message stands for that of the last run, which nobody tells."""

    def time(each: Conversation) -> str:
        return each.created_at if query.order_by == "created_at" else each.last_message_at

    def place(each: Conversation) -> tuple[datetime, str]:
        return datetime.fromisoformat(time(each)), each.id

    every = list(conversations)
    descending = query.order == "desc"
    timed = sorted((each for each in every if time(each)), key=place, reverse=descending)
    others = sorted((each for each in every if not time(each)), key=lambda each: each.id, reverse=descending)
    return [*timed, *others]
