"""Closed steps as the detectors see them: plain numbers cut from a block, with nothing derived from other steps.

Blocks are short, and to call numpy costs as much as some hundred numbers: `facts_of` cuts up many blocks at once, of
whatever runs. The facts of each are what they would be if it were alone.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import sub
from typing import Any

import numpy as np
import numpy.typing as npt

from seismograd_server.detect.ranks import Spread, loss_spreads, norm_spreads
from seismograd_server.model import Bool, ClosedBlock, Float32, Float64, NonfiniteLayer, RecordFlag, is_unknown, unknown

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

    __slots__ = (
        "_all_finite",
        "_of_loss",
        "_unsound",
        "all_present",
        "block",
        "clipped",
        "clips",
        "count",
        "flags",
        "knows_scales",
        "levels",
        "longest_pause",
        "loss_known",
        "losses",
        "norms",
        "of_ranks",
        "rank_losses",
        "rank_norms",
        "rates",
        "ratios",
        "sampled",
        "steps",
        "times",
        "update_levels",
    )

    def __init__(self, block: ClosedBlock, columns: Columns | None = None, start: int = 0) -> None:
        """Those of a block whose rows begin at `start` of the columns."""
        columns = columns or Columns([block])
        self.block, self.count = block, block.count
        stop = start + self.count
        self.steps = columns.steps[start:stop]
        self.times = columns.times[start:stop]
        # Seconds between two steps, at most; NaN = look, because some time is not finite.
        self.longest_pause = max(map(sub, self.times[1:], self.times), default=0.0)
        self.all_present = np.count_nonzero(block.ranks_present) == block.ranks_present.size
        self.norms = columns.norms[start:stop]
        self.levels = [math.log2(norm) if 0.0 < norm < math.inf else UNKNOWN for norm in self.norms]
        self.losses = columns.losses[start:stop]
        self.loss_known = columns.loss_known[start:stop]
        self.flags = columns.flags[start:stop]
        self.clips = columns.clips[start:stop]
        # One more than there are steps: rising by one behind each that was clipped. Only differences mean something.
        self.clipped = columns.clipped[start : stop + 1]
        self.rates = columns.rates[start:stop]
        self.knows_scales = bool(_between(columns.of_scale, start, stop))
        self.ratios = columns.ratios[start:stop]
        self.update_levels = columns.update_levels[start:stop]
        self.sampled = _between(columns.sampled, start, stop)  # rows whose ratio is known; -Inf = no update at all
        self.rank_norms, self.rank_losses = norm_spreads(block), loss_spreads(block)
        self.of_ranks: list[int] = []  # rows at which something is known of how the ranks lie
        if block.layout.world_size > 1:
            pairs = zip(self.rank_norms, self.rank_losses, strict=True)
            self.of_ranks = [row for row, pair in enumerate(pairs) if pair[0] or pair[1]]
        # No list: thousands of short lists at once would set off the garbage collector, which costs more than the rest.
        self._all_finite = columns.all_finite
        self._of_loss = _between(columns.of_loss, start, stop)
        self._unsound = _between(columns.unsound, start, stop)

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


def facts_of(blocks: Sequence[ClosedBlock]) -> list[Facts]:
    """The facts of some blocks, in order."""
    if not blocks:
        return []
    found, start, columns = [], 0, Columns(blocks)
    for block in blocks:
        found.append(Facts(block, columns, start))
        start += block.count
    return found


class Columns:
    """The columns of some blocks, one block behind the other; numbers that stand for rows count from the first one."""

    __slots__ = (
        "all_finite",
        "clipped",
        "clips",
        "flags",
        "loss_known",
        "losses",
        "norms",
        "of_loss",
        "of_scale",
        "rates",
        "ratios",
        "sampled",
        "steps",
        "times",
        "unsound",
        "update_levels",
    )

    def __init__(self, blocks: Sequence[ClosedBlock]) -> None:
        """Join them."""

        def joined(of: Callable[[ClosedBlock], npt.NDArray[Any]]) -> npt.NDArray[Any]:
            return _joined([of(block) for block in blocks])

        norms = joined(lambda at: at.global_norm)
        losses, loss_known = joined(lambda at: at.loss), joined(lambda at: at.loss_known)
        flags, nonfinite = joined(lambda at: at.flags), joined(lambda at: at.nonfinite)
        clips = joined(lambda at: at.clip_coefficient)
        ratios, updates = update_ratios(blocks)
        self.steps: list[int] = joined(lambda at: at.steps).tolist()
        self.times: list[float] = joined(lambda at: at.times).tolist()
        self.norms: list[float] = norms.tolist()
        self.losses: list[float] = losses.tolist()
        self.loss_known: list[bool] = loss_known.tolist()
        self.flags: list[int] = flags.tolist()
        self.clips: list[float] = clips.tolist()
        self.clipped: list[int] = [0, *(clips < 1.0).cumsum().tolist()]
        self.rates: list[float] = joined(lambda at: at.learning_rate).tolist()
        self.of_scale = _rows_where(~np.isnan(joined(lambda at: at.loss_scale)))
        self.ratios: list[float] = ratios.tolist()
        self.update_levels: list[float] = updates.tolist()
        self.sampled = [] if is_unknown(ratios) else _rows_where(~np.isnan(ratios))
        self.of_loss = _rows_where(loss_known)
        self.all_finite = not np.count_nonzero(nonfinite)
        # Steps that are skipped, not finite in gradient or loss, or whose norm is zero or not known.
        unsound = ~((norms > 0.0) & (norms < np.inf)) | ((flags & _SKIPPED) != 0) | (loss_known & ~np.isfinite(losses))
        self.unsound = _rows_where(unsound if self.all_finite else unsound | nonfinite.any(axis=1))


def _joined(columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _rows_where(true: Bool) -> list[int]:
    """Rows that are True; cheap where it is none or all."""
    count = np.count_nonzero(true)
    if not count:
        return []
    rows: list[int] = list(range(count)) if count == len(true) else np.flatnonzero(true).tolist()
    return rows


def _between(rows: list[int], start: int, stop: int) -> list[int]:
    """Those of some rising rows that lie from `start` to `stop`, counted from there."""
    return [row - start for row in rows[bisect_left(rows, start) : bisect_left(rows, stop)]] if rows else []


def update_ratios(blocks: Sequence[ClosedBlock]) -> tuple[Float64, Float64]:
    """Two float64[n]: log2 of the whole model's update over weight norm, and of its update norm; NaN = not sampled.

    Layers that were not sampled count in neither. Rows are summed one by one in memory order, so that neither the way
    a stream was cut nor what it is looked at with can change the last bit.
    """
    by_width: dict[int, list[tuple[int, ClosedBlock]]] = {}
    count = 0
    for block in blocks:
        if not is_unknown(block.update_norms):  # most blocks are short and have no sample
            by_width.setdefault(block.update_norms.shape[1], []).append((count, block))
        count += block.count
    if not by_width:
        return unknown(count), unknown(count)
    ratios, levels = np.full(count, np.nan), np.full(count, np.nan)
    for group in by_width.values():
        updates = _joined([block.update_norms for _, block in group])
        weights = _joined([block.weight_norms for _, block in group])
        both = ~(np.isnan(updates) | np.isnan(weights))
        sampled = np.flatnonzero(both.any(axis=1))
        if not len(sampled):
            continue
        rows = _joined([np.arange(start, start + block.count) for start, block in group])[sampled]
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            update = _total(updates[sampled], both[sampled])
            weight = _total(weights[sampled], both[sampled])
            levels[rows] = np.log2(update)
            ratios[rows] = np.log2(update / np.where(weight > 0.0, weight, np.nan))
    return ratios, levels


def _total(norms: Float32, known: Bool) -> Float64:
    squares = np.square(np.where(known, norms, 0.0).astype(np.float64))
    total: Float64 = np.sqrt(np.ascontiguousarray(squares).sum(axis=1))
    return total
