"""An excursion: consecutive steps far above what is usual, from the first one until the norm has come back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from seismograd_server.detect.facts import UNKNOWN, octaves
from seismograd_server.model import Int64

# Quiet steps in a row that end an excursion: fewer, and an oscillating explosion (up, down, up) would be cut to pieces.
_QUIET_STEPS_TO_END = 8
# Steps whose levels are kept for the slope: more would average a fast explosion with its slow beginning.
_STEPS_KEPT = 16


@dataclass(slots=True)
class Excursion:
    """What has happened since the norm left the usual range; `open` says whether it is still out there."""

    open: bool = False
    first_step: int = 0
    first_layer: str = ""  # the layer that was furthest above its usual range when it began; empty = not known
    last_quiet_step: int = 0  # the step before it
    first_level: float = math.nan  # highest until its second high step: bad data often fill a batch or two
    peak: float = -math.inf
    peak_excess: float = -math.inf  # above the record
    steps: int = 0  # judged steps since it began
    high_steps: int = 0  # of these, steps above the record
    bad_losses: int = 0  # of these, steps whose loss was far above its usual range as well
    worst_loss: float = -math.inf
    uneven: float = math.inf  # how far its layers' rises have differed, in two far steps in a row; Inf = cannot be told
    uneven_before: float = 0.0  # in the latest far step
    leapt: bool = False  # whether the latest steps before it were as usual
    quiet_steps: int = 0  # in a row, lately
    trail: list[tuple[int, float]] = field(default_factory=list)  # (step, level), the latest few

    def begin(self, step: int, last_quiet_step: int, first_layer: str) -> None:
        """Start at a step."""
        self.open = True
        self.first_step, self.last_quiet_step, self.first_layer = step, last_quiet_step, first_layer
        self.first_level = self.peak = self.peak_excess = -math.inf
        self.worst_loss, self.uneven, self.uneven_before = -math.inf, 0.0, 0.0
        self.steps = self.high_steps = self.bad_losses = self.quiet_steps = 0

    def follow(self, level: float, excess: float, *, far: bool, high: bool, bad_loss: bool, loss: float) -> None:
        """Take in the next step of an open excursion; `loss` is NaN where it is not known."""
        self.steps += 1
        self.high_steps += high
        self.bad_losses += bad_loss
        self.quiet_steps = 0 if far or bad_loss else self.quiet_steps + 1
        if level > self.peak:
            self.peak, self.peak_excess = level, excess
        self.worst_loss = max(self.worst_loss, loss)
        if self.high_steps <= 2:
            self.first_level = max(self.first_level, level)

    def is_over(self) -> bool:
        """Whether it has come back to the usual range."""
        return self.open and self.quiet_steps >= _QUIET_STEPS_TO_END

    def end(self) -> None:
        """Close it."""
        self.open = False

    def growth(self) -> float:
        """Octaves that the peak has gained since the first two high steps."""
        return self.peak - self.first_level if self.open else 0.0

    def shape(self, uneven: float) -> None:
        """Take in how far the layers' rises differ in a far step: a single batch may be odd, ruined weights stay so."""
        self.uneven = max(self.uneven, min(uneven, self.uneven_before))
        self.uneven_before = uneven

    def level_before(self) -> float:
        """Median of the latest levels, without the last one; NaN = there were none."""
        levels = [level for _, level in self.trail[:-1]]
        return middle(levels) if levels else math.nan

    def remember(self, step: int, level: float) -> None:
        """Keep a level for the slope, whether or not an excursion is open."""
        self.trail.append((step, level))
        if len(self.trail) > _STEPS_KEPT:
            self.trail.pop(0)

    def remember_all(self, steps: Int64, levels: list[float]) -> None:
        """Keep the latest of some levels, in order."""
        latest = zip(steps[-_STEPS_KEPT:].tolist(), levels[-_STEPS_KEPT:], strict=True)
        self.trail = list(latest) if len(steps) >= _STEPS_KEPT else [*self.trail, *latest][-_STEPS_KEPT:]

    def octaves_per_step(self) -> float:
        """Slope of the level since the last quiet step, by least squares over the latest steps; 0 = not rising."""
        points = [(step, level) for step, level in self.trail if not self.open or step >= self.last_quiet_step]
        if len(points) < 2:
            return 0.0
        middle = sum(step for step, _ in points) / len(points)
        mean = sum(level for _, level in points) / len(points)
        over = sum((step - middle) * (level - mean) for step, level in points)
        under = sum((step - middle) ** 2 for step, _ in points)
        return max(0.0, over / under) if under > 0.0 else 0.0


def middle(values: list[float]) -> float:
    """Median of some values, the upper one of two; there must be one."""
    return sorted(values)[len(values) // 2]


def rise_within(levels: list[float]) -> float:
    """Octaves from the median of the first third of some levels to that of the last; 0 = fewer than three levels."""
    third = len(levels) // 3
    return middle(levels[-third:]) - middle(levels[:third]) if third else 0.0


def imbalance(levels: list[float], losses: list[float], usual_level: float, usual_loss: float) -> float:
    """Octaves between norm and loss above their usual, or its root, which scales with targets; NaN = not known.

    The median of some steps, because a single batch may be odd.
    """
    if not all(0.0 < each < math.inf for each in (usual_loss, *losses)):
        return UNKNOWN
    reference = octaves(usual_loss)
    pairs = [(level - usual_level, octaves(loss) - reference) for level, loss in zip(levels, losses, strict=True)]
    return middle([min(abs(above - worse), abs(above - worse / 2.0)) for above, worse in pairs])
