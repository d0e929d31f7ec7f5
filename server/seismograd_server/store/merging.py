"""Batches of one stream made to few: joined where they are of one shape, cut and rounded where nothing happened. Pure.

    by sequence -> join what fits together -> cut at the windows to keep -> round outside of them -> join once more

Only norms by layer are rounded: they are nearly all of the bytes. What is sampled rarely, and every number of which a
step has but one, stays as it came.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from seismograd_server.model import Nonfinite, Quantity, ScalarColumn, StepBatch, TensorColumn, UInt32
from seismograd_server.store.codec import slice_batch
from seismograd_server.store.mantissa import EXACT_BITS, round_mantissa

Window = tuple[int, int]
"""Steps [first, last], both ends included."""


def merge(batches: Iterable[StepBatch], bits: int = EXACT_BITS, exact: Sequence[Window] = ()) -> list[StepBatch]:
    """The same records in as few batches as can be, by sequence.

    Args:
        batches: of one stream; no sequence twice.
        bits: mantissa that the norms by layer keep (`round_mantissa`).
        exact: steps whose norms are not rounded.
    """
    joined = _joined(batches)
    if bits == EXACT_BITS:
        return joined
    return _joined(part for batch in joined for part in _rounded(batch, bits, exact))


def _joined(batches: Iterable[StepBatch]) -> list[StepBatch]:
    groups: list[list[StepBatch]] = []
    sampled: dict[Quantity, UInt32] = {}  # of which parameters, in the last group
    for batch in sorted(batches, key=lambda batch: batch.first_sequence):
        if groups and _fits(groups[-1][-1], batch) and _samples_alike(sampled, batch):
            groups[-1].append(batch)
        else:
            groups.append([batch])
            sampled = {}
        sampled |= {quantity: column.parameters for quantity, column in batch.tensors.items()}
    return [_join(group) for group in groups]


def _fits(left: StepBatch, right: StepBatch) -> bool:
    """Whether the two could have come as one batch, and would have said the same."""
    return (
        left.end_sequence == right.first_sequence
        and (left.rank_handle, left.optimizer, left.kind) == (right.rank_handle, right.optimizer, right.kind)
        and (left.branch, left.catalog_version) == (right.branch, right.catalog_version)
        and left.steps[-1] < right.steps[0]
        and (left.total_norms is None) == (right.total_norms is None)
        and (left.digests is None) == (right.digests is None)
        and (_width(left), left.rounded) == (_width(right), right.rounded)
    )


def _samples_alike(sampled: Mapping[Quantity, UInt32], batch: StepBatch) -> bool:
    return all(
        quantity not in sampled or np.array_equal(sampled[quantity], column.parameters)
        for quantity, column in batch.tensors.items()
    )


def _width(batch: StepBatch) -> int | None:
    return None if batch.gradient_norms is None else batch.gradient_norms.shape[1]


def _join(batches: Sequence[StepBatch]) -> StepBatch:
    first = batches[0]
    if len(batches) == 1:
        return first
    starts = [batch.first_sequence - first.first_sequence for batch in batches]
    norms = [batch.gradient_norms for batch in batches if batch.gradient_norms is not None]
    totals = [batch.total_norms for batch in batches if batch.total_norms is not None]
    digests = [batch.digests for batch in batches if batch.digests is not None]
    return replace(
        first,
        steps=np.concatenate([batch.steps for batch in batches]),
        times=np.concatenate([batch.times for batch in batches]),
        sources=np.concatenate([batch.sources for batch in batches]),
        flags=np.concatenate([batch.flags for batch in batches]),
        gradient_norms=np.concatenate(norms) if norms else None,
        total_norms=np.concatenate(totals) if totals else None,
        digests=np.concatenate(digests) if digests else None,
        nonfinite=_join_nonfinite([(start, batch.nonfinite) for start, batch in zip(starts, batches, strict=True)]),
        scalars=_join_scalars([(start, batch.scalars) for start, batch in zip(starts, batches, strict=True)]),
        tensors=_join_tensors([(start, batch.tensors) for start, batch in zip(starts, batches, strict=True)]),
        data_ids={
            start + row: ids
            for start, batch in zip(starts, batches, strict=True)
            for row, ids in batch.data_ids.items()
        },
    )


def _join_nonfinite(parts: Sequence[tuple[int, Nonfinite | None]]) -> Nonfinite | None:
    known = [(start, each) for start, each in parts if each is not None]
    if not known:
        return None
    return Nonfinite(
        rows=_rows([(start, each.rows) for start, each in known]),
        parameters=np.concatenate([each.parameters for _, each in known]),
        nan_counts=np.concatenate([each.nan_counts for _, each in known]),
        positive_inf_counts=np.concatenate([each.positive_inf_counts for _, each in known]),
        negative_inf_counts=np.concatenate([each.negative_inf_counts for _, each in known]),
    )


def _join_scalars(parts: Sequence[tuple[int, Mapping[Quantity, ScalarColumn]]]) -> dict[Quantity, ScalarColumn]:
    joined: dict[Quantity, ScalarColumn] = {}
    for quantity in sorted({quantity for _, columns in parts for quantity in columns}):
        known = [(start, columns[quantity]) for start, columns in parts if quantity in columns]
        rows = _rows([(start, column.rows) for start, column in known])
        joined[quantity] = ScalarColumn(rows, np.concatenate([column.values for _, column in known]))
    return joined


def _join_tensors(parts: Sequence[tuple[int, Mapping[Quantity, TensorColumn]]]) -> dict[Quantity, TensorColumn]:
    joined: dict[Quantity, TensorColumn] = {}
    for quantity in sorted({quantity for _, columns in parts for quantity in columns}):
        known = [(start, columns[quantity]) for start, columns in parts if quantity in columns]
        rows = _rows([(start, column.rows) for start, column in known])
        values = np.concatenate([column.values for _, column in known])
        joined[quantity] = TensorColumn(rows, known[0][1].parameters, values)
    return joined


def _rows(parts: Sequence[tuple[int, UInt32]]) -> UInt32:
    return np.concatenate([rows + np.uint32(start) for start, rows in parts])


def _rounded(batch: StepBatch, bits: int, exact: Sequence[Window]) -> Iterator[StepBatch]:
    if batch.gradient_norms is None or batch.rounded:
        yield batch
        return
    kept = np.zeros(batch.count, np.bool_)
    for first, last in exact:
        kept |= (batch.steps >= first) & (batch.steps <= last)
    edges = [0, *(np.flatnonzero(np.diff(kept)) + 1).tolist(), batch.count]
    for start, stop in itertools.pairwise(edges):
        part = slice_batch(batch, start, stop)
        if not kept[start] and part.gradient_norms is not None:
            part = replace(part, gradient_norms=round_mantissa(part.gradient_norms, bits), rounded=True)
        yield part
