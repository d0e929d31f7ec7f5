"""`clip_saturation`: nearly every step is clipped while the norm before clipping rises: an explosion that is masked.

Many healthy runs are clipped at every step. What they do not do is to need it more and more without learning anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

from seismograd_server.detect.context import Context
from seismograd_server.detect.evidence import finite, leaders, norm_evidence, times
from seismograd_server.detect.facts import Step, from_octaves, octaves
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import DetectorStatus, Evidence, Finding, Severity, Signature, Visibility


@dataclass(frozen=True, slots=True)
class ClipSaturationConfig:
    """Thresholds of `clip_saturation`."""

    # A look every so many steps, at what all of them had in common; so many looks in a row are a trend.
    every_steps: int = 32
    looks: int = 4
    # Nearly every step.
    clipped_share: float = 0.95
    # The usual norm has doubled over these looks, without a loss that improves by as little as a hundredth.
    risen_octaves: float = 1.0
    learning_octaves: float = 0.015


@dataclass(slots=True)
class ClipSaturationDetector:
    """Warns of a rising norm behind saturated clipping; over when it rises no more, or steps are not clipped."""

    signature: ClassVar[Signature] = Signature.CLIP_SATURATION

    config: ClipSaturationConfig = field(default=ClipSaturationConfig(), metadata=SETTING)
    active: bool = False
    since_step: int = 0
    steps: int = 0  # since the last look
    clipped: int = 0  # of them
    seen_clipping: bool = False  # whether a clip coefficient is known at all
    norms: list[float] = field(default_factory=list)  # usual ones at the latest saturated looks, octaves
    losses: list[float] = field(default_factory=list)  # usual ones
    looked_at: list[int] = field(default_factory=list)  # steps

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        if not context.reading.judged or not context.armed():
            return None
        self._count(step.clip_coefficient)
        if self.steps < self.config.every_steps:
            return None
        saturated = self._is_saturated()
        self.steps = self.clipped = 0
        if not saturated:
            self._forget()
            return self._over(step, context) if self.active else None
        keep = 1 - self.config.looks
        self.norms = [*self.norms[keep:], self._level(context)]
        self.losses = [*self.losses[keep:], context.loss.center()]
        self.looked_at = [*self.looked_at[keep:], step.step]
        rises = self._rises()
        if rises == self.active:
            return None
        if not rises:
            return self._over(step, context) if self.norms[-1] - self.norms[0] <= 0.0 else None
        self.active, self.since_step = True, self.looked_at[0]
        risen = times(self.norms[-1] - self.norms[0])
        reason = (
            f"clipping at every step hides that the gradient norm has risen {risen} since step {self.looked_at[0]}"
            f"{'' if math.isnan(self.losses[-1]) else ', and nothing is learnt'}"
            f"{leaders(step, context, context.ranks.leading())}"
        )
        evidence = replace(
            norm_evidence(step, context),
            baseline=finite(from_octaves(self.norms[0])),
            threshold=finite(float(step.block.clip_threshold[step.row])),
        )
        return Finding(self.signature, Severity.WARNING, "", step.step, self.since_step, evidence, reason)

    def _count(self, coefficient: float) -> None:
        self.steps += 1
        self.seen_clipping = self.seen_clipping or not math.isnan(coefficient)
        self.clipped += coefficient < 1.0

    def _is_saturated(self) -> bool:
        return self.clipped >= self.config.clipped_share * self.steps

    @staticmethod
    def _level(context: Context) -> float:
        """The usual norm; of an open excursion, whose levels are not usual yet, the median of those."""
        held = sorted(context.held_levels) if context.excursion.open else []
        return held[len(held) // 2] if len(held) >= 2 else context.norm.center()

    def _rises(self) -> bool:
        """Whether the norm has risen from look to look, and the loss has not improved."""
        if len(self.norms) < self.config.looks or self.norms[-1] - self.norms[0] < self.config.risen_octaves:
            return False
        if any(after < before for before, after in zip(self.norms, self.norms[1:], strict=False)):
            return False
        improved = octaves(self.losses[0]) - octaves(self.losses[-1])
        return not improved >= self.config.learning_octaves

    def _forget(self) -> None:
        self.norms, self.losses, self.looked_at = [], [], []

    def _over(self, step: Step, context: Context) -> Finding:
        self.active = False
        reason = f"the gradient norm has stopped rising, usual is {context.baseline():.3g}"
        return Finding(self.signature, Severity.NONE, "", step.step, self.since_step, Evidence(), reason)

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """Until the next look at which clipping was saturated, or that may end a warning."""
        looks = self._looks(stretch)
        return next((row for row, saturated in looks if saturated or self.active), stretch.count)

    def skip(self, stretch: Stretch) -> None:
        """Steps are counted; looks that were not saturated leave nothing behind."""
        start, stop = stretch.start, stretch.start + stretch.count
        self.seen_clipping = self.seen_clipping or stretch.facts.knows_clipping(start, stop)
        for row, _ in self._looks(stretch):
            self.steps = self.clipped = 0
            self._forget()
            start = stretch.start + row + 1
        self.steps += stop - start
        self.clipped += stretch.facts.clipped(start, stop)

    def _looks(self, stretch: Stretch) -> Iterator[tuple[int, bool]]:
        """The looks within a stretch, counted from its start, and whether clipping will have been saturated."""
        start, steps, clipped = stretch.start, self.steps, self.clipped
        row = max(0, self.config.every_steps - steps - 1)
        while row < stretch.count:
            stop = stretch.start + row + 1
            clipped, steps = clipped + stretch.facts.clipped(start, stop), steps + stop - start
            yield row, clipped >= self.config.clipped_share * steps
            start, steps, clipped, row = stop, 0, 0, row + self.config.every_steps

    def status(self, context: Context) -> DetectorStatus:
        """Armed with the baseline, in a run that clips."""
        if not context.armed():
            return DetectorStatus(self.signature, Visibility.WARMING_UP, "no baseline yet")
        if not self.seen_clipping:
            return DetectorStatus(self.signature, Visibility.BLIND, "no clipping is known")
        return DetectorStatus(self.signature, Visibility.ARMED, "")
