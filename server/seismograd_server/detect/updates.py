"""How much of the weights an update replaces: sampled now and then, estimated in between.

The ratio of update to weight norm tells a harmless outlier, which clipping or Adam absorbs, from a fatal one. It is
sampled every few steps only, so that the optimizer's kind has to be learnt from the samples:

    plain       update = learning rate x clipped norm, with or without momentum: the norm tells the ratio
    normalised  the update hardly depends on the norm (Adam, RMSprop ...): the latest sample tells it
    unknown     nothing can be said between samples
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from seismograd_server.detect.baseline import Baseline
from seismograd_server.detect.facts import UNKNOWN, Step, octaves

# Octaves by which an update may miss learning rate x clipped norm and still be plain SGD: weight decay does that.
_PLAIN_OCTAVES = 0.15
# Momentum of 0.9 makes a steady update up to 10 times larger; from there on up it cannot be momentum.
_MOMENTUM_OCTAVES = 3.6
# Samples needed to believe that an optimizer normalises its updates, as long as none of them says otherwise.
_LEAST_SAMPLES = 4
# One outlier of any size moves Adam's update (betas 0.9 and 0.999) by at most 0.1 / sqrt(0.001), which is 1.7 octaves.
_OUTLIER_OCTAVES = 1.7
# A sample older than this says nothing any more.
_OLDEST_SAMPLE = 64


@dataclass(slots=True)
class Updates:
    """What is known of the updates of a run; logarithms to base 2."""

    usual: Baseline = field(default_factory=Baseline)
    steps: int = 0
    samples: int = 0
    first: float = UNKNOWN  # surplus of the run's very first update; Inf = another one for each layer
    unexplained: int = 0  # samples that learning rate x norm, with or without momentum, cannot explain
    ratio: float = UNKNOWN  # of the latest sample
    weight: float = UNKNOWN  # norm of the weights at the latest sample
    rate: float = UNKNOWN  # learning rate at the latest sample
    age: int = 0  # steps since the latest sample

    def look(self, step: Step) -> None:
        """Take in a step's sample, if there is one, and otherwise grow older."""
        self.wait(1)
        if math.isfinite(step.ratio) and not step.skipped:
            surplus = self.sample(step.ratio, step.update_level, octaves(step.learning_rate), clipped_level(step))
            if self.steps == 1 and math.isfinite(surplus):
                self.first = surplus if _layers_agree(step) else math.inf

    def sample(self, ratio: float, level: float, rate: float, gradient: float) -> float:
        """Take in the sample of this step, the ratio being finite, the others NaN where not known.

        Args:
            ratio: of update over weight norm.
            level: of the update.
            rate: the learning rate.
            gradient: what the optimizer was given.

        Returns:
            by how much the update is larger than learning rate x gradient; not finite where that cannot be told.
        """
        surplus = level - rate - gradient
        if math.isfinite(surplus):
            self.samples += 1
            self.unexplained += not -_PLAIN_OCTAVES < surplus < _MOMENTUM_OCTAVES
        self.ratio, self.weight, self.rate, self.age = ratio, level - ratio, rate, 0
        return surplus

    def wait(self, steps: int) -> None:
        """Grow older by steps without a sample."""
        self.age += steps
        self.steps += steps

    def accept(self, step: Step) -> None:
        """The step was quiet: its ratio, if sampled, is a usual one."""
        if math.isfinite(step.ratio) and not step.skipped:
            self.usual.accept(step.ratio)

    def plain(self) -> bool:
        """Whether the optimizer is SGD: its very first update, without any momentum yet, gives it away."""
        return abs(self.first) < _PLAIN_OCTAVES and 2 * self.unexplained <= self.samples

    def normalised(self) -> bool:
        """Whether the optimizer is one whose updates hardly depend on the norm."""
        if self.samples < _LEAST_SAMPLES:
            return False
        return abs(self.first) >= _PLAIN_OCTAVES or 2 * self.unexplained > self.samples

    def estimate(self, step: Step, steps_out: int) -> float:
        """The ratio of this step: sampled, or estimated from the latest sample; NaN = cannot be told.

        `steps_out` counts the steps of the open excursion: a sample from inside it has seen what the outliers do.
        """
        if not math.isnan(step.ratio):
            return step.ratio
        if self.age > _OLDEST_SAMPLE:
            return UNKNOWN
        if self.plain():
            return octaves(step.learning_rate) + clipped_level(step) - self.weight
        if self.normalised():
            outlier = 0.0 if self.age < steps_out else _OUTLIER_OCTAVES
            return self.ratio + outlier + max(0.0, octaves(step.learning_rate) - self.rate)
        return UNKNOWN


def _layers_agree(step: Step) -> bool:
    """Whether the update is the same multiple of the gradient in most layers, as SGD's is; totals agree by chance."""
    updates, gradients = step.block.update_norms[step.row], step.layer_norms
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        multiples = np.log2(updates.astype(np.float64) / gradients)
    multiples = np.sort(multiples[np.isfinite(multiples)])
    count = len(multiples)
    return count < 2 or bool(multiples[(3 * count) // 4] - multiples[count // 4] < _PLAIN_OCTAVES)


def clipped_level(step: Step) -> float:
    """log2 of the norm that the optimizer was given."""
    return clipped(step.level, step.clip_coefficient)


def clipped(level: float, coefficient: float) -> float:
    """What clipping leaves of a level."""
    return level + octaves(coefficient) if coefficient < 1.0 else level
