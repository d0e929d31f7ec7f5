"""The columns of closed blocks, one block behind the other: what numpy can say of all their steps at once. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
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
    Int64,
    RecordFlag,
    UInt16,
    is_unknown,
    unknown,
)

# Of arrays that are so large on average, to join them costs more than as many calls.
_LARGE_VALUES = 4096
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
        "level_column",
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
        self.starts = [0, *accumulate(block.count for block in blocks)]  # of each block, and the end of the last
        norms = _joined([block.global_norm for block in blocks])
        # Zero has one sign only: which of two equal losses is the median must not be seen.
        losses = _joined([block.loss for block in blocks]) + 0.0
        times = _joined([block.times for block in blocks])
        self.longest_pauses = _longest_pauses(times, self.starts)  # of each block
        self.steps: Int64 = _joined([block.steps for block in blocks])
        self.times: Float64 = times
        self.norms: Float64 = norms
        positive = (norms > 0.0) & (norms < np.inf)
        self.level_column = octaves_of(norms, positive)
        self.levels: list[float] = self.level_column.tolist()  # the only one of which every number is looked at
        self.losses: Float64 = losses
        self.loss_known: Bool = _joined([block.loss_known for block in blocks])
        self.of_loss = _rows_where(self.loss_known)
        self.flags: UInt16 = _joined([block.flags for block in blocks])
        self.clips: Float64 = _joined([block.clip_coefficient for block in blocks])
        self.clipped: Int64 = np.concatenate(([0], (self.clips < 1.0).cumsum()))
        self.rates: Float64 = _joined([block.learning_rate for block in blocks])
        self.of_scale = _rows_where(~np.isnan(_joined([block.loss_scale for block in blocks])))
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
        unsound = ~positive | ((self.flags & _SKIPPED) != 0)
        unsound |= self.loss_known & ~np.isfinite(losses)
        self.unsound = _rows_where(
            unsound if self.all_finite else unsound | _joined([block.nonfinite for block in blocks]).any(axis=1)
        )


def octaves_of(values: Float64, known: Bool) -> Float64:
    """log2 of those values that are known and positive, NaN of the others."""
    levels = np.full(len(values), np.nan)
    np.log2(values, out=levels, where=known)
    return levels


def _joined(columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _of_each(combine: np.ufunc, columns: Sequence[npt.NDArray[Any]], nothing: Any) -> list[Any]:
    """What all numbers of each of some arrays make when they are combined; `nothing` of those that hold none."""
    if sum(column.size for column in columns) >= _LARGE_VALUES * len(columns):
        return [combine.reduce(column, axis=None).item() if column.size else nothing for column in columns]
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
    for width, group in by_width.items():
        sampled = _sampled_rows(group)
        if not sampled:
            continue
        rows = np.array([start + row for start, block, row in sampled])
        updates = np.concatenate([block.update_norms[row] for _, block, row in sampled]).reshape(-1, width)
        weights = np.concatenate([block.weight_norms[row] for _, block, row in sampled]).reshape(-1, width)
        both = ~(np.isnan(updates) | np.isnan(weights))
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            update, weight = _total(updates, both), _total(weights, both)
            known = both.any(axis=1)
            levels[rows] = np.where(known, np.log2(update), np.nan)
            ratios[rows] = np.where(known, np.log2(update / np.where(weight > 0.0, weight, np.nan)), np.nan)
    return ratios, levels


def _sampled_rows(group: Sequence[tuple[int, ClosedBlock]]) -> list[tuple[int, ClosedBlock, int]]:
    """(start, block, row in it) of the few rows whose updates are known, in order."""
    updates = _joined([block.update_norms for _, block in group])
    known = (updates == updates).any(axis=1)  # noqa: PLR0124 (NaN alone is not; half of what isnan costs)
    ends = list(accumulate(block.count for _, block in group))
    found = []
    for at in np.flatnonzero(known).tolist():
        number = bisect_right(ends, at)
        start, block = group[number]
        found.append((start, block, at - (ends[number - 1] if number else 0)))
    return found


def _total(norms: Float32, known: Bool) -> Float64:
    squares = np.square(np.where(known, norms, 0.0).astype(np.float64))
    total: Float64 = np.sqrt(np.ascontiguousarray(squares).sum(axis=1))
    return total
