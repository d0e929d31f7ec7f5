"""Norms of layers from norms of shards: one replica of each shard, squares added over shards in float64. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seismograd_server.detect.closing import Closing, Part
from seismograd_server.detect.layout import Plan
from seismograd_server.model import Float32, Float64, Int64

# Values that may be compared at once where several replicas shipped the same shard: 32 MiB of float64.
_CUBE_VALUES = 2**22


@dataclass(frozen=True, slots=True, eq=False)
class Reported:
    """What one rank reports on some layers: `values` float32[k, m] at k positions of the block, for `slots` [m].

    `rounded` values are good for showing and composing, and cannot be compared with those of a replica.
    """

    rank: int
    positions: slice | Int64
    slots: Int64
    values: Float32
    rounded: bool = False


def layers_of(plan: Plan, reported: Sequence[Reported], count: int) -> tuple[Float64, Float32]:
    """Squares float64[n, l] and norms float32[n, l] of each layer; NaN where a shard of it is not known."""
    layers = len(plan.layout.names)
    if not reported:
        return np.full((count, layers), np.nan), np.full((count, layers), np.nan, np.float32)
    alone = (
        len(reported) == 1 and len(reported[0].values) == count and reported[0].slots is plan.slots[reported[0].rank]
    )
    if alone and reported[0].rank in plan.straight:
        return np.square(reported[0].values, dtype=np.float64), reported[0].values
    squares = squares_of(plan, reported, count)
    if plan.slot_count != layers:
        squares = np.add.reduceat(squares, plan.first_slots, axis=1)
    squares[:, ~plan.covered] = np.nan
    with np.errstate(over="ignore"):  # a norm beyond float32 is Inf, which is data
        return squares, np.sqrt(squares).astype(np.float32)


def squares_of(plan: Plan, reported: Sequence[Reported], count: int) -> Float64:
    """float64[n, s]: the square that each shard contributes, from the one replica that was agreed on."""
    by_rank: dict[int, list[Reported]] = {}
    for each in reported:
        by_rank.setdefault(each.rank, []).append(each)
    held = np.concatenate([np.unique(np.concatenate([each.slots for each in own])) for own in by_rank.values()])
    if len(held) == len(np.unique(held)):
        squares = np.full((count, plan.slot_count), np.nan)
        for each in reported:
            _place(squares, each)
        return squares
    return _agreed(by_rank, plan.slot_count, count)


def _place(target: Float64, each: Reported) -> None:
    squares = np.square(each.values, dtype=np.float64)
    if isinstance(each.positions, slice):
        target[each.positions, each.slots] = squares
    else:
        target[each.positions[:, None], each.slots] = squares


def _agreed(by_rank: Mapping[int, Sequence[Reported]], slot_count: int, count: int) -> Float64:
    """Take the lower median over replicas: one that was really reported, and that no single replica can move far."""
    rows_at_once = max(1, _CUBE_VALUES // max(1, slot_count * len(by_rank)))
    agreed = np.empty((count, slot_count))
    for start in range(0, count, rows_at_once):
        stop = min(count, start + rows_at_once)
        cube = np.full((len(by_rank), stop - start, slot_count), np.nan)
        for layer, own in zip(cube, by_rank.values(), strict=True):
            for each in own:
                positions = np.arange(count)[each.positions]
                inside = (positions >= start) & (positions < stop)
                _place(layer, Reported(each.rank, positions[inside] - start, each.slots, each.values[inside]))
        cube.sort(axis=0)  # NaN, which is "not reported", goes last
        known = np.count_nonzero(~np.isnan(cube), axis=0)
        middle = np.maximum(known - 1, 0) // 2
        agreed[start:stop] = np.take_along_axis(cube, middle[None], axis=0)[0]
    return agreed


def rank_totals(closing: Closing) -> Float64:
    """float64[n, r]: the norm of all that each rank holds; NaN = not known."""
    totals = np.full(closing.ranks_present.shape, np.nan)
    for part in closing.parts:
        totals[part.positions, part.rank] = _totals(part)
    return totals


def _totals(part: Part) -> Float64:
    rows = slice(part.start, part.stop)
    if part.batch.total_norms is not None:
        return part.batch.total_norms[rows]
    if part.batch.gradient_norms is not None:
        total: Float64 = np.sqrt(np.square(part.batch.gradient_norms[rows], dtype=np.float64).sum(axis=1))
        return total
    return np.full(part.stop - part.start, np.nan)
