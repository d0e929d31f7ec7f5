"""Which tensor's weights changed by something that was no update: corrupted, overwritten, or scaled by hand.

By the triangle inequality an update moves the norm of its weights by no more than its own norm. What moves further was
moved by something else, and is the place to look at first: the gradients of the other layers rise, not its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from seismograd_server.detect.facts import Step
from seismograd_server.model import Float32

# A tenth of the norm: rounding, averaging and decay make less of it between samples.
_LEAST_CHANGE = 0.1
# Times what the updates at both ends explain, over the steps between them: those that were not sampled may be larger.
_TIMES_EXPLAINED = 4.0
# Samples further apart than this explain too much to say anything.
_OLDEST_SAMPLE = 64
# So long a tensor is remembered as changed: the norm shows it at once, and the sample may come later.
_SUSPECT_STEPS = 64


def _nothing() -> Float32:
    return np.zeros(0, dtype=np.float32)


@dataclass(slots=True)
class WeightMemory:
    """The latest sample of weights and updates, and the tensor that changed otherwise lately."""

    weights: Float32 = field(default_factory=_nothing)  # [l]
    updates: Float32 = field(default_factory=_nothing)  # [l]
    age: int = 0  # steps since the sample
    suspect: str = ""  # name of the tensor; empty = none
    suspect_for: int = 0  # steps that it is still remembered

    def look(self, step: Step) -> None:
        """Take in a step's sample, if there is one, and otherwise grow older."""
        self.wait(1)
        if math.isnan(step.ratio):
            return
        weights, updates = step.block.weight_norms[step.row], step.block.update_norms[step.row]
        if len(weights) == len(self.weights) and self.age <= _OLDEST_SAMPLE:
            self._compare(step, weights, updates)
        self.weights, self.updates, self.age = weights.copy(), updates.copy(), 0

    def _compare(self, step: Step, weights: Float32, updates: Float32) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            change = np.abs(weights - self.weights)
            moved = change > _LEAST_CHANGE * self.weights
            if not np.count_nonzero(moved):  # the usual case
                return
            explained = (_TIMES_EXPLAINED * self.age) * np.fmax(self.updates, updates)
            moved &= (change > explained) & (change < np.inf)
            if np.count_nonzero(moved):
                shares = np.where(moved, change / np.maximum(self.weights, np.finfo(np.float32).tiny), 0.0)
                self.suspect = step.block.layout.names[int(np.argmax(shares))]
                self.suspect_for = _SUSPECT_STEPS

    def wait(self, steps: int) -> None:
        """Grow older by steps."""
        self.age += steps
        self.suspect_for = max(0, self.suspect_for - steps)
        if not self.suspect_for:
            self.suspect = ""

    def forget(self) -> None:
        """The weights may be others now: the run was restarted or rewound."""
        self.weights, self.suspect, self.suspect_for = _nothing(), "", 0
