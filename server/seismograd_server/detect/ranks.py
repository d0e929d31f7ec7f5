"""Which rank is to blame: deviations of each rank from the median of the others, in local norm and in loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from seismograd_server.detect.baseline import Baseline
from seismograd_server.model import ClosedBlock, Float64, Layout

# A rank stands out where it lies further from the others than is usual in this run, no other rank comes half as far,
# and either the others are as always, or it lies at eight times the others' median or nearly so: ranks see different
# data, and an explosion shakes them all. In doubt nobody is blamed.
_NEXT_MOST = 0.5
_OTHERS_SPREADS = 3.0
_ALONE_OCTAVES = 1.5  # of a norm, while the others are as always
_SHAKEN_OCTAVES = 2.5  # of a norm, when they are not
_SHAKEN_TIMES = 7.0  # deviation of a loss over the others' median, when they are not: seven more makes eight
# Multiples of the usual deviation: the largest of several noisy norms lies two or three times out, losses, which are
# means over few samples, further.
_TIMES_USUAL_NORM = 3.0
_TIMES_USUAL_LOSS = 8.0
# A deviation counts for no more than this as a usual one: a batch without any gradient is 2^-30 below the others.
_MOST_OCTAVES = 4.0
# Samples without which nothing is usual yet.
_LEAST_NORM_SAMPLES = 2
_LEAST_LOSS_SAMPLES = 8
# Usual deviations are averaged over about this many samples.
_MEMORY_SAMPLES = 32
# A suspicion is kept for this many steps: local norms are sampled every tenth step, losses come every step.
_SUSPECT_STEPS = 12


@dataclass(slots=True)  # frozen, to make one would take three times as long, and every step of every run makes two
class Spread:
    """How the ranks of one step lie: deviations from the median of the others. Nobody changes it."""

    mean: float  # of the absolute deviations
    leader: int  # rank that lies highest
    highest: float
    second: float  # deviation of the one that lies highest among the rest
    others: float  # median of all ranks but the leader


@dataclass(slots=True)
class Usual:
    """What is usual among the ranks, learnt from quiet steps; in the unit of the quantity."""

    mean: float = 0.0  # absolute deviation over ranks
    others: Baseline = field(default_factory=lambda: Baseline(least_spread=0.0))  # medians of all but the leader
    samples: int = 0

    def accept(self, spread: Spread | None) -> None:
        """Take in the ranks of a quiet step."""
        if spread is not None:
            self.samples += 1
            self.mean += (spread.mean - self.mean) / min(self.samples, _MEMORY_SAMPLES)
            self.others.accept(spread.others)

    def shaken(self, spread: Spread) -> bool:
        """Whether the others, too, lie above where they always do."""
        center = self.others.center()  # half of all lie below it, and need no spread
        return spread.others > center and spread.others > center + _OTHERS_SPREADS * self.others.spread()


@dataclass(slots=True)
class RankMemory:
    """Usual deviations, and the rank that stood out lately."""

    norm: Usual = field(default_factory=Usual)
    loss: Usual = field(default_factory=Usual)
    suspect: int = -1
    strength: float = 0.0  # of the suspicion: deviation over the threshold
    age: int = 0  # judged steps since
    shaken_for: int = 0  # steps for which the ranks count as shaken

    def look(self, norms: Spread | None, losses: Spread | None) -> None:
        """Compare the ranks of a step; who stands out is remembered for a while, unless another does so more."""
        self.age += 1
        if self.age > _SUSPECT_STEPS:
            self.suspect, self.strength = -1, 0.0
        self.shaken_for = max(0, self.shaken_for - 1)
        if self.norm.samples >= _LEAST_NORM_SAMPLES and norms is not None:
            least = _SHAKEN_OCTAVES if self._shaken(self.norm, norms) else _ALONE_OCTAVES
            self._suspect(norms, max(least, _TIMES_USUAL_NORM * self.norm.mean))
        if self.loss.samples >= _LEAST_LOSS_SAMPLES and losses is not None:
            least = _SHAKEN_TIMES * abs(losses.others) if self._shaken(self.loss, losses) else 0.0
            self._suspect(losses, max(least, _TIMES_USUAL_LOSS * self.loss.mean))

    def wait(self, steps: int) -> None:
        """The same as `look` at so many steps of which the ranks are not known."""
        self.age += steps
        if self.age > _SUSPECT_STEPS and steps:
            self.suspect, self.strength = -1, 0.0
        self.shaken_for = max(0, self.shaken_for - steps)

    def _shaken(self, usual: Usual, spread: Spread) -> bool:
        """Whether all ranks are in trouble, now or lately: an oscillating run has calm steps in between."""
        if usual.shaken(spread):
            self.shaken_for = _SUSPECT_STEPS
        return self.shaken_for > 0

    def _suspect(self, spread: Spread, threshold: float) -> None:
        """Suspect the one rank that lies above the threshold, if no other comes near it."""
        if not spread.highest > threshold or spread.second > _NEXT_MOST * spread.highest:
            return
        strength = spread.highest / threshold if threshold > 0.0 else 1.0
        if spread.leader == self.suspect:
            self.strength, self.age = max(self.strength, strength), 0
        elif strength > self.strength:
            self.suspect, self.strength, self.age = spread.leader, strength, 0

    def accept(self, norms: Spread | None, losses: Spread | None) -> None:
        """Take in the ranks of a quiet step: their deviations are usual ones."""
        self.norm.accept(norms)
        self.loss.accept(losses)

    def leading(self) -> int | None:
        """The rank that stands out; None = none does, or it cannot be known."""
        return self.suspect if self.suspect >= 0 else None


def norm_spreads(blocks: Sequence[ClosedBlock]) -> list[Spread | None]:
    """Spreads of the ranks' local norms in octaves, step by step and block by block; None = not sampled, or alone."""

    def levels(block: ClosedBlock) -> Float64:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log2(block.rank_norm)

    return _spreads_of(blocks, levels, _MOST_OCTAVES)


