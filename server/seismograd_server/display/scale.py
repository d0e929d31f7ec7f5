"""From numbers to places on paper: linear and logarithmic scales with round ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from seismograd_server.display.numbers import figure, power_of_ten

Places = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis."""

    place: float
    label: str


class Scale(Protocol):
    """Maps values to places; values outside the domain land outside the range, or at its edge where they cannot."""

    def places(self, values: Places) -> Places:
        """Places of many values; NaN stays NaN."""

    def ticks(self) -> tuple[Tick, ...]:
        """Round values inside the domain, labelled."""


@dataclass(frozen=True, slots=True)
class LinearScale:
    """A linear scale from [low, high] to [start, end], with about `wanted` ticks."""

    low: float
    high: float
    start: float
    end: float
    wanted: int = 5
    whole: bool = False  # ticks at whole numbers only, as for steps

    def places(self, values: Places) -> Places:
        """Places of many values; NaN stays NaN."""
        span = (self.high - self.low) or 1.0
        return self.start + (np.asarray(values, np.float64) - self.low) / span * (self.end - self.start)

    def ticks(self) -> tuple[Tick, ...]:
        """Multiples of 1, 2 or 5 times a power of ten."""
        span = self.high - self.low
        if not span > 0:
            return (Tick(self.start, figure(self.low, 6)),)
        spacing = _round_spacing(span / self.wanted)
        if self.whole:
            spacing = max(1.0, spacing)
        first = math.ceil(self.low / spacing - 1e-9)
        last = math.floor(self.high / spacing + 1e-9)
        values = [index * spacing for index in range(first, last + 1)]
        places = self.places(np.array(values))
        labels = [f"{round(value):,}" if self.whole else figure(value, 4) for value in values]
        return tuple(Tick(place, label) for place, label in zip(places.tolist(), labels, strict=True))


@dataclass(frozen=True, slots=True)
class LogScale:
    """A logarithmic scale from whole powers of ten; zero lands at the lower edge, infinity at the upper."""

    low_exponent: int
    high_exponent: int
    start: float
    end: float
    wanted: int = 7

    @classmethod
    def around(cls, values: Places, start: float, end: float) -> LogScale:
        """The smallest whole decades around the finite positive values; one decade when there are none."""
        shown = np.asarray(values, np.float64)
        shown = shown[np.isfinite(shown) & (shown > 0)]
        if not shown.size:
            return cls(-1, 1, start, end)
        low = math.floor(math.log10(float(shown.min())) + 1e-9)
        high = math.ceil(math.log10(float(shown.max())) - 1e-9)
        return cls(low, high if high > low else low + 1, start, end)

    def places(self, values: Places) -> Places:
        """Places of many values; NaN stays NaN."""
        with np.errstate(divide="ignore", invalid="ignore"):
            exponents = np.log10(np.asarray(values, np.float64))
        exponents = np.clip(exponents, self.low_exponent, self.high_exponent)
        span = self.high_exponent - self.low_exponent
        return self.start + (exponents - self.low_exponent) / span * (self.end - self.start)

    def ticks(self) -> tuple[Tick, ...]:
        """Powers of ten, every one or every so many."""
        decades = self.high_exponent - self.low_exponent
        spacing = max(1, math.ceil(decades / self.wanted))
        first = math.ceil(self.low_exponent / spacing) * spacing
        return tuple(
            Tick(
                self.start + (exponent - self.low_exponent) / decades * (self.end - self.start),
                power_of_ten(exponent),
            )
            for exponent in range(first, self.high_exponent + 1, spacing)
        )


def _round_spacing(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    for multiple in (1.0, 2.0, 5.0):
        if rough <= multiple * power * (1 + 1e-9):
            return multiple * power
    return 10.0 * power
