"""`replica_desync`: replicas that must hold the same gradient do not: silent data corruption, or a broken setup.

Which of them is right cannot be known from two; of more, those that agree are taken at their word (`replicas.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from seismograd_server.detect.context import Context
from seismograd_server.detect.evidence import finite
from seismograd_server.detect.facts import Step
from seismograd_server.detect.ranks import on_host
from seismograd_server.detect.replicas import BEYOND_ROUNDING
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import DetectorStatus, Evidence, Finding, ReplicaGap, Severity, Signature, Visibility


@dataclass(frozen=True, slots=True)
class ReplicaDesyncConfig:
    """Thresholds of `replica_desync`."""

    # A relative distance beyond what another order of summation makes of the same numbers.
    beyond_rounding: float = BEYOND_ROUNDING
    # A hundredth is no rounding of any kind, and told at once. A smaller gap must be there a second time: weights that
    # have drifted apart make gradients that are apart from then on.
    certain_gap: float = 1e-2
    steps: int = 2
    # As long as this without any gap, and it is over.
    recovered_after_steps: int = 64


@dataclass(slots=True)
class ReplicaDesyncDetector:
    """Critical when replicas are apart by much, or again."""

    signature: ClassVar[Signature] = Signature.REPLICA_DESYNC

    config: ReplicaDesyncConfig = field(default=ReplicaDesyncConfig(), metadata=SETTING)
    active: bool = False
    since_step: int = 0
    apart: int = 0  # steps with a gap since the last long agreement
    agreeing: int = 0  # steps in a row since the last gap

    def observe(self, step: Step, context: Context) -> Finding | None:  # noqa: ARG002 (the protocol's form)
        """Look at the next step. Where something is not finite or was skipped, nothing can be compared."""
        if step.skipped or step.broken:
            return None
        gaps = _gaps(step, self.config.beyond_rounding)
        if not gaps:
            return self._agree(step)
        self.agreeing = 0
        if self.apart == 0:
            self.since_step = step.step
        self.apart += 1
        worst = max(gaps, key=lambda each: each.gap)
        if self.active or (self.apart < self.config.steps and worst.gap < self.config.certain_gap):
            return None
        self.active = True
        ranks = sorted({each.rank for each in gaps})
        who = (
            f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}{on_host(step.block.layout, worst.rank)}"
        )
        by = f"by {worst.gap:.2g} of the gradient's norm" if worst.gap < float("inf") else "entirely"
        evidence = Evidence(
            value=finite(worst.gap),
            baseline=0.0,
            threshold=self.config.beyond_rounding,
            leading_rank=worst.rank,
            details={"ranks": ranks},
        )
        reason = f"replicas of the same gradient differ: {who} {by}"
        return Finding(self.signature, Severity.CRITICAL, "", step.step, self.since_step, evidence, reason)

    def _agree(self, step: Step) -> Finding | None:
        if not self.apart:
            return None
        self.agreeing += 1
        if self.agreeing < self.config.recovered_after_steps:
            return None
        self.apart = 0
        if not self.active:
            return None
        self.active = False
        reason = f"replicas have agreed for {self.agreeing} steps"
        return Finding(self.signature, Severity.NONE, "", step.step, self.since_step, Evidence(), reason)

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """Until the next gap."""
        if self.apart:
            return 0
        gaps = stretch.facts.block.replica_gaps
        if not gaps:
            return stretch.count
        rows = (each.row - stretch.start for each in gaps if each.gap > self.config.beyond_rounding)
        return min((row for row in rows if 0 <= row < stretch.count), default=stretch.count)

    def skip(self, stretch: Stretch) -> None:
        """Nothing is counted while all agree."""

    def status(self, context: Context) -> DetectorStatus:  # noqa: ARG002 (the protocol's form)
        """Armed from the first step on; composition says whether there is anything to compare."""
        return DetectorStatus(self.signature, Visibility.ARMED, "")


def _gaps(step: Step, beyond: float) -> list[ReplicaGap]:
    return [each for each in step.block.replica_gaps if each.row == step.row and each.gap > beyond]
