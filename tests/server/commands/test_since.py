from __future__ import annotations

from datetime import UTC, datetime

import pytest

from seismograd_server.commands.since import parse_since

NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", "2026-03-08T10:30:00+00:00"),
        ("36h", "2026-03-07T00:00:00+00:00"),
        ("7d", "2026-03-01T12:00:00+00:00"),
        ("1w", "2026-03-01T12:00:00+00:00"),
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
        ("2026-01-31T10:00:00+02:00", "2026-01-31T10:00:00+02:00"),
    ],
)
def test_a_moment_is_a_span_before_now_or_a_date(text: str, moment: str) -> None:
    assert parse_since(text, NOW).isoformat() == moment


@pytest.mark.parametrize("text", ["", "7", "d", "7y", "yesterday", "2026-13-01", "-3d"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_since(text, NOW)
