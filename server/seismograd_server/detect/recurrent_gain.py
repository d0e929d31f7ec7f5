"""`recurrent_gain`: a recurrent matrix makes its state larger at every time step, and ever more so, for nothing.

The client ships, for every recurrent matrix, the largest of slope of the activation times singular value over its
gates: above 1 gradients can grow with the length of the sequence (Pascanu, Mikolov and Bengio 2013). That is necessary
for an explosion and not sufficient: freshly initialised matrices have a gain slightly above 1, and whatever learns to
remember pays for it with a gain that rises fourfold and more, which saturation and gates take back. So it must have
risen while nothing was learnt, or the gradient norm with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from seismograd_server.detect.context import WARM_UP_STEPS, Context
from seismograd_server.detect.evidence import norm_evidence
from seismograd_server.detect.facts import Step
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import (
    DetectorStatus,
    Evidence,
    Finding,
    Float32,
    Int64,
    Layout,
    Quantity,
    Severity,
    Signature,
    Visibility,
)


@dataclass(frozen=True, slots=True)
class RecurrentGainConfig:
    """Thresholds of `recurrent_gain`."""

    # A state can grow at all.
    growing: float = 1.0
    # Half as much again as the lowest: long sequences make a thousandfold norm of that.
    risen: float = 1.5
    # Something is learnt when the median of so many losses is lower than ever, by a twentieth: a median of a whole
    # window would lag behind the gain, and less would be the doing of a few batches.
    losses: int = 16
    learnt_share: float = 0.05
    # Norms of models that learn rise by an octave while their gains do.
    followed_octaves: float = 1.5
    # Still rising: a hundredth over the latest so many samples.
    samples: int = 4
    rising: float = 1.01
    # Over when it has come down by a tenth from the highest it was.
    fallen: float = 0.9


@dataclass(slots=True)
class RecurrentGainDetector:
    """Warns when the largest gain of a recurrent matrix has risen above 1, goes on rising, and is not worth it."""

    signature: ClassVar[Signature] = Signature.RECURRENT_GAIN

    config: RecurrentGainConfig = field(default=RecurrentGainConfig(), metadata=SETTING)
    active: bool = False
    since_step: int = 0
    seen: int = 0
    best: float = math.inf  # the loss when something was last learnt
    unlearnt: float = math.inf  # the largest gain at its lowest since then
    lowest: float = math.inf  # the same since the first window, or the last warning
    highest: float = -math.inf  # since the warning
    latest: list[float] = field(default_factory=list)  # largest gains at the latest samples
    known: Any = field(default=None, metadata=SETTING)  # (layout, its recurrent matrices)

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        gains = step.block.sampled.get(Quantity.SPECTRAL_GAIN)
        if gains is None:
            return None
        matrices = self._matrices(step.block.layout)
        sample = largest_gain(gains[step.row], matrices)
        if sample is None:
            return None
        gain, matrix = sample
        config = self.config
        learnt, norm_follows = self._take_in(gain, context), context.risen() >= config.followed_octaves
        if self.active:
            return self._follow(step, gain, worth_it=learnt and not norm_follows)
        if gain < config.growing or len(self.latest) < config.samples or gain < config.rising * self.latest[0]:
            return None
        for_nothing = len(context.loss) > 0 and gain >= config.risen * self.unlearnt
        followed = norm_follows and gain >= config.risen * self.lowest
        if not for_nothing and not followed:
            return None
        self.active, self.since_step, self.highest = True, step.step, gain
        name = step.block.layout.names[matrix]
        before = self.lowest if followed else self.unlearnt
        why = "the gradient norm rises with it" if followed else "nothing is learnt for it"
        reason = f"{name} makes its state {gain:.2f} x larger at every time step, up from {before:.2f} x, and {why}"
        evidence = replace(
            norm_evidence(step, context),
            value=gain,
            baseline=before,
            threshold=max(config.growing, config.risen * before),
            leading_layer=name,
        )
        return Finding(self.signature, Severity.WARNING, "", step.step, self.since_step, evidence, reason)

    def _follow(self, step: Step, gain: float, *, worth_it: bool) -> Finding | None:
        """A sample during a warning: nothing, or the end of it."""
        self.highest = max(self.highest, gain)
        if not worth_it and gain >= max(self.config.growing, self.config.fallen * self.highest):
            return None
        self.active, self.unlearnt, self.lowest = False, gain, gain
        reason = "the loss falls again" if worth_it else f"the recurrent gain is {gain:.3g} again"
        return Finding(self.signature, Severity.NONE, "", step.step, self.since_step, Evidence(), reason)

    def _take_in(self, gain: float, context: Context) -> bool:
        """Remember a sample; tells whether anything has been learnt since the best loss so far."""
        self.seen += 1
        self.latest = [*self.latest[1 - self.config.samples :], gain]
        losses = sorted(context.loss.latest[-self.config.losses :])
        usual = losses[(len(losses) - 1) // 2] if len(context.loss) >= WARM_UP_STEPS else math.nan
        least = self.config.learnt_share * abs(self.best) if self.best < math.inf else 0.0
        learnt = usual < self.best - least
        if learnt:
            self.best = usual
        # Until the norm's first window is full, training finds its level, and gains rise by half in healthy networks.
        settled = context.norm.full()
        self.unlearnt = min(self.unlearnt, gain) if settled and not learnt else gain
        self.lowest = min(self.lowest, gain) if settled else gain
        return learnt

    def _matrices(self, layout: Layout) -> Int64:
        if self.known is None or self.known[0] is not layout:
            self.known = (layout, recurrent_matrices(layout))
        found: Int64 = self.known[1]
        return found

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """Until the next sample of a run that has recurrent matrices."""
        gains = stretch.facts.block.sampled.get(Quantity.SPECTRAL_GAIN)
        if gains is None or not len(matrices := self._matrices(stretch.layout)):
            return stretch.count
        rows = gains[stretch.start : stretch.start + stretch.count, matrices]
        sampled = np.flatnonzero(~np.isnan(rows).all(axis=1))
        return int(sampled[0]) if len(sampled) else stretch.count

    def skip(self, stretch: Stretch) -> None:
        """Nothing is counted without a sample."""

    def status(self, context: Context) -> DetectorStatus:
        """Armed once there are a few samples."""
        if self.seen >= self.config.samples:
            return DetectorStatus(self.signature, Visibility.ARMED, "")
        if context.seen and not self.seen:
            return DetectorStatus(self.signature, Visibility.BLIND, "no gain of a recurrent matrix is sampled")
        because = f"{self.seen} of {self.config.samples} samples"
        return DetectorStatus(self.signature, Visibility.WARMING_UP, because)


def recurrent_matrices(layout: Layout) -> Int64:
    """The layers that are recurrent matrices, by what torch calls them. A square Linear has a gain and is none."""
    return np.asarray([layer for layer, name in enumerate(layout.names) if "weight_hh" in name], dtype=np.int64)


def largest_gain(gains: Float32, matrices: Int64) -> tuple[float, int] | None:
    """The largest known gain among the matrices, and whose it is; None = none was sampled."""
    values = gains[matrices]
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return None
    place = int(known[np.argmax(values[known])])
    return float(values[place]), int(matrices[place])
