"""`loss_divergence`: the loss leaves its reference for good while the gradients stay bounded.

Where the norm rises as well it is `runaway` that sees it, and earlier. Here the usual loss (a median over 64 steps)
is the witness, so that bad batches and single bad moments count for nothing. A loss that rises together with the norm
by the same factor is a change of its scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from seismograd_server.detect.context import WARM_UP_STEPS, Context
from seismograd_server.detect.evidence import finite, norm_evidence, times
from seismograd_server.detect.facts import Step, from_octaves, octaves
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import DetectorStatus, Evidence, Finding, Severity, Signature, Visibility


@dataclass(frozen=True, slots=True)
class LossDivergenceConfig:
    """Thresholds of `loss_divergence`; losses are the usual ones."""

    # Twice the untrained loss, and three times the best one: no healthy run has been there, heavy tails included.
    untrained_octaves: float = 1.0
    best_octaves: float = 1.6
    # Gradients are bounded when their rise explains less than half of the loss's.
    bounded_share: float = 0.5
    # Or all is forgotten: back at four fifths of the untrained loss, having been at a quarter of where it is now.
    forgotten_octaves: float = -0.32
    learnt_octaves: float = 2.0
    # Recovering spikes forget as much for up to fifty steps; two windows of the median are for good.
    for_good_steps: int = 128


@dataclass(slots=True)
class LossDivergenceDetector:
    """Critical when the usual loss is far above the untrained one; a warning while all is forgotten."""

    signature: ClassVar[Signature] = Signature.LOSS_DIVERGENCE

    config: LossDivergenceConfig = field(default=LossDivergenceConfig(), metadata=SETTING)
    severity: int = Severity.NONE
    since_step: int = 0
    best: float = math.inf  # the lowest usual loss
    forgotten_steps: int = 0  # in a row

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        if not context.reading.judged or not step.loss_known or len(context.loss) < WARM_UP_STEPS:
            return None
        usual = context.loss.center()
        self.best = min(self.best, usual)
        above = octaves(usual) - octaves(context.untrained_loss())
        risen = octaves(usual) - octaves(self.best)
        forgotten = above >= self.config.forgotten_octaves and risen >= self.config.learnt_octaves
        self.forgotten_steps = self.forgotten_steps + 1 if forgotten else 0
        severity, reason = self._judge(context, above, risen)
        if severity == self.severity or (severity < self.severity and severity != Severity.NONE):
            return None
        if self.severity == Severity.NONE:
            self.since_step = step.step
        self.severity = severity
        evidence = Evidence() if severity == Severity.NONE else self._evidence(step, context)
        return Finding(self.signature, severity, "", step.step, self.since_step, evidence, reason)

    def _judge(self, context: Context, above: float, risen: float) -> tuple[Severity, str]:
        config, usual = self.config, f"the usual loss {context.loss.center():.3g}"
        bounded = context.norm.center() - context.lowest < config.bounded_share * risen
        if above >= config.untrained_octaves and risen >= config.best_octaves and bounded:
            return Severity.CRITICAL, f"{usual} is {times(above)} the untrained one, with bounded gradients"
        if self.forgotten_steps:
            what = f"{usual} is back where training began, after a best of {self.best:.3g}"
            if self.forgotten_steps >= config.for_good_steps:
                return Severity.CRITICAL, f"{what}, for {self.forgotten_steps} steps"
            return Severity.WARNING, what
        return Severity.NONE, f"{usual} is below the untrained one again"

    def _evidence(self, step: Step, context: Context) -> Evidence:
        untrained = octaves(context.untrained_loss())
        limit = self.config.forgotten_octaves if self.forgotten_steps else self.config.untrained_octaves
        return replace(
            norm_evidence(step, context),
            value=finite(context.loss.center()),
            baseline=finite(self.best),
            threshold=finite(from_octaves(untrained + limit)),
        )

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """Until the usual loss is high enough for any of it."""
        if self.severity != Severity.NONE or self.forgotten_steps:
            return 0
        if not stretch.losses:
            return stretch.count
        best = min(self.best, stretch.loss.lowest)
        if self.best > 0.0 >= best:  # a logarithm of the best exists for some of these steps only
            return 0
        config, rounding = self.config, 1e-9
        low = min(config.untrained_octaves, config.forgotten_octaves) - rounding
        small = min(config.best_octaves, config.learnt_octaves) - rounding
        level = octaves(stretch.loss.highest)
        return 0 if level - stretch.untrained >= low and level - octaves(best) >= small else stretch.count

    def skip(self, stretch: Stretch) -> None:
        """The best is remembered."""
        if stretch.losses:
            self.best = min(self.best, stretch.loss.lowest)

    def status(self, context: Context) -> DetectorStatus:
        """Armed when there is a usual loss."""
        known = len(context.loss)
        if known >= WARM_UP_STEPS:
            return DetectorStatus(self.signature, Visibility.ARMED, "")
        if context.seen > 2 * WARM_UP_STEPS and not known:
            return DetectorStatus(self.signature, Visibility.BLIND, "no loss is logged")
        return DetectorStatus(self.signature, Visibility.WARMING_UP, f"{known} of {WARM_UP_STEPS} losses")
