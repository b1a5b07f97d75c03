"""Times as Letta and callers write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from letta_conversations_mcp.core.times import parse_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21T06:12:00Z", datetime(2026, 11, 21, 6, 12, tzinfo=UTC)),
        ("2026-11-21T06:12:00", datetime(2026, 11, 21, 6, 12, tzinfo=UTC)),
        ("2026-11-21", datetime(2026, 11, 21, tzinfo=UTC)),
        ("2026-11-21T06:12:00+02:00", datetime(2026, 11, 21, 6, 12, tzinfo=timezone(timedelta(hours=2)))),
        ("", None),
        ("yesterday", None),
    ],
)
def test_a_time_without_zone_is_in_utc(text: str, expected: datetime | None) -> None:
    assert parse_time(text) == expected