def loss_spreads(blocks: Sequence[ClosedBlock]) -> list[Spread | None]:
    """Spreads of the ranks' losses, step by step, block by block; None = fewer than two are known."""
    return _spreads_of(blocks, lambda block: np.where(block.rank_loss_known, block.rank_loss, np.nan), math.inf)


def _spreads_of(
    blocks: Sequence[ClosedBlock], values_of: Callable[[ClosedBlock], Float64], most: float
) -> list[Spread | None]:
    """Blocks of as many ranks are looked at together: `_spreads` costs by the call, not by the step."""
    by_width: dict[int, list[tuple[int, Float64]]] = {}
    count = 0
    for block in blocks:
        if (ranks := block.ranks_present.shape[1]) > 1:
            by_width.setdefault(ranks, []).append((count, values_of(block)))
        count += block.count
    spreads: list[Spread | None] = [None] * count
    for group in by_width.values():
        found = _spreads(np.concatenate([values for _, values in group]), most)
        begin = 0
        for start, values in group:
            spreads[start : start + len(values)] = found[begin : begin + len(values)]
            begin += len(values)
    return spreads


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


def _spreads(values: Float64, most: float) -> list[Spread | None]:
    """Rows are grouped by which ranks are known, so that each group is one matrix without holes.

    In the mean, a deviation counts for `most` at most.
    """
    spreads: list[Spread | None] = [None] * len(values)
    known = np.isfinite(values)
    rows = np.flatnonzero(known.sum(axis=1) >= 2)
    if not len(rows):
        return spreads
    if known[rows].all():  # the usual case, and grouping is what costs most
        patterns, group = known[rows[:1]], np.zeros(len(rows), dtype=np.intp)
    else:
        patterns, group = np.unique(known[rows], axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        chosen, ranks = rows[group.ravel() == number], np.flatnonzero(pattern)
        chosen_values = np.ascontiguousarray(values[np.ix_(chosen, ranks)])
        with np.errstate(over="ignore", invalid="ignore"):
            deviation = deviations(chosen_values)
            highest = np.partition(deviation, -2, axis=1)[:, -2:].tolist()
            means = np.minimum(np.abs(deviation), most).mean(axis=1).tolist()
            places = np.argmax(deviation, axis=1)
            leading = np.take_along_axis(chosen_values - deviation, places[:, None], axis=1)[:, 0].tolist()
        leaders = ranks[places].tolist()
        for row, mean, leader, (second, first), others in zip(
            chosen.tolist(), means, leaders, highest, leading, strict=True
        ):
            spreads[row] = Spread(mean, leader, first, second, others)
    return spreads


def on_host(layout: Layout, rank: int) -> str:
    """Say where a rank runs, for the reason: ` on gpu-17`, or nothing when that is not known."""
    host = layout.hostnames[rank] if rank < len(layout.hostnames) else ""
    return f" on {host}" if host else ""
