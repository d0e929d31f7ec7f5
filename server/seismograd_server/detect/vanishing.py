"""`vanishing`: gradients too small to learn from. A warning, and never an explosion.

Looked at now and then, over the quiet steps' layer norms (root mean square per element), and only of a run that does
not learn: many healthy models have layers with tiny gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np

from seismograd_server.detect.context import Context
from seismograd_server.detect.evidence import finite, known_details
from seismograd_server.detect.facts import Step, octaves
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import (
    DetectorStatus,
    Evidence,
    Finding,
    Float64,
    Int64,
    Layout,
    Severity,
    Signature,
    Visibility,
)

# What stands for "none at all" where a number is wanted: nothing is smaller in double precision.
_LOWEST = -1074.0


@dataclass(frozen=True, slots=True)
class VanishingConfig:
    """Thresholds of `vanishing`."""

    # A model that has not begun to learn by then has a reason for it; warm-ups are shorter.
    first_look_steps: int = 100
    # Gradients vanish slowly: every sixteenth step is soon enough, and three looks in a row rule out a bad moment.
    every_steps: int = 16
    confirming_looks: int = 3
    # Learning: the usual loss is a quarter below the untrained one (0.4 octaves).
    learnt_octaves: float = -0.4
    # Vanished: the typical layer 2^-8 (0.4 %) of the largest, or the first third of the depth so far below the last.
    vanished_octaves: float = -8.0
    # Without a loss nobody can say whether the model learns, so that more is asked for.
    vanished_unseen_octaves: float = -13.0
    # Or the whole norm a thousandth of what it began with.
    fallen_octaves: float = -10.0


@dataclass(slots=True)
class VanishingDetector:
    """Warns when most layers, the early layers or all of them have stopped receiving gradients."""

    signature: ClassVar[Signature] = Signature.VANISHING

    config: VanishingConfig = field(default=VanishingConfig(), metadata=SETTING)
    active: bool = False
    since_step: int = 0
    steps: int = 0
    looks: int = 0  # in a row that disagree with `active`

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        if not context.reading.judged or context.excursion.open:
            return None
        self.steps += 1
        if self.steps < self.config.first_look_steps or self.steps % self.config.every_steps:
            return None
        learns = _learnt(context.loss.center(), context.untrained_level(), self.config)
        found = None if learns else _vanished(step, context, self.config)
        if (found is not None) == self.active:
            self.looks = 0
            return None
        if self.looks == 0 and not self.active:
            self.since_step = step.step
        self.looks += 1
        if self.looks < self.config.confirming_looks:
            return None
        self.active, self.looks = found is not None, 0
        if found is None:
            return self._finding(
                step, Severity.NONE, Evidence(), "gradients reach the layers again, or the model learns"
            )
        reason, layer, below = found
        evidence = Evidence(
            value=finite(step.norm),
            baseline=finite(context.baseline()),
            leading_layer=layer,
            details={**known_details(step, context), "octaves_below": below},
        )
        return self._finding(step, Severity.WARNING, evidence, reason)

    def idle(self, stretch: Stretch, context: Context) -> int:
        """Until the first look that might find something, or find it gone."""
        first = -(self.steps + 1) % self.config.every_steps
        if first >= stretch.count:
            return stretch.count
        looks: Sequence[int] = range(first, stretch.count, self.config.every_steps)
        if self.steps + 1 + first < self.config.first_look_steps:
            looks = [row for row in looks if self.steps + 1 + row >= self.config.first_look_steps]
        if not looks:
            return stretch.count
        if self.active or self.looks:
            return looks[0]
        doubtful = [row for row in looks if not _learnt(stretch.loss_center(row), stretch.untrained, self.config)]
        if not doubtful or not _may_vanish(stretch, context, doubtful, self.config):
            return stretch.count
        return doubtful[0]

    def skip(self, stretch: Stretch) -> None:
        """Steps are counted."""
        self.steps += stretch.count

    def _finding(self, step: Step, severity: Severity, evidence: Evidence, reason: str) -> Finding:
        return Finding(self.signature, severity, "", step.step, self.since_step, evidence, reason)

    def status(self, context: Context) -> DetectorStatus:
        """Warming up for a hundred steps; blind without layer norms."""
        if self.steps < self.config.first_look_steps:
            because = f"{self.steps} of {self.config.first_look_steps} steps"
            return DetectorStatus(self.signature, Visibility.WARMING_UP, because)
        if not context.layers.filled:
            return DetectorStatus(self.signature, Visibility.BLIND, "no layer norms are captured")
        return DetectorStatus(self.signature, Visibility.ARMED, "")


def _learnt(usual_loss: float, untrained_level: float, config: VanishingConfig) -> bool:
    """Whether the usual loss has come down since the beginning; where it cannot be told, as with zero, it has.

    `usual_loss` is NaN where no loss is known at all: then the model is not known to learn.
    """
    if math.isnan(usual_loss):
        return False
    learnt = octaves(usual_loss) - untrained_level
    return math.isnan(learnt) or learnt <= config.learnt_octaves


def _may_vanish(stretch: Stretch, context: Context, rows: list[int], config: VanishingConfig) -> bool:
    """Whether a look at one of these steps of a stretch could find that something has vanished; in doubt, it could."""
    has_loss = len(context.loss) > 0
    if has_loss and min(stretch.norm.centers[row] for row in rows) - _first_level(context) <= config.fallen_octaves:
        return True
    span = context.layers.range_with(stretch.layer_norms[: rows[-1]])
    if span is None:
        return True
    # With each layer at its lowest, and those that it is compared with at their highest, all would still be well.
    shape, limit = _shape(stretch.layout), _limit(context, config)
    return any(gap <= limit for gap in _gaps(span[0] - shape.scales, span[1] - shape.scales, shape))


Found = tuple[str, str | None, float]  # a reason, the smallest layer, and how far down it is in octaves


def _vanished(step: Step, context: Context, config: VanishingConfig) -> Found | None:
    """Say what has vanished; None = nothing."""
    fallen = context.norm.center() - _first_level(context)
    if fallen <= config.fallen_octaves and len(context.loss):  # without a loss, this is what a converged run looks like
        return f"the gradient norm has fallen to 2^{fallen:.0f} of what it was, without learning", None, fallen
    layout = step.block.layout
    levels = context.layers.usual(len(layout.names))
    if levels is None or not np.isfinite(levels).any():
        return None
    return _uneven(levels - _shape(layout).scales, layout, _limit(context, config))


def _first_level(context: Context) -> float:
    return sorted(context.first_levels)[len(context.first_levels) // 2]


def _limit(context: Context, config: VanishingConfig) -> float:
    return config.vanished_octaves if len(context.loss) else config.vanished_unseen_octaves


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """What a layout says of its layers.

    Attributes:
        scales: float64[l], by how many octaves a layer's norm exceeds its root mean square.
        order: int64[l], the layers from the first to the last in forward order, as far as that is known.
    """

    scales: Float64
    order: Int64


def _shape(layout: Layout) -> _Shape:
    return _shape_of(layout.numels, layout.depths)


@lru_cache(maxsize=256)  # runs of one model share what it is made of
def _shape_of(numels: tuple[int, ...], depths: tuple[int, ...]) -> _Shape:
    forward = np.asarray(depths, dtype=np.int64)
    order = np.argsort(forward, kind="stable") if (forward >= 0).all() else np.arange(len(forward))
    return _Shape(0.5 * np.log2(np.maximum(1.0, np.asarray(numels, dtype=np.float64))), order)


def _uneven(levels: Float64, layout: Layout, limit: float) -> Found | None:
    """Compare the layers with the largest, and the first with the last."""
    smallest = layout.names[int(np.nanargmin(levels))]
    typical, depth = _gaps(levels, levels, _shape(layout))
    if typical <= limit:
        share = "no gradient at all" if typical == -math.inf else f"less than 2^{typical:.0f} of the largest's gradient"
        return f"half the layers receive {share}", smallest, max(typical, _LOWEST)
    if depth <= limit:
        share = "no gradient at all" if depth == -math.inf else f"2^{depth:.0f} of the last ones' gradient"
        return f"the first layers receive {share}", smallest, max(depth, _LOWEST)
    return None


def _gaps(lows: Float64, highs: Float64, shape: _Shape) -> tuple[float, float]:
    """Octaves by which the typical layer's low lies below the largest high, and the early layers' below the late highs.

    Early and late are the medians of the first and the last third. NaN = too few layers are known, which is where both
    are NaN, or those that are compared with have no gradient themselves.
    """
    order = shape.order
    if np.count_nonzero(unknown := np.isnan(lows)):
        order = order[~unknown[order]]
        if not len(order):
            return math.nan, math.nan
    lows, highs = lows[order], highs[order]
    typical, largest = _lower_median(lows), float(np.maximum.reduce(highs))
    third = len(order) // 3
    if third < 2:
        return _gap(typical, largest), math.nan
    early, late = np.sort(lows[:third])[third // 2], np.sort(highs[-third:])[third // 2]
    return _gap(typical, largest), _gap(float(early), float(late))


def _lower_median(values: Float64) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2])


def _gap(low: float, high: float) -> float:
    return low - high if high > -math.inf else math.nan
