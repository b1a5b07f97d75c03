"""Times as Letta and callers write them."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_time(text: str) -> datetime | None:
    """An ISO 8601 date or time, with a zone: UTC where the text names none, as in Letta's times (0.16.8). None if the
    text is no time."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
