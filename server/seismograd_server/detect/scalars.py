"""Scalar columns of a closing, over ranks: loss, learning rate, loss scale, clip. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from seismograd_server.detect.closing import Closing, Part
from seismograd_server.model import Bool, Float64, Int64, Quantity, unknown


def by_rank(closing: Closing, quantity: Quantity, world_size: int) -> tuple[Float64, Bool]:
    """A scalar as float64[n, r] (NaN where not known) and where it is known."""
    shape = (len(closing.steps), world_size)
    known = np.zeros(shape, np.bool_)
    told = _parts_with(closing, quantity)
    if not told:
        return unknown(*shape), known
    values = np.full(shape, np.nan)
    for part in told:
        for positions, found in _scalar(part, quantity):
            values[positions, part.rank] = found
            known[positions, part.rank] = True
    return values, known


def lowest_rank(closing: Closing, quantity: Quantity) -> Float64:
    """A scalar as the lowest rank that knows it has it, float64[n]; NaN where nobody does."""
    told = _parts_with(closing, quantity)
    if not told:
        return unknown(len(closing.steps))
    values = np.full(len(closing.steps), np.nan)
    for part in reversed(told):
        for positions, found in _scalar(part, quantity):
            values[positions] = found
    return values


def _parts_with(closing: Closing, quantity: Quantity) -> list[Part]:
    """The parts whose batches hold a scalar at all."""
    return [part for part in closing.parts if quantity in part.batch.scalars]


def _scalar(part: Part, quantity: Quantity) -> Iterator[tuple[slice | Int64, Float64]]:
    column = part.batch.scalars[quantity]
    if len(column.rows) == part.batch.count:
        yield part.positions, column.values[part.start : part.stop]
        return
    first, last = np.searchsorted(column.rows, (part.start, part.stop)).tolist()
    if first < last:
        yield part.at(column.rows[first:last]), column.values[first:last]


def mean_over_ranks(values: Float64, known: Bool) -> Float64:
    """Mean over the ranks that know the value: NaN and Inf among them are data and stay."""
    if not np.count_nonzero(known):
        return unknown(len(values))
    if values.shape[1] == 1:
        return values[:, 0]
    counts = known.sum(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):  # Inf - Inf is NaN, as it is in the training job
        sums = np.where(known, values, 0.0).sum(axis=1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
