"""Formats names, ids, times and durations for one line."""

from __future__ import annotations

from datetime import datetime

from letta_conversations_mcp.core.times import parse_time
from letta_conversations_mcp.core.untrusted import escaped

CUT = "…"


def one_line(text: str, limit: int = 200) -> str:
    """The text on one line, without control characters, at most `limit` characters long."""
    line = escaped(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + CUT


def short_id(conversation_id: str) -> str:
    """The beginning of an id, enough to recognise it."""
    return f"{conversation_id[:9]}{CUT}" if conversation_id.startswith("conv-") else conversation_id


def clock(at: str, now: datetime | None = None) -> str:
    """A time of the server's where the reader is: the time of day, with the date unless that is today's."""
    read = parse_time(at)
    if read is None:
        return escaped(at)
    local = read.astimezone()
    today = (now or datetime.now().astimezone()).date()
    if local.date() == today:
        return local.strftime("%H:%M")
    return local.strftime("%-d %b %H:%M" if local.year == today.year else "%-d %b %Y %H:%M")


def lasted(seconds: float) -> str:
    """A duration: 0.8 s, 4 s, 2 min 5 s."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
