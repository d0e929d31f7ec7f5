"""What is usual: robust memories of one number over the steps of a run.

    Baseline   median and spread of the latest accepted values: what the number is now, and how much it moves
    Record     the highest value that still counts: what the number has shown itself able to do

A baseline alone cannot tell a noisy run from an exploding one: late in training norms of 2^-10 jump by 2^6 and back all
day long. The record can, because such a run has done it before.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from seismograd_server.detect.state import NUMBERS, SETTING
from seismograd_server.model import Float64

# Enough for a median that one bad epoch's worth of batches cannot move, short enough to follow a warm-up.
_WINDOW = 64
_MIDDLE = (_WINDOW - 1) // 2  # place of the median, the lower one of two
# A spread below a fifth of an octave (15 %) would make rounding and batch order look like events.
_LEAST_SPREAD = 0.2
# Quantiles of the normal distribution that turn interquartile range and upper decile into a standard deviation. The
# upper decile is there because what matters is how far up the number goes when all is well, and tails are heavy.
_QUARTILES_TO_SIGMA = 1.349
_UPPER_DECILE_TO_SIGMA = 1.2816


@dataclass(slots=True)
class Baseline:
    """Median and spread of the latest `_WINDOW` accepted values.

    `ordered` holds the same values as `latest`, sorted: quantiles are then read off, not computed. Behind `follow_all`
    both are made when somebody asks for them: of a calm run that is hardly ever.
    """

    least_spread: float = _LEAST_SPREAD
    latest: list[float] = field(default_factory=list, metadata=NUMBERS)
    ordered: list[float] = field(default_factory=list, metadata=SETTING)
    followed: tuple[Float64, float] | None = field(default=None, metadata=SETTING, compare=False)  # window, its center

    @classmethod
    def of_window(cls, least_spread: float, window: Float64, center: float) -> Baseline:
        """One that is full: its latest values, float64[_WINDOW], and their median."""
        made = object.__new__(cls)
        made.least_spread, made.followed = least_spread, (window, center)
        return made

    def __getattr__(self, name: str) -> list[float]:
        """The lists of one that was made `of_window`."""
        if name not in {"latest", "ordered"} or self.followed is None:
            raise AttributeError(name)
        self.latest = self.followed[0].tolist()
        self.followed = None
        self.derive()
        found: list[float] = getattr(self, name)
        return found

    def derive(self) -> None:
        """Sort what has been restored."""
        self.ordered = sorted(self.latest)

    def __len__(self) -> int:
        return len(self.latest) if self.followed is None else _WINDOW

    def accept(self, value: float) -> None:
        """Take a finite value in; the oldest leaves when the window is full."""
        self.latest.append(value)
        insort(self.ordered, value)
        if len(self.latest) > _WINDOW:
            oldest = self.latest.pop(0)
            del self.ordered[bisect_left(self.ordered, oldest)]

    def full(self) -> bool:
        """Whether the oldest value leaves when a new one comes."""
        return self.followed is not None or len(self.latest) >= _WINDOW

    def accept_all(self, values: list[float], below: float = math.nan) -> list[float]:
        """Accept value after value, until one lies `below` or more above the center; the same as so many `accept`.

        NaN = no such limit: the distance of two losses may overflow, and Inf would be reached.

        Returns:
            the center before each value that was accepted.
        """
        centers: list[float] = []
        for value in values[: max(0, _WINDOW - len(self.latest))]:
            center = self.center()
            if value - center >= below:
                return centers
            centers.append(center)
            self.accept(value)
        filled, ordered, middle = len(centers), self.ordered, _MIDDLE
        passing = self.latest + values[filled:]
        # Spelt out, because this loop is what a healthy run costs.
        for oldest, value in zip(passing, values[filled:], strict=False):
            center = ordered[middle]
            if value - center >= below:
                break
            centers.append(center)
            insort(ordered, value)
            del ordered[bisect_left(ordered, oldest)]
        accepted = len(centers) - filled
        self.latest = passing[accepted : accepted + len(self.latest)]
        return centers

    def copy(self) -> Baseline:
        """One that goes its own way from here on."""
        return Baseline(self.least_spread, self.latest[:], self.ordered[:])

    def window(self) -> Float64:
        """The latest values, for many baselines at once."""
        return np.array(self.latest) if self.followed is None else self.followed[0]

    def restart(self, values: list[float]) -> None:
        """Forget, and begin again with these: the level has moved for good."""
        self.latest, self.followed = values[-_WINDOW:], None
        self.derive()

    def center(self) -> float:
        """Median (the lower one of two); NaN = nothing accepted yet."""
        if self.followed is not None:
            return self.followed[1]
        return self.ordered[(len(self.ordered) - 1) // 2] if self.ordered else math.nan

    def lower_quartile(self) -> float:
        """Below which one value in four lies; NaN = nothing accepted yet."""
        return self.ordered[len(self.ordered) // 4] if self.ordered else math.nan

    def spread(self) -> float:
        """How far values usually lie from the center, as one standard deviation; never below `least_spread`."""
        count = len(self.ordered)
        if count < 2:
            return self.least_spread
        quartiles = self.ordered[(3 * count) // 4] - self.ordered[count // 4]
        upper = self.ordered[(9 * count) // 10] - self.center()
        return max(self.least_spread, quartiles / _QUARTILES_TO_SIGMA, upper / _UPPER_DECILE_TO_SIGMA)


@dataclass(slots=True, eq=False)
class Followed:
    """What some values have taught.

    Attributes:
        baseline: afterwards.
        centers: before each value.
        lowest: of these.
        highest: of these.
        above: float64[k], by how much each value lies above the center before it.
        furthest: the largest of these.

    Where there was no value, lowest, highest and furthest are NaN.
    """

    baseline: Baseline
    centers: list[float]
    lowest: float
    highest: float
    above: Float64
    furthest: float


def follow(baseline: Baseline, values: Float64, below: float = math.nan) -> Followed:
    """What `accept_all` makes of a copy of a baseline."""
    if not len(values):
        return Followed(baseline, [], math.nan, math.nan, values, math.nan)
    after = baseline.copy()
    centers = after.accept_all(values.tolist(), below)
    if not centers:
        return Followed(after, [], math.nan, math.nan, values[:0], math.nan)
    with np.errstate(over="ignore"):
        above = values[: len(centers)] - centers
    return Followed(after, centers, min(centers), max(centers), above, float(above.max()))


def follow_all(baselines: Sequence[Baseline], values: Sequence[Float64]) -> list[Followed]:
    """The same of many baselines, each with values of its own.

    To sort every window of all of them costs a fraction of following one value after the other.
    """
    full = [number for number, own in enumerate(values) if len(own) and baselines[number].full()]
    at_once = _follow([baselines[each] for each in full], [values[each] for each in full])
    if len(full) == len(values):
        return at_once
    known = dict(zip(full, at_once, strict=True))
    return [
        known[number] if number in known else follow(baseline, own)
        for number, (baseline, own) in enumerate(zip(baselines, values, strict=True))
    ]


def _follow(baselines: Sequence[Baseline], values: Sequence[Float64]) -> list[Followed]:
    """The same for full baselines, each with a value at least."""
    if not baselines:
        return []
    starts = [0, *accumulate(map(len, values))]  # of each one's values
    pieces: list[Float64] = []
    for baseline, own in zip(baselines, values, strict=True):
        pieces += (baseline.window(), own)
    # One window more than values: the last one is what the next value would meet. None reaches into the next run's.
    counts, places = np.array([len(own) + 1 for own in values]), np.arange(len(values))
    rows = np.arange(counts.sum()) + np.repeat(places * (_WINDOW - 1), counts)
    ordered = sliding_window_view(np.concatenate(pieces), _WINDOW)[rows]
    ends = np.array(starts[1:]) + places
    last = ordered[ends]
    ordered.sort(axis=1)
    centers = ordered[:, _MIDDLE]
    after, before = centers[ends].tolist(), np.delete(centers, ends)
    firsts = starts[:-1]
    with np.errstate(over="ignore"):
        above = np.concatenate(values) - before
    told = zip(
        baselines,
        last,
        after,
        np.minimum.reduceat(before, firsts).tolist(),
        np.maximum.reduceat(before, firsts).tolist(),
        np.maximum.reduceat(above, firsts).tolist(),
        pairwise(starts),
        strict=True,
    )
    known = before.tolist()
    return [
        Followed(
            # A view would keep the windows of all others in memory.
            baseline=Baseline.of_window(baseline.least_spread, window.copy(), center),
            centers=known[start:stop],
            lowest=lowest,
            highest=highest,
            above=above[start:stop],
            furthest=furthest,
        )
        for baseline, window, center, lowest, highest, furthest, (start, stop) in told
    ]


# Half a record is forgotten in this many steps: long against the bursts of an overfitted run, short against training,
# so that a wild start does not hide an explosion for ever.
_RECORD_HALF_LIFE = 256
# What has just happened is no record yet: a rise is judged against what came before it.
_RECORD_DELAY = 8
# One value raises the record by no more than this: a single outlier is not yet something that the run does.
_RECORD_STEP = 1.0


@dataclass(slots=True)
class Record:
    """The highest value of the past in octaves, leaking slowly downwards."""

    height: float = -math.inf
    waiting: list[float] = field(default_factory=list)

    def accept(self, value: float) -> None:
        """Take an ordinary value in; it counts after a delay."""
        self.height -= 1.0 / _RECORD_HALF_LIFE
        self.waiting.append(value)
        if len(self.waiting) > _RECORD_DELAY:
            value = self.waiting.pop(0)
            known = self.height > -math.inf
            self.height = max(self.height, min(value, self.height + _RECORD_STEP) if known else value)

    def accept_all(self, values: list[float]) -> None:
        """The same as `accept` for value after value."""
        passing = self.waiting + values
        counting = max(0, len(passing) - _RECORD_DELAY)
        height, leak = self.height, 1.0 / _RECORD_HALF_LIFE
        for _ in range(len(values) - counting):
            height -= leak
        for value in passing[:counting]:
            height -= leak
            if value > height:
                height = min(value, height + _RECORD_STEP) if height > -math.inf else value
        self.height, self.waiting = height, passing[counting:]

    def survive(self, peak: float, at_most: float) -> None:
        """Take in the peak of an excursion that is over: it was survived, so the next one of its kind alarms later.

        It counts for no more than `at_most` octaves above the record, lest one wild spike blind the detectors.
        """
        self.height = max(self.height, min(peak, self.height + at_most))

    def excess(self, value: float) -> float:
        """How far a value lies above the record; +Inf where there is no record yet."""
        return value - self.height
