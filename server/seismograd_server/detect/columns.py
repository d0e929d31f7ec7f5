"""The columns of closed blocks, one block behind the other: what numpy can say of all their steps at once. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from seismograd_server.detect.ranks import loss_spreads, norm_spreads
from seismograd_server.model import (
    Bool,
    ClosedBlock,
    Float32,
    Float64,
    RecordFlag,
    UInt16,
    is_unknown,
    unknown,
)

_SKIPPED = np.uint16(RecordFlag.SKIPPED_BY_SCALER | RecordFlag.SKIPPED_BY_USER)


class Columns:
    """The columns of some blocks, one block behind the other; numbers that stand for rows count from the first one."""

    __slots__ = (
        "all_finite",
        "all_present",
        "clipped",
        "clips",
        "flags",
        "least_norms",
        "levels",
        "longest_pauses",
        "loss_known",
        "losses",
        "norms",
        "of_loss",
        "of_ranks",
        "of_scale",
        "rank_losses",
        "rank_norms",
        "rates",
        "ratios",
        "sampled",
        "starts",
        "steps",
        "times",
        "unsound",
        "update_levels",
    )

    def __init__(self, blocks: Sequence[ClosedBlock]) -> None:
        """Join them."""

        def joined(of: Callable[[ClosedBlock], npt.NDArray[Any]]) -> npt.NDArray[Any]:
            return _joined([of(block) for block in blocks])

        self.starts = [0, *accumulate(block.count for block in blocks)]  # of each block, and the end of the last
        norms = joined(lambda at: at.global_norm)
        # Zero has one sign only: which of two equal losses is the median must not be seen.
        losses = joined(lambda at: at.loss) + 0.0
        # As plain numbers what every step is asked for, as arrays what few are.
        self.steps: list[int] = joined(lambda at: at.steps).tolist()
        times = joined(lambda at: at.times)
        self.times: list[float] = times.tolist()
        self.longest_pauses = _longest_pauses(times, self.starts)  # of each block
        self.norms: list[float] = norms.tolist()
        self.levels = [math.log2(norm) if 0.0 < norm < math.inf else math.nan for norm in self.norms]
        self.losses: list[float] = losses.tolist()
        self.loss_known: Bool = joined(lambda at: at.loss_known)
        self.of_loss = _rows_where(self.loss_known)
        self.flags: UInt16 = joined(lambda at: at.flags)
        self.clips: Float64 = joined(lambda at: at.clip_coefficient)
        self.clipped: list[int] = [0, *(self.clips < 1.0).cumsum().tolist()]
        self.rates: Float64 = joined(lambda at: at.learning_rate)
        self.of_scale = _rows_where(~np.isnan(joined(lambda at: at.loss_scale)))
        self.ratios, self.update_levels = update_ratios(blocks)
        self.sampled = [] if is_unknown(self.ratios) else _rows_where(~np.isnan(self.ratios))
        self.rank_norms, self.rank_losses = norm_spreads(blocks), loss_spreads(blocks)
        pairs = zip(self.rank_norms, self.rank_losses, strict=True)
        self.of_ranks = [row for row, pair in enumerate(pairs) if pair[0] or pair[1]]
        self.all_finite = not any(np.count_nonzero(block.nonfinite) for block in blocks)
        self.all_present: list[bool] = _of_each(np.logical_and, [block.ranks_present for block in blocks], True)
        # The least norm of any layer in each block; NaN = some is not known.
        self.least_norms: list[float] = _of_each(np.minimum, [block.layer_norms for block in blocks], math.inf)
        # Steps that are skipped, not finite in gradient or loss, or whose norm is zero or not known.
        unsound = ~((norms > 0.0) & (norms < np.inf)) | ((self.flags & _SKIPPED) != 0)
        unsound |= self.loss_known & ~np.isfinite(losses)
        self.unsound = _rows_where(
            unsound if self.all_finite else unsound | joined(lambda at: at.nonfinite).any(axis=1)
        )


def _joined(columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _of_each(combine: np.ufunc, columns: Sequence[npt.NDArray[Any]], nothing: Any) -> list[Any]:
    """What all numbers of each of some arrays make when they are combined; `nothing` of those that hold none."""
    filled = [column.ravel() for column in columns if column.size]
    if not filled:
        return [nothing] * len(columns)
    starts = [0, *accumulate(map(len, filled[:-1]))]
    found: list[Any] = combine.reduceat(_joined(filled), starts).tolist()
    if len(filled) < len(columns):
        rest = iter(found)
        found = [next(rest) if column.size else nothing for column in columns]
    return found


def _longest_pauses(times: Float64, starts: list[int]) -> list[float]:
    """Seconds between two neighbours in each block, at most, and 0 at least; NaN = some time is not finite."""
    pauses = np.zeros(len(times) + 1)
    bounds = np.array(starts)
    with np.errstate(invalid="ignore"):
        np.subtract(times[1:], times[:-1], out=pauses[1:-1])
    pauses[bounds] = 0.0  # no pause lies between two blocks
    longest = np.maximum.reduceat(pauses, bounds[:-1])
    found: list[float] = np.where(bounds[1:] > bounds[:-1], longest, 0.0).tolist()
    return found


def _rows_where(true: Bool) -> list[int]:
    """Rows that are True; cheap where it is none or all."""
    count = np.count_nonzero(true)
    if not count:
        return []
    rows: list[int] = list(range(count)) if count == len(true) else np.flatnonzero(true).tolist()
    return rows


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
        sampled = np.flatnonzero(~np.isnan(updates).all(axis=1))  # few: the rest is done for these alone
        updates, weights = updates[sampled], _joined([block.weight_norms for _, block in group])[sampled]
        both = ~(np.isnan(updates) | np.isnan(weights))
        rows = _joined([np.arange(start, start + block.count) for start, block in group])[sampled]
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            update, weight = _total(updates, both), _total(weights, both)
            known = both.any(axis=1)
            levels[rows] = np.where(known, np.log2(update), np.nan)
            ratios[rows] = np.where(known, np.log2(update / np.where(weight > 0.0, weight, np.nan)), np.nan)
    return ratios, levels


def _total(norms: Float32, known: Bool) -> Float64:
    squares = np.square(np.where(known, norms, 0.0).astype(np.float64))
    total: Float64 = np.sqrt(np.ascontiguousarray(squares).sum(axis=1))
    return total
