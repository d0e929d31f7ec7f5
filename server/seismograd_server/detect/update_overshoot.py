"""`update_overshoot`: updates replace more of the weights than any healthy run's, as the optimizer really made them.

Judged by sampled updates only: an estimate would repeat what the norm has said already.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import ClassVar

from seismograd_server.detect.context import Context
from seismograd_server.detect.evidence import finite, leaders, norm_evidence
from seismograd_server.detect.facts import Step, from_octaves
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import DetectorStatus, Evidence, Finding, Severity, Signature, Visibility

# Without a sample for so long, nothing can be said.
_OLDEST_SAMPLE_STEPS = 256


@dataclass(frozen=True, slots=True)
class UpdateOvershootConfig:
    """Thresholds of `update_overshoot`: log2 of update over weight norm."""

    # A twentieth of the weights: healthy runs stay below it once they have warmed up.
    overshoot_ratio: float = -4.25
    # Two samples in a row, because one bad batch makes one large update.
    samples: int = 2
    # Sustained: so many samples in a row, over so many steps, each with a loss that is worse than untrained.
    sustained_samples: int = 4
    sustained_steps: int = 16
    worse_octaves: float = 0.5
    # As many samples below half of it, and it is over.
    recovered_samples: int = 4


@dataclass(slots=True)
class UpdateOvershootDetector:
    """Warns at the second oversized update in a row; critical when they go on and the loss is worse than untrained."""

    signature: ClassVar[Signature] = Signature.UPDATE_OVERSHOOT

    config: UpdateOvershootConfig = field(default=UpdateOvershootConfig(), metadata=SETTING)
    severity: int = Severity.NONE
    since_step: int = 0
    large: int = 0  # samples in a row
    small: int = 0  # samples in a row
    steps: int = 0  # since the first large one, or since the last sample

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        self.steps += 1
        reading, config = context.reading, self.config
        if not reading.judged or not reading.ratio_is_sampled or step.skipped or not context.armed():
            return None
        if reading.ratio < config.overshoot_ratio:
            return self._small(step, reading.ratio)
        self.small = 0
        if self.large == 0:
            self.steps = 0
            if self.severity == Severity.NONE:
                self.since_step = step.step
        self.large += 1
        sustained = self.large >= config.sustained_samples and self.steps >= config.sustained_steps
        severity = Severity.WARNING
        if sustained and context.lately_untrained() >= config.worse_octaves:
            severity = Severity.CRITICAL
        if self.large < config.samples or severity <= self.severity:
            return None
        self.severity = severity
        share = "all" if reading.ratio >= 0.0 else f"{2.0**reading.ratio:.0%}"
        sustained_for = f" for {self.steps} steps" if severity is Severity.CRITICAL else ""
        reason = (
            f"updates replace {share} of the weights{sustained_for}{leaders(step, context, context.ranks.leading())}"
        )
        evidence = replace(
            norm_evidence(step, context),
            value=finite(from_octaves(reading.ratio)),
            baseline=finite(from_octaves(context.updates.usual.center())),
            threshold=from_octaves(config.overshoot_ratio),
        )
        return Finding(self.signature, severity, "", step.step, self.since_step, evidence, reason)

    def _small(self, step: Step, ratio: float) -> Finding | None:
        self.large, self.steps = 0, 0
        if self.severity == Severity.NONE or ratio >= self.config.overshoot_ratio - 1.0:
            return None
        self.small += 1
        if self.small < self.config.recovered_samples:
            return None
        self.severity, self.small = Severity.NONE, 0
        reason = f"updates replace {2.0**ratio:.1%} of the weights again"
        return Finding(self.signature, Severity.NONE, "", step.step, self.since_step, Evidence(), reason)

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """Until the first large sample."""
        if self.severity != Severity.NONE or self.large:
            return 0
        facts = stretch.facts
        place = bisect_left(facts.sampled, stretch.start)
        for row in facts.sampled[place : bisect_left(facts.sampled, stretch.start + stretch.count)]:
            if facts.columns.ratios[facts.start + row] >= self.config.overshoot_ratio:
                return row - stretch.start
        return stretch.count

    def skip(self, stretch: Stretch) -> None:
        """Steps are counted from the last sample on."""
        facts, stop = stretch.facts, stretch.start + stretch.count
        place = bisect_left(facts.sampled, stop) - 1
        last = facts.sampled[place] if place >= 0 else -1
        self.steps = stop - 1 - last if last >= stretch.start else self.steps + stretch.count

    def status(self, context: Context) -> DetectorStatus:
        """Armed with the baseline, as long as updates are sampled."""
        if not context.armed():
            return DetectorStatus(self.signature, Visibility.WARMING_UP, "no baseline yet")
        if not context.updates.samples or self.steps > _OLDEST_SAMPLE_STEPS:
            return DetectorStatus(self.signature, Visibility.BLIND, "updates and weights are not sampled")
        return DetectorStatus(self.signature, Visibility.ARMED, "")
