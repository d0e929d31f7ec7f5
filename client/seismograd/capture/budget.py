"""How often the sampled extras may be taken, so that they cost no more than their share of the step time.

Pure: durations are arguments. The cadence is a power of two times the one asked for, counted in absolute steps, so that
ranks which reach different verdicts still sample some steps together.
"""

from __future__ import annotations

# The largest thinning: every 10,240th step by default. Beyond that sampling would be as good as off.
_MOST_DOUBLINGS = 10
# Sampling each of the first steps is worth more than its share, but not a training that crawls.
_FIRST_STEPS_SHARE = 0.25
# Weight of the newest measurement: settles within some ten samples, rides over one slow one.
_NEWEST = 0.2


class Budget:
    """Decides which steps are sampled.

    `share` is the part of the step time that the extras may take on average. `every` = 0 samples never.
    """

    def __init__(self, every: int, first: int, share: float = 0.01) -> None:
        self._every = every
        self._first = first
        self._share = share
        self._step_seconds: float | None = None
        self._sample_seconds: float | None = None
        self.doublings = 0

    def samples(self, count: int) -> bool:
        """Whether the step with this count (from 0, whatever the user calls it) is to be sampled."""
        if self._every == 0:
            return False
        if count < self._first and self._affordable(_FIRST_STEPS_SHARE):
            return True
        return count % (self._every << self.doublings) == 0

    def step_took(self, seconds: float) -> None:
        """A step without extras took this long."""
        self._step_seconds = _blend(self._step_seconds, seconds)

    def sample_took(self, seconds: float) -> None:
        """The extras of one step cost this much; adapts the cadence."""
        self._sample_seconds = _blend(self._sample_seconds, seconds)
        if self._step_seconds is None or self._every == 0:
            return
        interval = self._sample_seconds / (self._share * max(self._step_seconds, 1e-9))
        doublings = 0
        while doublings < _MOST_DOUBLINGS and (self._every << doublings) < interval:
            doublings += 1
        self.doublings = doublings

    def _affordable(self, share: float) -> bool:
        if self._sample_seconds is None or self._step_seconds is None:
            return True
        return self._sample_seconds <= share * self._step_seconds


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + _NEWEST * (new - old)
