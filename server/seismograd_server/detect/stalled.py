"""`stalled`: no step for far longer than usual although the process lives, or single ranks that have fallen silent.

Closed steps cannot tell of their own absence. So `silence` is asked now and then, with how long nothing has come. It
changes nothing, and the next step ends it: nothing needs to be remembered, and a restart repeats what was said.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import numpy as np

from seismograd_server.detect.context import Context
from seismograd_server.detect.facts import Step
from seismograd_server.detect.ranks import on_host
from seismograd_server.detect.state import NUMBERS, SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import (
    Bool,
    DetectorStatus,
    Evidence,
    Finding,
    Int64,
    Layout,
    Severity,
    Signature,
    Visibility,
)

# Steps whose times are kept: long enough to hold the pauses (evaluation, checkpoints) that a run usually makes.
_STEPS_KEPT = 129
# Without any usual step time there is nothing to compare with.
_LEAST_STEPS = 20
# Ranks in the reason: more than a person reads would only bloat the alert.
_RANKS_NAMED = 8


@dataclass(frozen=True, slots=True)
class StalledConfig:
    """Thresholds of `stalled`."""

    # Twenty usual steps, twice the longest pause of late, and in any case two minutes: an evaluation, a checkpoint or a
    # compilation are none.
    times_usual: float = 20.0
    times_longest: float = 2.0
    least_seconds: float = 120.0
    # A step closes without a rank only after seconds of waiting for it: so many in a row are no delay.
    absent_steps: int = 64


@dataclass(slots=True)
class StalledDetector:
    """Warns of ranks that are missing from step after step, and of silence when asked."""

    signature: ClassVar[Signature] = Signature.STALLED

    config: StalledConfig = field(default=StalledConfig(), metadata=SETTING)
    last_step: int = 0
    times: list[float] = field(default_factory=list, metadata=NUMBERS)  # of the latest steps, by the run's own clock
    since_step: int = 0
    absent_for: Int64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # [r] steps; empty = none is
    told: int = 0  # absent ranks at the last finding

    def observe(self, step: Step, context: Context) -> Finding | None:  # noqa: ARG002 (the protocol's form)
        """Look at the next step."""
        at = float(step.block.times[step.row])
        pause = at - self.times[-1] if self.times else 0.0
        self.last_step = step.step
        self.times = [*self.times[1 - _STEPS_KEPT :], at]
        present = step.block.ranks_present[step.row]
        self._count(present[None, :])
        missing = np.flatnonzero(self.absent_for >= self.config.absent_steps).tolist()
        if len(missing) > self.told:
            if not self.told:
                self.since_step = step.step
            self.told = len(missing)
            return self._missing(step, missing, int(present.sum()))
        if pause >= self.config.least_seconds or (self.told and not missing):
            self.told = len(missing)
            reason = f"steps come again, after {pause:.0f} s" if pause > 1.0 else "all ranks are there again"
            return Finding(self.signature, Severity.NONE, "", step.step, step.step, Evidence(), reason)
        return None

    def silence(self, seconds: float) -> Finding | None:
        """Say whether so many seconds without any record are too many; None = they are not, or it cannot be told."""
        if seconds < self.config.least_seconds:  # nearly always; the limit takes two sorts
            return None
        usual = self._usual()
        limit = self._limit(usual)
        if usual is None or limit is None or seconds < limit:
            return None
        reason = f"no step for more than {limit:.0f} s, usually they take {usual:.3g} s"
        evidence = Evidence(value=limit, baseline=usual, threshold=limit)
        return Finding(self.signature, Severity.WARNING, "", self.last_step, self.last_step, evidence, reason)

    def _usual(self) -> float | None:
        """Seconds that a step usually takes; None = not known yet."""
        if len(self.times) < _LEAST_STEPS:
            return None
        return float(np.median(np.diff(self.times)))

    def _limit(self, usual: float | None) -> float | None:
        longest = float(np.max(np.diff(self.times), initial=0.0))
        if usual is None or not (np.isfinite(usual) and np.isfinite(longest)):
            return None
        config = self.config
        return max(config.least_seconds, config.times_usual * usual, config.times_longest * longest)

    def _missing(self, step: Step, ranks: list[int], present: int) -> Finding:
        layout: Layout = step.block.layout
        named = [f"{rank}{on_host(layout, rank)}" for rank in ranks[:_RANKS_NAMED]]
        more = f" and {len(ranks) - len(named)} more" if len(ranks) > len(named) else ""
        reason = (
            f"rank{'s' if len(ranks) > 1 else ''} {', '.join(named)}{more} missing from the last "
            f"{self.config.absent_steps} steps, {present} ranks go on"
        )
        evidence = Evidence(
            value=float(len(ranks)),
            baseline=0.0,
            threshold=float(self.config.absent_steps),
            leading_rank=ranks[0],
            details={"ranks": ranks},
        )
        return Finding(self.signature, Severity.WARNING, "", step.step, self.since_step, evidence, reason)

    def _count(self, present: Bool) -> None:
        """Take in who is present, bool[k, r], in steps in a row."""
        if present.all():
            self.absent_for = np.zeros(0, dtype=np.int64)
            return
        if len(self.absent_for) != present.shape[1]:
            self.absent_for = np.zeros(present.shape[1], dtype=np.int64)
        there = present[::-1]
        run = np.where(there.any(axis=0), there.argmax(axis=0), len(present))
        self.absent_for = np.where(run == len(present), self.absent_for + run, run)

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """Until a long pause, or as long as no rank is missing."""
        start, stop = stretch.start, stretch.start + stretch.count
        if self.told or len(self.absent_for) or not stretch.facts.all_present:
            return 0
        least, since = self.config.least_seconds, self.times[-1:]
        if stretch.facts.longest_pause < least and since and stretch.facts.times.item(start) - since[0] < least:
            return stretch.count
        times = [*since, *stretch.facts.times[start:stop].tolist()]
        first = stretch.count + 1 - len(times)  # 0 with a time from before the stretch, else 1
        pauses = (row for row, (before, at) in enumerate(pairwise(times), start=first) if at - before >= least)
        return min(pauses, default=stretch.count)

    def skip(self, stretch: Stretch) -> None:
        """Times are kept."""
        facts, stop = stretch.facts, stretch.start + stretch.count
        self.last_step = facts.steps.item(stop - 1)
        self.times += facts.times[max(stretch.start, stop - _STEPS_KEPT) : stop].tolist()
        del self.times[:-_STEPS_KEPT]

    def status(self, context: Context) -> DetectorStatus:  # noqa: ARG002 (the protocol's form)
        """Armed when it is known how long a step takes."""
        if len(self.times) < _LEAST_STEPS:
            because = f"{len(self.times)} of {_LEAST_STEPS} steps for a usual step time"
            return DetectorStatus(self.signature, Visibility.WARMING_UP, because)
        return DetectorStatus(self.signature, Visibility.ARMED, "")
