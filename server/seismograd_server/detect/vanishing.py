"""`vanishing`: gradients too small to learn from. A warning, and never an explosion.

Looked at now and then, over the quiet steps' layer norms (root mean square per element), and only of a run that does
not learn: many healthy models have layers with tiny gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from seismograd_server.detect.context import Context
from seismograd_server.detect.evidence import finite, known_details
from seismograd_server.detect.facts import Step, octaves
from seismograd_server.model import (
    DetectorStatus,
    Evidence,
    Finding,
    Float64,
    Layout,
    Severity,
    Signature,
    Visibility,
)

# A model that has not begun to learn by then has a reason for it; warm-ups are shorter.
_FIRST_LOOK_STEPS = 100
# Gradients vanish slowly: every sixteenth step is soon enough, and three looks in a row rule out a bad moment.
_EVERY_STEPS = 16
_CONFIRMING_LOOKS = 3
# Learning: the usual loss is a quarter below the untrained one (0.4 octaves).
_LEARNT_OCTAVES = -0.4
# Vanished: the typical layer 2^-8 (0.4 %) of the largest, or the first third of the depth so far below the last one.
_VANISHED_OCTAVES = -8.0
# Without a loss nobody can say whether the model learns, so that more is asked for.
_VANISHED_UNSEEN_OCTAVES = -13.0
# Or the whole norm a thousandth of what it began with.
_FALLEN_OCTAVES = -10.0
# What stands for "none at all" where a number is wanted: nothing is smaller in double precision.
_LOWEST = -1074.0


@dataclass(slots=True)
class VanishingDetector:
    """Warns when most layers, the early layers or all of them have stopped receiving gradients."""

    signature: ClassVar[Signature] = Signature.VANISHING

    active: bool = False
    since_step: int = 0
    steps: int = 0
    looks: int = 0  # in a row that disagree with `active`

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        if not context.reading.judged or context.excursion.open:
            return None
        self.steps += 1
        if self.steps < _FIRST_LOOK_STEPS or self.steps % _EVERY_STEPS:
            return None
        found = None if _learns(context) else _vanished(step, context)
        if (found is not None) == self.active:
            self.looks = 0
            return None
        if self.looks == 0 and not self.active:
            self.since_step = step.step
        self.looks += 1
        if self.looks < _CONFIRMING_LOOKS:
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

    def _finding(self, step: Step, severity: Severity, evidence: Evidence, reason: str) -> Finding:
        return Finding(self.signature, severity, "", step.step, self.since_step, evidence, reason)

    def status(self, context: Context) -> DetectorStatus:
        """Warming up for a hundred steps; blind without layer norms."""
        if self.steps < _FIRST_LOOK_STEPS:
            because = f"{self.steps} of {_FIRST_LOOK_STEPS} steps"
            return DetectorStatus(self.signature, Visibility.WARMING_UP, because)
        if not context.layers.filled:
            return DetectorStatus(self.signature, Visibility.BLIND, "no layer norms are captured")
        return DetectorStatus(self.signature, Visibility.ARMED, "")


def _learns(context: Context) -> bool:
    """Whether the usual loss has come down since the beginning; where it cannot be told, as with zero, it has."""
    if not len(context.loss):
        return False
    learnt = octaves(context.loss.center()) - octaves(context.untrained_loss())
    return math.isnan(learnt) or learnt <= _LEARNT_OCTAVES


Found = tuple[str, str | None, float]  # a reason, the smallest layer, and how far down it is in octaves


def _vanished(step: Step, context: Context) -> Found | None:
    """Say what has vanished; None = nothing."""
    fallen = context.norm.center() - sorted(context.first_levels)[len(context.first_levels) // 2]
    if fallen <= _FALLEN_OCTAVES and len(context.loss):  # without a loss, this is what a converged run looks like
        return f"the gradient norm has fallen to 2^{fallen:.0f} of what it was, without learning", None, fallen
    layout = step.block.layout
    levels = context.layers.usual(len(layout.names))
    if levels is None or not np.isfinite(levels).any():
        return None
    numels = np.maximum(1.0, np.asarray(layout.numels, dtype=np.float64))
    limit = _VANISHED_OCTAVES if len(context.loss) else _VANISHED_UNSEEN_OCTAVES
    return _uneven(levels - 0.5 * np.log2(numels), layout, limit)


def _uneven(levels: Float64, layout: Layout, limit: float) -> Found | None:
    """Compare the layers with the largest, and the first with the last."""
    known = np.sort(levels[~np.isnan(levels)])
    smallest = layout.names[int(np.nanargmin(levels))]
    typical = float(known[(len(known) - 1) // 2] - known[-1])
    if typical <= limit:
        share = "no gradient at all" if typical == -math.inf else f"less than 2^{typical:.0f} of the largest's gradient"
        return f"half the layers receive {share}", smallest, max(typical, _LOWEST)
    depth = _early_over_late(levels, layout)
    if depth <= limit:
        share = "no gradient at all" if depth == -math.inf else f"2^{depth:.0f} of the last ones' gradient"
        return f"the first layers receive {share}", smallest, max(depth, _LOWEST)
    return None


def _early_over_late(levels: Float64, layout: Layout) -> float:
    """Octaves by which the first third of the layers lies below the last third; NaN = too few are known."""
    depths = np.asarray(layout.depths)
    order = np.argsort(depths, kind="stable") if (depths >= 0).all() else np.arange(len(levels))
    ordered = levels[order][~np.isnan(levels[order])]
    third = len(ordered) // 3
    if third < 2:
        return math.nan
    early, late = np.sort(ordered[:third])[third // 2], np.sort(ordered[-third:])[third // 2]
    return float(early - late) if late > -math.inf else math.nan
