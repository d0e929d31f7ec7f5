"""How often each of the sampled extras may be taken, so that all of them cost no more than their share of a step.

Pure: durations are arguments. The cadence of an extra is a power of two times the one asked for, counted in absolute
steps, so that ranks which reach different verdicts still sample some steps together.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping

# The largest thinning: every 10,240th step by default. Beyond that sampling would be as good as off.
_MOST_DOUBLINGS = 10
# Sampling each of the first steps is worth more than its share, but not a training that crawls.
_FIRST_STEPS_SHARE = 0.25
# Of a window around an alert: seldom, and short.
_WHOLE_STEP_SHARE = 1.0
# Steps whose median is what a step takes: neither compilation, nor an evaluation or a save in between, buys samples.
_STEPS_REMEMBERED = 7
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
    """

    def __init__(self, every: int, first: int, share: float = 0.01) -> None:
        self._every = every
        self._first = first
        self._share = share
        self._steps: deque[float] = deque(maxlen=_STEPS_REMEMBERED)
        self._costs: dict[Extra, float] = {}
        self.doublings = dict.fromkeys(Extra, 0)

    def samples(self, count: int) -> frozenset[Extra]:
        """What is to be sampled at the step with this count (from 0, whatever the user calls it)."""
        if self._every == 0:
            return _NOTHING
        chosen = _NOTHING
        if count % self._every == 0:
            chosen = frozenset(each for each in Extra if count % (self._every << self.doublings[each]) == 0)
        return chosen | self._affordable(_FIRST_STEPS_SHARE) if count < self._first else chosen

    def next_sample(self, count: int) -> int:
        """First count from this one on for which something may be to sample."""
        if self._every == 0:
            return _NEVER
        return count if count < self._first else -(-count // self._every) * self._every

    def all_of_it(self) -> frozenset[Extra]:
        """What a step can bear that somebody asked to see whole; nothing where the job wants nothing sampled.

        The dearest is left to its own cadence, where a step would take more than about twice its time with it.
        """
        return _NOTHING if self._every == 0 else self._affordable(_WHOLE_STEP_SHARE)

    def step_took(self, seconds: float) -> None:
        """A step without extras took this long."""
        self._steps.append(seconds)

    def samples_took(self, seconds: Mapping[Extra, float]) -> None:
        """The extras taken in one step cost this much each; adapts their cadences, thinning the dearest first."""
        for extra, cost in seconds.items():
            self._costs[extra] = _blend(self._costs.get(extra), cost)
        if not self._steps or self._every == 0:
            return
        allowed = self._share * max(self._step_seconds(), 1e-9)
        self.doublings = dict.fromkeys(Extra, 0)
        a_step = {extra: cost / self._every for extra, cost in self._costs.items()}  # on average
        while sum(a_step.values()) > allowed:
            left = [extra for extra in a_step if self.doublings[extra] < _MOST_DOUBLINGS]
            if not left:
                break
            dearest = max(left, key=a_step.__getitem__)
            self.doublings[dearest] += 1
            a_step[dearest] /= 2.0

    def _affordable(self, share: float) -> frozenset[Extra]:
        """What fits into this share of a step, the cheapest first; all of it as long as nothing is known."""
        if not self._steps:
            return _EVERYTHING
        left = share * self._step_seconds()
        chosen = set()
        for extra in sorted(Extra, key=lambda each: self._costs.get(each, 0.0)):
            left -= self._costs.get(extra, 0.0)
            if left < 0.0:
                break
            chosen.add(extra)
        return frozenset(chosen)

    def _step_seconds(self) -> float:
        return sorted(self._steps)[(len(self._steps) - 1) // 2]


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


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + _NEWEST * (new - old)
