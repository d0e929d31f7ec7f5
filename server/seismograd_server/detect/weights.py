"""Which tensor's weights changed by something that was no update: corrupted, overwritten, or scaled by hand.

By the triangle inequality an update moves the norm of its weights by no more than its own norm. What moves further was
moved by something else, and is the place to look at first: the gradients of the other layers rise, not its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from seismograd_server.detect.facts import Step
from seismograd_server.model import ClosedBlock, Float32, Layout

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
        if not math.isnan(step.ratio):
            self._sample(step.block, step.row)

    def look_all(self, block: ClosedBlock, sampled: list[int], start: int, stop: int) -> None:
        """The same for the steps from `start` to `stop` of a block, some of which were sampled."""
        if sampled and self._is_steady(block.weight_norms[sampled]):  # the usual case: only the last one is kept
            self.wait(stop - start)
            self._keep(block, sampled[-1])
            self.age = stop - 1 - sampled[-1]
            return
        behind = start
        for row in sampled:
            self.wait(row + 1 - behind)
            self._sample(block, row)
            behind = row + 1
        self.wait(stop - behind)

    def _is_steady(self, weights: Float32) -> bool:
        """Whether no tensor changes by much between samples, weights float32[k, l], and the one in memory."""
        if weights.shape[1] != len(self.weights):
            return False
        with np.errstate(invalid="ignore"):
            before = np.concatenate((self.weights[None], weights[:-1]))
            return not np.count_nonzero(np.abs(weights - before) > _LEAST_CHANGE * before)

    def _sample(self, block: ClosedBlock, row: int) -> None:
        weights, updates = block.weight_norms[row], block.update_norms[row]
        if len(weights) == len(self.weights) and self.age <= _OLDEST_SAMPLE:
            self._compare(block.layout, weights, updates)
        self._keep(block, row)

    def _keep(self, block: ClosedBlock, row: int) -> None:
        self.weights, self.updates, self.age = block.weight_norms[row].copy(), block.update_norms[row].copy(), 0

    def _compare(self, layout: Layout, weights: Float32, updates: Float32) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            change = np.abs(weights - self.weights)
            explained = (_TIMES_EXPLAINED * self.age) * np.fmax(self.updates, updates)
            moved = (change > explained) & (change > _LEAST_CHANGE * self.weights) & (change < np.inf)
            if np.count_nonzero(moved):
                shares = np.where(moved, change / np.maximum(self.weights, np.finfo(np.float32).tiny), 0.0)
                self.suspect = layout.names[int(np.argmax(shares))]
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
