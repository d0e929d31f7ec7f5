"""`runaway`: sustained growth of the norm that training will not survive. Critical.

The evidence, from the quickest to the slowest. Each is a cause of divergence or its direct consequence:

1. *Overwriting*: high gradients, and updates that replace a twentieth of the weights in one step.
2. *Growth*: the excursion's peak goes on growing after its first two steps. Bad data make one or two equal spikes.
3. *The loss follows*: it stays bad for several steps of the excursion.
4. *No return*: the norm stays above the record.
5. *Worse than untrained*: slowly, over hundreds of steps, the loss has risen above where it began and the norm with it.
6. *From the start*: before there is a baseline, against the first steps.

A fresh update ratio that is as small as ever vetoes 2 to 4 for as long as it is so: then the weights are safe, and it is
the data, the scale of the loss, or something that clipping or Adam absorbs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from seismograd_server.detect.context import WARM_UP_STEPS, Context, Reading
from seismograd_server.detect.evidence import leaders, norm_evidence, times
from seismograd_server.detect.facts import Step
from seismograd_server.model import DetectorStatus, Evidence, Finding, Severity, Signature, Visibility

# An update of a twentieth of the weights (log2): healthy runs stay below 2^-4.5 once they have warmed up.
_OVERWRITING_RATIO = -4.25
# An update of less than 1 % of the weights cannot wreck a model within a few steps.
_HARMLESS_RATIO = -6.5
_OVERWRITING_EXCESS = 1.25
_GROWTH_OCTAVES = 1.5
_GROWTH_EXCESS = 2.0
_LOSS_STEPS = 3
_LOSS_EXCESS = 1.0
_NO_RETURN_STEPS = 5
_NO_RETURN_EXCESS = 1.5
_HOPELESS_EXCESS = 10.0
_SLOW_LOSS_OCTAVES = 1.0
_SLOW_NORM_OCTAVES = 1.5
_EARLY_OCTAVES = 2.0
_EARLY_LOSS_OCTAVES = 2.0
_EARLY_HOPELESS_OCTAVES = 8.0
_WORSE_OCTAVES = 8.0


@dataclass(slots=True)
class RunawayDetector:
    """Critical when the norm runs away; over when the excursion is."""

    signature: ClassVar[Signature] = Signature.RUNAWAY

    active: bool = False
    since_step: int = 0
    told_level: float = 0.0
    quiet_steps: int = 0
    early_bad_steps: int = 0
    lowest_level: float = math.inf  # of the baseline, at any time

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        reading = context.reading
        if not reading.judged:
            return None
        why = self._why(step, context, reading)
        if self.active:
            return self._while_active(step, context, why)
        if why is None:
            return None
        self.active, self.quiet_steps = True, 0
        self.since_step = context.excursion.first_step if context.excursion.open else step.step
        return self._finding(step, context, why)

    def _while_active(self, step: Step, context: Context, why: str | None) -> Finding | None:
        far = context.excursion.open or why is not None
        self.quiet_steps = 0 if far else self.quiet_steps + 1
        if self.quiet_steps >= 16:
            self.active = False
            reason = f"the gradient norm is back at {step.norm:.3g}"
            return Finding(self.signature, Severity.NONE, "", step.step, self.since_step, Evidence(), reason)
        if why is not None and step.level >= self.told_level + _WORSE_OCTAVES:
            return self._finding(step, context, why)
        return None

    def _finding(self, step: Step, context: Context, why: str) -> Finding:
        self.told_level = step.level
        reason = f"gradient norm {step.norm:.3g}: {why}{leaders(step, context)}"
        evidence = norm_evidence(step, context)
        return Finding(self.signature, Severity.CRITICAL, "", step.step, self.since_step, evidence, reason)

    def _why(self, step: Step, context: Context, reading: Reading) -> str | None:
        if not context.armed():
            return self._early(step, context, reading)
        excursion = context.excursion
        if not excursion.open:
            return self._slow(step, context, reading)
        usual = f"{times(reading.above)} its usual {context.baseline():.3g}"
        overwriting = reading.ratio_is_fresh and reading.ratio >= _OVERWRITING_RATIO
        if overwriting and reading.far and (reading.excess >= _OVERWRITING_EXCESS or reading.bad_loss):
            return f"{usual}, and this update replaces {min(1.0, 2.0 ** min(0.0, reading.ratio)):.0%} of the weights"
        harmless = reading.ratio < _HARMLESS_RATIO
        if harmless:
            return self._slow(step, context, reading)
        if reading.excess >= _HOPELESS_EXCESS:
            return f"{usual}, hopeless"
        if (
            reading.high
            and excursion.growth() >= _GROWTH_OCTAVES
            and reading.excess >= _GROWTH_EXCESS
            and step.level >= excursion.peak
        ):
            return f"{usual} and growing"
        if reading.high and excursion.bad_losses >= _LOSS_STEPS and reading.bad_loss and reading.excess >= _LOSS_EXCESS:
            return f"{usual}, and the loss follows"
        if reading.high and excursion.high_steps >= _NO_RETURN_STEPS and reading.excess >= _NO_RETURN_EXCESS:
            return f"{usual}, for {excursion.high_steps} of {excursion.steps} steps"
        return self._slow(step, context, reading)

    def _slow(self, step: Step, context: Context, reading: Reading) -> str | None:
        level = context.norm.center()
        self.lowest_level = min(self.lowest_level, level)
        first = sorted(context.first_losses)[len(context.first_losses) // 2] if context.first_losses else math.nan
        center = context.loss.center()
        if not (first > 0.0 and center > 0.0):
            return None
        if math.log2(center / first) >= _SLOW_LOSS_OCTAVES and level - self.lowest_level >= _SLOW_NORM_OCTAVES:
            return "slow"
        return None

    def _early(self, step: Step, context: Context, reading: Reading) -> str | None:
        if len(context.first_levels) < 3:
            return None
        rise = step.level - max(context.first_levels[:3])
        if rise >= _EARLY_HOPELESS_OCTAVES:
            return "early hopeless"
        if rise >= _EARLY_OCTAVES and reading.loss_untrained >= _EARLY_LOSS_OCTAVES:
            self.early_bad_steps += 1
            if self.early_bad_steps >= 2:
                return "early"
        return None

    def status(self, context: Context) -> DetectorStatus:
        """Armed when there is a baseline."""
        if context.armed():
            return DetectorStatus(self.signature, Visibility.ARMED, "")
        because = f"{len(context.norm)} of {WARM_UP_STEPS} steps for a first baseline"
        return DetectorStatus(self.signature, Visibility.WARMING_UP, because)
