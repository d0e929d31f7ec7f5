"""How people say since when: `7d`, `12h`, or a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_since(text: str, now: datetime) -> datetime:
    """A moment: so long before now, or an ISO date or time (UTC, unless it says otherwise).

    Raises:
        ValueError: it is neither.

    >>> parse_since("36h", datetime(2026, 1, 3, tzinfo=UTC)).isoformat()
    '2026-01-01T12:00:00+00:00'
    >>> parse_since("2026-01-02", datetime(2026, 1, 3, tzinfo=UTC)).isoformat()
    '2026-01-02T00:00:00+00:00'
    """
    if match := re.fullmatch(r"(\d{1,6})([smhdw])", text):
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def parse_span(text: str) -> float:
    """Seconds of a time span.

    Raises:
        ValueError: it is none.

    >>> parse_span("90m")
    5400.0
    """
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if match is None:
        raise ValueError(text)
    return timedelta(**{_UNITS[match[2]]: int(match[1])}).total_seconds()


class Span(click.ParamType[float]):
    """Such a span as an option, in seconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, or fail as options do."""
        if isinstance(value, float):
            return value
        try:
            return parse_span(str(value))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time span such as 30m, 12h, 7d or 4w.", param, ctx)


class Since(click.ParamType[datetime]):
    """Such a moment as an option."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it, or fail as options do."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_since(str(value), datetime.now(UTC))
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither a time span such as 12h, 7d or 4w nor a date such as 2026-01-31.", param, ctx
            )
