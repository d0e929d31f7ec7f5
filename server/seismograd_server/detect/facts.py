"""Closed steps as the detectors see them: plain numbers cut from a block, with nothing derived from other steps."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from seismograd_server.detect.ranks import Spread, loss_spreads, norm_spreads
from seismograd_server.model import Bool, ClosedBlock, Float32, Float64, NonfiniteLayer, RecordFlag

UNKNOWN = math.nan
# As plain numbers: an enum takes a microsecond for every `&`, and this is done for every step.
_SKIPPED_BY_SCALER = int(RecordFlag.SKIPPED_BY_SCALER)
_SKIPPED_BY_USER = int(RecordFlag.SKIPPED_BY_USER)
_SKIPPED = np.uint16(_SKIPPED_BY_SCALER | _SKIPPED_BY_USER)


def octaves(value: float) -> float:
    """log2 of a positive number; NaN = zero, negative or not known."""
    return math.log2(value) if value > 0.0 else UNKNOWN


def from_octaves(value: float) -> float:
    """2 to a power; Inf where that is beyond double precision, NaN stays NaN."""
    return math.inf if value >= 1024.0 else 2.0**value


@dataclass(slots=True)
class Step:
    """The facts of one closed step; NaN = not known, except that `loss` is data where `loss_known`."""

    block: ClosedBlock
    row: int
    step: int
    norm: float  # of the finite elements
    level: float  # log2 of the norm (octaves); unknown when the norm is zero or unknown
    loss: float
    loss_known: bool
    nan_count: int
    inf_count: int
    skipped_by_scaler: bool
    skipped_by_user: bool
    clip_coefficient: float
    learning_rate: float
    ratio: float  # log2 of the whole model's update norm over its weight norm; unknown when not sampled
    update_level: float  # log2 of the update norm; unknown when not sampled
    rank_norms: Spread | None  # how the ranks' local norms lie; None = unknown
    rank_losses: Spread | None

    @property
    def broken(self) -> bool:
        """Whether a gradient or the loss is NaN or Inf."""
        return self.nan_count + self.inf_count > 0 or (self.loss_known and not math.isfinite(self.loss))

    @property
    def skipped(self) -> bool:
        """Whether the optimizer did not move the weights, on purpose."""
        return self.skipped_by_scaler or self.skipped_by_user

    @property
    def layer_norms(self) -> Float32:
        """float32[l], finite part; NaN = not known."""
        row: Float32 = self.block.layer_norms[self.row]
        return row

    @property
    def nonfinite_layers(self) -> tuple[NonfiniteLayer, ...]:
        """What the ranks reported as not finite in this step."""
        return tuple(each for each in self.block.nonfinite_layers if each.row == self.row)


class Facts:
    """The facts of a block: one plain list a column, for loops over steps. `step` gathers those of one step."""

    def __init__(self, block: ClosedBlock) -> None:
        self.block = block
        self.count = block.count
        self.steps: list[int] = block.steps.tolist()
        self.times: list[float] = block.times.tolist()
        self.all_present = np.count_nonzero(block.ranks_present) == block.ranks_present.size
        self.norms: list[float] = block.global_norm.tolist()
        self.levels = [math.log2(norm) if 0.0 < norm < math.inf else UNKNOWN for norm in self.norms]
        self.losses: list[float] = block.loss.tolist()
        self.loss_known: list[bool] = block.loss_known.tolist()
        self.flags: list[int] = block.flags.tolist()
        # No list: thousands of short lists at once would set off the garbage collector, which costs more than the rest.
        self._all_finite = not np.count_nonzero(block.nonfinite)
        self.clips: list[float] = block.clip_coefficient.tolist()
        self.rates: list[float] = block.learning_rate.tolist()
        ratios, updates, self.sampled = update_ratios(block)
        self.ratios: list[float] = ratios.tolist()
        self.update_levels: list[float] = updates.tolist()
        self.rank_norms, self.rank_losses = norm_spreads(block), loss_spreads(block)
        self.of_ranks: list[int] = []  # rows at which something is known of how the ranks lie
        if block.layout.world_size > 1:
            pairs = zip(self.rank_norms, self.rank_losses, strict=True)
            self.of_ranks = [row for row, pair in enumerate(pairs) if pair[0] or pair[1]]
        self._of_loss = _rows_where(block.loss_known)
        self._unsound = _rows_where(unsound(block)) if _is_suspicious(block, self.levels) else []

    def sound_until(self, row: int) -> int:
        """The first row from this one on that is not sound (see `unsound`); the end if there is none."""
        place = bisect_left(self._unsound, row)
        return self._unsound[place] if place < len(self._unsound) else self.count

    def rows_of_loss(self, start: int, stop: int) -> list[int]:
        """Rows from `start` to `stop` whose loss is known."""
        return self._of_loss[bisect_left(self._of_loss, start) : bisect_left(self._of_loss, stop)]

    def step(self, row: int) -> Step:
        """The facts of one step."""
        norm = self.norms[row]
        nan_count, positive, negative = (0, 0, 0) if self._all_finite else self.block.nonfinite[row].tolist()
        infinite = norm == math.inf  # a norm that overflowed although no element did
        return Step(
            block=self.block,
            row=row,
            step=self.steps[row],
            norm=norm,
            level=self.levels[row],
            loss=self.losses[row],
            loss_known=self.loss_known[row],
            nan_count=nan_count,
            inf_count=positive + negative + infinite,
            skipped_by_scaler=bool(self.flags[row] & _SKIPPED_BY_SCALER),
            skipped_by_user=bool(self.flags[row] & _SKIPPED_BY_USER),
            clip_coefficient=self.clips[row],
            learning_rate=self.rates[row],
            ratio=self.ratios[row],
            update_level=self.update_levels[row],
            rank_norms=self.rank_norms[row],
            rank_losses=self.rank_losses[row],
        )


def unsound(block: ClosedBlock) -> Bool:
    """bool[n]: steps that are skipped, not finite in gradient or loss, or whose norm is zero or not known."""
    skipped = (block.flags & _SKIPPED) != 0
    measured = (block.global_norm > 0.0) & (block.global_norm < np.inf)
    lost = block.loss_known & ~np.isfinite(block.loss)
    broken: Bool = skipped | ~measured | lost | block.nonfinite.any(axis=1)
    return broken


def _is_suspicious(block: ClosedBlock, levels: list[float]) -> bool:
    """Whether any step can be unsound: by whole columns, because most blocks are short and sound."""
    if math.isnan(sum(levels)) or np.count_nonzero(block.nonfinite) or np.count_nonzero(block.flags & _SKIPPED):
        return True
    if not np.count_nonzero(block.loss_known):
        return False
    return int(np.count_nonzero(np.isfinite(block.loss))) < block.count


def _rows_where(true: Bool) -> list[int]:
    """Rows that are True; cheap where it is none or all."""
    count = np.count_nonzero(true)
    if not count:
        return []
    rows: list[int] = list(range(count)) if count == len(true) else np.flatnonzero(true).tolist()
    return rows


def update_ratios(block: ClosedBlock) -> tuple[Float64, Float64, list[int]]:
    """Two float64[n]: log2 of the whole model's update over weight norm, and of its update norm; NaN = not sampled.

    And the rows whose ratio is finite. Layers that were not sampled count in neither. Rows are summed one by one in
    memory order, so that the way a stream was cut cannot change the last bit.
    """
    ratios, levels = np.full(block.count, np.nan), np.full(block.count, np.nan)
    both = ~np.isnan(block.update_norms)
    if np.count_nonzero(both):  # most blocks are short and have no sample
        both &= ~np.isnan(block.weight_norms)
    if not np.count_nonzero(both):
        return ratios, levels, []
    sampled = both.any(axis=1)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        update = _total(block.update_norms[sampled], both[sampled])
        levels[sampled] = np.log2(update)
        weight = _total(block.weight_norms[sampled], both[sampled])
        ratios[sampled] = np.log2(update / np.where(weight > 0.0, weight, np.nan))
    return ratios, levels, _rows_where(np.isfinite(ratios))


def _total(norms: Float32, known: Bool) -> Float64:
    squares = np.square(np.where(known, norms, 0.0).astype(np.float64))
    total: Float64 = np.sqrt(np.ascontiguousarray(squares).sum(axis=1))
    return total
