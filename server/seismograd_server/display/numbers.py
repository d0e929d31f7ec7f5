"""Numbers as people read them: few digits, powers of ten, durations, times in UTC."""

from __future__ import annotations

import datetime as dt
import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(exponent: int) -> str:
    """A power of ten as an axis shows it.

    >>> power_of_ten(-3)
    '10⁻³'
    """
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def figure(value: float | None, digits: int = 3) -> str:
    r"""A number with so many significant digits, as a power of ten outside 0.001 to 99,999; "–" for None.

    It never breaks over a line.

    >>> figure(0.83412), figure(1234.5), figure(3.2e9), figure(float("nan"))
    ('0.834', '1,234', '3.2\xa0×\xa010⁹', 'NaN')
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if -4 < magnitude < 5:
        return _trimmed(f"{value:,.{max(0, digits - 1 - magnitude)}f}").replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{_trimmed(mantissa)}\u00a0×\u00a0{power_of_ten(int(exponent))}".replace("-", "−")


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def share(value: float) -> str:
    """A fraction as percent.

    >>> share(0.031), share(0.0004), share(1.0)
    ('3.1 %', '0.04 %', '100 %')
    """
    percent = 100 * value
    if percent == 0 or percent >= 99.95:
        return f"{percent:.0f} %"
    if percent >= 10:
        return f"{percent:.0f} %"
    return f"{percent:.1f} %" if percent >= 0.1 else f"{figure(percent, 1)} %"


def times(ratio: float) -> str:
    """A factor.

    >>> times(2.0), times(37.4), times(1e7)
    ('2×', '37×', '10⁷×')
    """
    if ratio >= 1e5 and math.isfinite(ratio):
        return f"{power_of_ten(round(math.log10(ratio)))}×"
    return f"{figure(ratio, 2)}×"


def byte_size(count: int) -> str:
    """A number of bytes in the largest unit that it fills.

    >>> byte_size(512), byte_size(3 * 2**20), byte_size(5_400_000_000)
    ('512 B', '3 MiB', '5.03 GiB')
    """
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{figure(value)} {unit}"


def duration(seconds: float) -> str:
    """A length of time in its two largest units.

    >>> duration(0.0042), duration(3.21), duration(75), duration(7300), duration(200000)
    ('4.2 ms', '3.2 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"−{duration(-seconds)}" if seconds < 0 else _short_duration(seconds)
    whole = round(seconds)
    if whole < 3600:
        return _two_units(whole // 60, "min", whole % 60, "s")
    if whole < 86400:
        return _two_units(whole // 3600, "h", whole % 3600 // 60, "min")
    return _two_units(whole // 86400, "d", whole % 86400 // 3600, "h")


def _short_duration(seconds: float) -> str:
    if seconds < 1:
        return f"{figure(seconds * 1e3, 2)} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _two_units(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large:,} {large_unit} {small} {small_unit}" if small else f"{large:,} {large_unit}"


def timestamp(unix_seconds: float | None) -> str:
    """A moment in UTC to the second; "–" for None and for what no calendar holds.

    >>> timestamp(0)
    '1970-01-01 00:00:00 UTC'
    """
    if unix_seconds is None:
        return "–"
    try:
        moment = dt.datetime.fromtimestamp(unix_seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return "–"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def clock_time(unix_seconds: float) -> str:
    """The time of day in UTC, for rows that already stand under a date."""
    try:
        return dt.datetime.fromtimestamp(unix_seconds, dt.UTC).strftime("%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "–"


def octaves(value: float) -> str:
    """A level in doublings, signed.

    >>> octaves(4.21), octaves(-1)
    ('+4.2', '−1.0')
    """
    return f"{value:+.1f}".replace("-", "−")
