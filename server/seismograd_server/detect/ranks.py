"""Which rank is to blame: deviations of each rank from the median of the others, in local norm and in loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from seismograd_server.model import ClosedBlock, Float64

# A rank stands out at this many octaves above the others' median and this many times what is usual in this run, and
# only if no other rank stands out half as far: ranks see different data, and an explosion shakes them all.
_LEAST_OCTAVES = 1.0
_TIMES_USUAL = 4.0
_NEXT_MOST = 0.5
# Losses of small batches differ more than norms do, so one has to stand out twice as far.
_TIMES_USUAL_LOSS = 8.0
# Samples without which nothing is usual yet.
_LEAST_NORM_SAMPLES = 2
_LEAST_LOSS_SAMPLES = 8
# Usual deviations are averaged over about this many samples.
_MEMORY_SAMPLES = 32
# A suspicion is kept for this many steps: local norms are sampled every tenth step, losses come every step.
_SUSPECT_STEPS = 12


@dataclass(slots=True, frozen=True)
class Spread:
    """How the ranks of one step lie: deviations from the median of the others."""

    mean: float  # of the absolute deviations
    leader: int  # rank that lies highest
    highest: float
    second: float  # deviation of the one that lies highest among the rest


@dataclass(slots=True)
class Usual:
    """Mean absolute deviation over ranks and quiet steps, in the unit of the quantity."""

    mean: float = 0.0
    samples: int = 0

    def accept(self, spread: Spread | None) -> None:
        """Take in the ranks of a quiet step."""
        if spread is not None:
            self.samples += 1
            self.mean += (spread.mean - self.mean) / min(self.samples, _MEMORY_SAMPLES)


@dataclass(slots=True)
class RankMemory:
    """Usual deviations, and the rank that stood out lately."""

    norm: Usual = field(default_factory=Usual)
    loss: Usual = field(default_factory=Usual)
    suspect: int = -1
    suspect_age: int = 0  # judged steps since it stood out

    def look(self, norms: Spread | None, losses: Spread | None) -> None:
        """Compare the ranks of a step; who stands out is remembered for a while, and the first one stays."""
        self.suspect_age += 1
        if self.suspect_age > _SUSPECT_STEPS:
            self.suspect = -1
        found = -1
        if self.norm.samples >= _LEAST_NORM_SAMPLES:
            found = _standing_out(norms, max(_LEAST_OCTAVES, _TIMES_USUAL * self.norm.mean))
        if found < 0 and self.loss.samples >= _LEAST_LOSS_SAMPLES:
            found = _standing_out(losses, _TIMES_USUAL_LOSS * self.loss.mean)
        if found >= 0 and self.suspect in {-1, found}:
            self.suspect, self.suspect_age = found, 0

    def accept(self, norms: Spread | None, losses: Spread | None) -> None:
        """Take in the ranks of a quiet step: their deviations are usual ones."""
        self.norm.accept(norms)
        self.loss.accept(losses)

    def leading(self) -> int | None:
        """The rank that stands out; None = none does, or it cannot be known."""
        return self.suspect if self.suspect >= 0 else None


def norm_spreads(block: ClosedBlock) -> list[Spread | None]:
    """Spreads of the ranks' local norms in octaves, step by step; None = not sampled, or a rank alone."""
    if block.rank_norm.shape[1] < 2:
        return [None] * block.count
    with np.errstate(divide="ignore", invalid="ignore"):
        return _spreads(np.log2(block.rank_norm))


def loss_spreads(block: ClosedBlock) -> list[Spread | None]:
    """Spreads of the ranks' losses, step by step; None = fewer than two are known."""
    if block.rank_loss.shape[1] < 2:
        return [None] * block.count
    return _spreads(np.where(block.rank_loss_known, block.rank_loss, np.nan))


def deviations(values: Float64) -> Float64:
    """float64[k, r]: each value minus the median of the others of its row; all values are finite, r is at least 2.

    With the row sorted, the others' median is one or two known places, moved by one behind the value itself.
    """
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    count = values.shape[1]
    place = np.arange(count)
    low, high = (count - 2) // 2, (count - 1) // 2  # the middle places among count - 1 others
    others = (ordered[:, low + (low >= place)] + ordered[:, high + (high >= place)]) / 2.0
    result = np.empty_like(values)
    np.put_along_axis(result, order, ordered - others, axis=1)
    return result


def _spreads(values: Float64) -> list[Spread | None]:
    """Rows are grouped by which ranks are known, so that each group is one matrix without holes."""
    spreads: list[Spread | None] = [None] * len(values)
    known = np.isfinite(values)
    rows = np.flatnonzero(known.sum(axis=1) >= 2)
    if not len(rows):
        return spreads
    patterns, group = np.unique(known[rows], axis=0, return_inverse=True)
    for index, pattern in enumerate(patterns):
        chosen, ranks = rows[group.ravel() == index], np.flatnonzero(pattern)
        with np.errstate(over="ignore", invalid="ignore"):
            deviation = deviations(np.ascontiguousarray(values[np.ix_(chosen, ranks)]))
            highest = np.partition(deviation, -2, axis=1)[:, -2:].tolist()
            means = np.abs(deviation).mean(axis=1).tolist()
        leaders = ranks[np.argmax(deviation, axis=1)].tolist()
        for row, mean, leader, (second, first) in zip(chosen.tolist(), means, leaders, highest, strict=True):
            spreads[row] = Spread(mean, leader, first, second)
    return spreads


def _standing_out(spread: Spread | None, threshold: float) -> int:
    """The one rank that lies above the threshold, if no other comes near it; -1 = none."""
    if spread is None or not spread.highest > threshold or spread.second > _NEXT_MOST * spread.highest:
        return -1
    return spread.leader
