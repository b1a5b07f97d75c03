"""Parsing of the times that Letta and callers write."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_time(text: str) -> datetime | None:
    """An ISO 8601 date or time as an aware datetime: UTC if the text names no zone, as in Letta's times (0.16.8). None
    if the text is not a time."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
