"""How often each of the sampled extras may be taken, so that all of them cost no more than their share of a step.

Pure: durations are arguments. The cadence of an extra is a power of two times the one asked for, counted in absolute
steps, so that ranks which reach different verdicts still sample some steps together.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Collection, Mapping

# The largest thinning: every 10,240th step by default. Beyond that sampling would be as good as off.
_MOST_DOUBLINGS = 10
# Sampling each of the first steps is worth more than its share, but not a training that crawls.
_FIRST_STEPS_SHARE = 0.25
# Of a window around an alert: seldom, and short.
_WHOLE_STEP_SHARE = 1.0
# Steps whose median is what a step takes: neither compilation, nor an evaluation or a save in between, buys samples.
_STEPS_REMEMBERED = 7
# So many make a median that one slow step does not decide.
_LEAST_MEASURED = 3
# Weight of the newest measurement: settles within some ten samples, rides over one slow one.
_NEWEST = 0.2


class Extra(enum.StrEnum):
    """What is taken on sampled steps only. The value is its name in a warning."""

    WEIGHTS = "weight and update norms"
    LARGEST = "largest gradient elements"
    GAIN = "spectral gain"
    LOCAL = "local norms"


_NEVER = 2**62
_NOTHING: frozenset[Extra] = frozenset()
_EVERYTHING = frozenset(Extra)


class Budget:
    """Decides which steps are sampled, and for what.

    `share` is the part of the step time that all extras together may take on average. `every` = 0 samples never.
    `possible` is what there is to sample here; whoever knows sets it.
    """

    def __init__(self, every: int, first: int, share: float = 0.01) -> None:
        self._every = every
        self._first = first
        self._share = share
        self._steps: deque[float] = deque(maxlen=_STEPS_REMEMBERED)
        self._costs: dict[Extra, float] = {}
        self._beside: deque[float] = deque(maxlen=_STEPS_REMEMBERED)
        self.possible = _EVERYTHING
        self.doublings = dict.fromkeys(Extra, 0)

    def samples(self, count: int) -> frozenset[Extra]:
        """What is to be sampled at the step with this count (from 0, whatever the user calls it)."""
        if self._every == 0:
            return _NOTHING
        chosen = _NOTHING
        if count % self._every == 0:
            chosen = frozenset(each for each in self.possible if count % (self._every << self.doublings[each]) == 0)
        return chosen | self._affordable(_FIRST_STEPS_SHARE, self.possible) if count < self._first else chosen

    def next_sample(self, count: int) -> int:
        """First count from this one on for which something may be to sample."""
        if self._every == 0 or not self.possible:
            return _NEVER
        cadence = self._every << min(self.doublings[each] for each in self.possible)
        return count if count < self._first else -(-count // cadence) * cadence

    def all_of(self, extras: frozenset[Extra]) -> frozenset[Extra]:
        """What of these a step can bear that somebody asked to see whole; none where the job wants nothing sampled.

        The dearest is left to its own cadence, where a step would take more than about twice its time with it.
        """
        return _NOTHING if self._every == 0 else self._affordable(_WHOLE_STEP_SHARE, extras)

    def step_took(self, seconds: float) -> None:
        """A step without extras took this long."""
        self._steps.append(seconds)

    def sampling_took(self, seconds: float) -> None:
        """This is what a sampled step cost whatever was sampled in it: its record is made in another way.

        It is spent as often as the most frequent extra is sampled, and saved only by thinning all those.
        """
        self._beside.append(seconds)

    def samples_took(self, seconds: Mapping[Extra, float]) -> None:
        """The extras taken in one step cost this much each; adapts their cadences, thinning the dearest first."""
        for extra, cost in seconds.items():
            self._costs[extra] = _blend(self._costs.get(extra), cost)
        if not self._steps or self._every == 0 or not self.possible:
            return
        allowed = self._share * max(self._step_seconds(), 1e-9) * self._every
        doublings = dict.fromkeys(sorted(self.possible), 0)
        while True:
            spent = {extra: self._costs.get(extra, 0.0) / 2**times for extra, times in doublings.items()}
            most_often = min(doublings.values())
            spent_beside = self._usual_beside() / 2**most_often
            left = [extra for extra in doublings if doublings[extra] < _MOST_DOUBLINGS]
            if sum(spent.values()) + spent_beside <= allowed or not left:
                break
            dearest = max(left, key=spent.__getitem__)
            thinned = [dearest]
            if spent_beside > spent[dearest]:
                thinned = [extra for extra in left if doublings[extra] == most_often]
            for extra in thinned:
                doublings[extra] += 1
        self.doublings |= doublings

    def _affordable(self, share: float, extras: frozenset[Extra]) -> frozenset[Extra]:
        """What of these fits into this share of a step, the cheapest first; all as long as nothing is known."""
        if not self._steps:
            return extras
        left = share * self._step_seconds() - self._usual_beside()
        chosen = set()
        for extra in sorted(extras, key=lambda each: self._costs.get(each, 0.0)):
            left -= self._costs.get(extra, 0.0)
            if left < 0.0:
                break
            chosen.add(extra)
        return frozenset(chosen)

    def _step_seconds(self) -> float:
        return _lower_median(self._steps)

    def _usual_beside(self) -> float:
        """Nothing as long as too few are known: thinned for a slow one, there would be no others for long."""
        return _lower_median(self._beside) if len(self._beside) >= _LEAST_MEASURED else 0.0


class CaptureShare:
    """Which share of its time the training thread spends in our hooks, recently."""

    def __init__(self) -> None:
        self._looked: tuple[float, float] | None = None  # when, and the running total then
        self._share: float | None = None

    def observe(self, now: float, hook_seconds: float) -> float:
        """Takes the running total of the time in hooks; the share, 0 to 1, with 0 = not known yet."""
        before, self._looked = self._looked, (now, hook_seconds)
        if before is not None and now > before[0]:
            self._share = _blend(self._share, min(1.0, (hook_seconds - before[1]) / (now - before[0])))
        return self._share or 0.0


def _lower_median(values: Collection[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + _NEWEST * (new - old)
