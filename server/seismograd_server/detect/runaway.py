"""`runaway`: growth of the norm that training will not survive. Critical; the grounds are in `grounds.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from seismograd_server.detect.context import Context
from seismograd_server.detect.evidence import baseline_status, leaders, norm_evidence
from seismograd_server.detect.facts import Step
from seismograd_server.detect.grounds import GROUNDS, RunawayConfig, groundless
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import DetectorStatus, Evidence, Finding, Severity, Signature

# Told again when it has become this much worse; doubled each time, lest a run on its way to Inf tells of every step.
_WORSE_OCTAVES = 4.0


@dataclass(slots=True)
class RunawayDetector:
    """Critical as soon as there is a ground for it; told again when much worse, or when the culprit becomes known."""

    signature: ClassVar[Signature] = Signature.RUNAWAY

    config: RunawayConfig = field(default=RunawayConfig(), metadata=SETTING)
    active: bool = False
    since_step: int = 0
    tell_at: float = -math.inf  # level at which it is told again
    stride: float = _WORSE_OCTAVES
    rank: int = -1  # that led first: once all ranks are shaken, who lies highest tells nothing any more
    named_weights: str = ""  # the layer that a finding has named because its weights were changed by no update
    quiet_steps: int = 0

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        if not context.reading.judged:
            return None
        why = next((found for ground in GROUNDS if (found := ground(step, context, self.config)) is not None), None)
        if why is None:
            return self._quiet(step, context)
        context.reading.runs_away = True
        if not self.active:
            self.active, self.tell_at, self.stride, self.rank = True, -math.inf, _WORSE_OCTAVES, -1
            self.named_weights = ""
            self.since_step = context.excursion.first_step if context.excursion.open else step.step
        self.quiet_steps = 0
        leading = context.ranks.leading()
        found_rank = self.rank < 0 and leading is not None
        self.rank = leading if self.rank < 0 and leading is not None else self.rank
        worse = step.level >= self.tell_at
        changed = context.weights.suspect
        news = found_rank or changed not in {"", self.named_weights}
        if not worse and not news:
            return None
        self.named_weights = changed or self.named_weights
        if worse:
            self.tell_at, self.stride = step.level + self.stride, 2.0 * self.stride
        rank = self.rank if self.rank >= 0 else None
        reason = f"gradient norm {step.norm:.3g}: {why}{leaders(step, context, rank)}"
        evidence = replace(norm_evidence(step, context), leading_rank=rank)
        return self._finding(step, Severity.CRITICAL, evidence, reason)

    def idle(self, stretch: Stretch, context: Context) -> int:
        """Without any ground, and none before, it tells nothing and counts nothing."""
        return 0 if self.active or not groundless(stretch, context, self.config) else stretch.count

    def skip(self, stretch: Stretch) -> None:
        """Nothing is counted."""

    def _quiet(self, step: Step, context: Context) -> Finding | None:
        """Without a ground: nothing, or the end of it when it has been so for long."""
        if not self.active:
            return None
        self.quiet_steps = 0 if context.excursion.open else self.quiet_steps + 1
        if self.quiet_steps < self.config.recovered_after_steps:
            return None
        self.active = False
        reason = f"the gradient norm is {step.norm:.3g} again, usual is {context.baseline():.3g}"
        return self._finding(step, Severity.NONE, Evidence(), reason)

    def _finding(self, step: Step, severity: Severity, evidence: Evidence, reason: str) -> Finding:
        return Finding(self.signature, severity, "", step.step, self.since_step, evidence, reason)

    def status(self, context: Context) -> DetectorStatus:
        """Armed when there is a baseline; before that, only what leaves the first steps far behind is seen."""
        return baseline_status(self.signature, context)
