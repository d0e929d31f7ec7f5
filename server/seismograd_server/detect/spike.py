"""`spike`: the norm leaps far above the usual and everything in recent memory. A warning, at once.

Norms alone cannot tell at the first step whether it will come back. `runaway` takes over when it does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from seismograd_server.detect.context import Context
from seismograd_server.detect.evidence import baseline_status, leaders, norm_evidence, times
from seismograd_server.detect.facts import Step
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import DetectorStatus, Evidence, Finding, Severity, Signature

# Told again when it has become this much worse; doubled each time.
_WORSE_OCTAVES = 4.0


@dataclass(frozen=True, slots=True)
class SpikeConfig:
    """Thresholds of `spike`."""

    # Eightfold the usual and four times the record: harmless outliers of heavy-tailed data stay below one or the other.
    above_baseline_octaves: float = 3.0
    above_record_octaves: float = 2.0
    # Twice the record is enough where the loss confirms it, by four times the largest deviation of late.
    confirmed_octaves: float = 1.0
    confirming_octaves: float = 2.0
    # In a run that is noisier than usual it must also be beyond the noise: once in 30 000 steps, were it normal.
    above_spreads: float = 4.0


@dataclass(slots=True)
class SpikeDetector:
    """Warns once an excursion, and again if it grows much worse; over when the excursion is."""

    signature: ClassVar[Signature] = Signature.SPIKE

    config: SpikeConfig = field(default=SpikeConfig(), metadata=SETTING)
    active: bool = False
    since_step: int = 0
    tell_at: float = 0.0  # level at which it is told again
    stride: float = _WORSE_OCTAVES
    named_weights: str = ""  # the layer that was named because its weights were changed by no update

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        reading = context.reading
        if not reading.judged:
            return None
        if self.active and (not context.excursion.open or context.excursion.is_over()):
            self.active = False
            reason = f"the gradient norm is {step.norm:.3g} again, usual is {context.baseline():.3g}"
            return Finding(self.signature, Severity.NONE, "", step.step, self.since_step, Evidence(), reason)
        config = self.config
        above = max(config.above_baseline_octaves, config.above_spreads * context.norm.spread())
        confirmed = reading.bad_loss and reading.loss_excess >= config.confirming_octaves
        least = config.confirmed_octaves if confirmed else config.above_record_octaves
        far = reading.above >= above + context.grace_octaves() and reading.excess >= least
        changed = context.weights.suspect
        news = self.active and changed not in {"", self.named_weights}
        if not (news or (far and (not self.active or step.level >= self.tell_at))):
            return None
        self.named_weights = changed
        if not self.active:
            self.active, self.stride, self.since_step = True, _WORSE_OCTAVES, context.excursion.first_step
        if step.level >= self.tell_at or not news:
            self.tell_at, self.stride = step.level + self.stride, 2.0 * self.stride
        reason = (
            f"gradient norm {step.norm:.3g} is {times(reading.above)} its usual {context.baseline():.3g}"
            f"{leaders(step, context, context.ranks.leading())}"
        )
        evidence = norm_evidence(step, context)
        return Finding(self.signature, Severity.WARNING, "", step.step, self.since_step, evidence, reason)

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """A calm step is no spike, which is news only after one."""
        return 0 if self.active else stretch.count

    def skip(self, stretch: Stretch) -> None:
        """Nothing is counted."""

    def status(self, context: Context) -> DetectorStatus:
        """Armed when there is a baseline."""
        return baseline_status(self.signature, context)
