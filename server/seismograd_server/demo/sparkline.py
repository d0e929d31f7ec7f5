"""Many numbers in one line of text. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
BROKEN = "×"


def bounds(*series: Sequence[float]) -> tuple[float, float]:
    """The smallest and largest positive finite number of several series; (1, 1) when there is none."""
    values = [value for each in series for value in each if math.isfinite(value) and value > 0]
    return (min(values), max(values)) if values else (1.0, 1.0)


def sparkline(values: Sequence[float], width: int, low: float, high: float) -> str:
    """Bars of the largest value of each stretch, on a logarithmic scale from `low` to `high`, at most `width` long.

    A stretch with a value that is not finite is shown as such.

    >>> sparkline([1, 1, 10, 100, math.nan], 5, 1, 100)
    '▁▁▅█×'
    """
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)] if count else []
    stretches = [values[start:end] for start, end in itertools.pairwise(edges)]
    return "".join(_bar(stretch, low, high) for stretch in stretches)


def _bar(stretch: Sequence[float], low: float, high: float) -> str:
    if not all(math.isfinite(value) for value in stretch):
        return BROKEN
    value = max(stretch)
    if value <= low or high <= low:
        return BARS[0]
    # Differences of logarithms: the quotient of two norms may overflow.
    place = (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return BARS[min(len(BARS) - 1, round(place * (len(BARS) - 1)))]
