"""Which tensor's weights changed by something that was no update: corrupted, overwritten, or scaled by hand.

By the triangle inequality an update moves the norm of its weights by no more than its own norm. What moves further was
moved by something else, and is the place to look at first: the gradients of the other layers rise, not its own.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from seismograd_server.detect.facts import Step
from seismograd_server.model import Bool, ClosedBlock, Float32, Layout

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


def _none() -> Bool:
    return np.zeros(0, dtype=np.bool_)


@dataclass(slots=True)
class WeightMemory:
    """The latest sample of weights and updates, and the tensor that changed otherwise lately."""

    weights: Float32 = field(default_factory=_nothing)  # [l]
    updates: Float32 = field(default_factory=_nothing)  # [l]
    moving: Bool = field(default_factory=_none)  # [l], which had changed by much when it was taken; empty = none
    age: int = 0  # steps since the sample
    suspect: str = ""  # name of the tensor; empty = none
    suspect_for: int = 0  # steps that it is still remembered

    def look(self, step: Step) -> None:
        """Take in a step's sample, if there is one, and otherwise grow older."""
        self.wait(1)
        if not math.isnan(step.ratio):
            self._sample(step.block, step.row)

    def look_all(self, block: ClosedBlock, sampled: list[int], start: int, stop: int, *, steady: bool = False) -> None:
        """The same for the steps from `start` to `stop` of a block, some of which were sampled.

        `steady` says that it is known to be so (`are_steady`); if it is not, that is found out here.
        """
        steady = steady or are_steady([self], [block], [sampled])[0]
        if sampled and steady:  # the usual case: only the last one is kept
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

    def _sample(self, block: ClosedBlock, row: int) -> None:
        weights, updates = block.weight_norms[row], block.update_norms[row]
        comparable = len(weights) == len(self.weights) and self.age <= _OLDEST_SAMPLE
        moving = self._compare(block.layout, weights, updates) if comparable else _none()
        self._keep(block, row)
        self.moving = moving

    def _keep(self, block: ClosedBlock, row: int) -> None:
        self.weights, self.updates, self.age = block.weight_norms[row].copy(), block.update_norms[row].copy(), 0
        self.moving = _none()

    def _compare(self, layout: Layout, weights: Float32, updates: Float32) -> Bool:
        """Suspect the tensor that changed the most by what no update explains; which of them changed by much."""
        with np.errstate(over="ignore", invalid="ignore"):
            change = np.abs(weights - self.weights)
            explained = (_TIMES_EXPLAINED * self.age) * np.fmax(self.updates, updates)
            moving: Bool = (change > _LEAST_CHANGE * self.weights) & (change < np.inf)
            # Unless both ends are neighbours, they say nothing of the steps between where weights move anyhow: updates
            # of an explosion are huge in one step and next to nothing, or nothing at all, in the next.
            bounded = (explained > 0.0) & ~self.moving if len(self.moving) else explained > 0.0
            moved = moving & (bounded | (self.age == 1)) & (change > explained)
            if np.count_nonzero(moved):
                shares = np.where(moved, change / np.maximum(self.weights, np.finfo(np.float32).tiny), 0.0)
                self.suspect = layout.names[int(np.argmax(shares))]
                self.suspect_for = _SUSPECT_STEPS
        return moving if moving.any() else _none()

    def wait(self, steps: int) -> None:
        """Grow older by steps."""
        self.age += steps
        self.suspect_for = max(0, self.suspect_for - steps)
        if not self.suspect_for:
            self.suspect = ""

    def forget(self) -> None:
        """The weights may be others now: the run was restarted or rewound."""
        self.weights, self.moving, self.suspect, self.suspect_for = _nothing(), _none(), "", 0


def are_steady(
    memories: Sequence[WeightMemory], blocks: Sequence[ClosedBlock], sampled: Sequence[list[int]]
) -> list[bool]:
    """Whether no tensor changes by much between the sample in memory and those of a block, for each of some runs."""
    steady = [True] * len(memories)
    by_width: dict[int, list[int]] = {}
    for number, (memory, block, rows) in enumerate(zip(memories, blocks, sampled, strict=True)):
        if rows:
            steady[number] = len(memory.weights) == block.weight_norms.shape[1]
            by_width.setdefault(len(memory.weights) if steady[number] else 0, []).append(number)
    by_width.pop(0, None)
    for width, numbers in by_width.items():
        samples: list[Float32] = []
        ends = []
        for number in numbers:
            samples += [memories[number].weights, *(blocks[number].weight_norms[row] for row in sampled[number])]
            ends.append(len(samples) - 1)
        weights = np.concatenate(samples).reshape(-1, width)
        with np.errstate(invalid="ignore"):
            changes = np.abs(weights[1:] - weights[:-1]) > _LEAST_CHANGE * weights[:-1]
        if np.count_nonzero(changes):
            changed = np.flatnonzero(changes.any(axis=1)).tolist()
            first = 0
            for number, end in zip(numbers, ends, strict=True):
                # Between two runs there is nothing to compare.
                steady[number] = bisect_left(changed, first) == bisect_left(changed, end)
                first = end + 1
    return steady
