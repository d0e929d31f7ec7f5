"""A StepBatch to the bytes of a segment and back, exactly; and the slice of a batch. Pure.

What was absent stays absent, and every value keeps its bits: NaN, Inf, -0.0 and subnormal numbers are data. The plain
encoding costs next to nothing and is what ingest writes; the dense one takes less than half of the bytes, finds its own
damage, and holds any number of batches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from seismograd_server.model import (
    Nonfinite,
    Quantity,
    RecordKind,
    ScalarColumn,
    StepBatch,
    TensorColumn,
    UInt32,
)
from seismograd_server.store.columns import Column, pack, unpack
from seismograd_server.store.dense import pack_dense, unpack_dense

# How a payload is encoded; stored beside it, never reuse one.
ENCODING_COLUMNS = 1
ENCODING_DENSE = 2

# Ids of columns: they are on disk, never reuse one.
_HEAD = 1
_STEPS = 2
_TIMES = 3
_SOURCES = 4
_FLAGS = 5
_GRADIENT_NORMS = 6
_TOTAL_NORMS = 7
_DIGESTS = 8
_NONFINITE = (9, 10, 11, 12, 13)
_DATA_IDS = 14
# A quantity q occupies the ids base + 4 q, + 1 and + 2.
_SCALARS = 1024
_TENSORS = 4096
_STRIDE = 4


def encode(batch: StepBatch) -> bytes:
    """Serialise a batch plainly; the inverse of `decode`.

    Raises:
        ValueError: a column whose type is not the one that StepBatch declares.
    """
    return pack(_columns(batch))


def decode(data: bytes) -> StepBatch:
    """The batch that `encode` was given; its arrays are read-only views of `data`.

    Raises:
        ValueError: the bytes are damaged.
    """
    return _batch(unpack(data))


def encode_dense(batches: Sequence[StepBatch]) -> bytes:
    """Serialise some batches densely; the inverse of `decode_dense`."""
    return b"".join(pack_dense(_columns(batch)) for batch in batches)


def decode_dense(data: bytes) -> list[StepBatch]:
    """The batches that `encode_dense` was given.

    Raises:
        ValueError: the bytes are damaged.
    """
    batches, offset = [], 0
    while offset < len(data):
        columns, offset = unpack_dense(data, offset)
        batches.append(_batch(columns))
    return batches


def _columns(batch: StepBatch) -> list[tuple[int, Column]]:
    head = (
        batch.rank_handle,
        batch.optimizer,
        batch.kind,
        batch.branch,
        batch.first_sequence,
        batch.catalog_version,
        *([1] if batch.rounded else []),
    )
    columns: list[tuple[int, Column]] = [
        (_HEAD, np.array(head, np.int64)),
        (_STEPS, batch.steps),
        (_TIMES, batch.times),
        (_SOURCES, batch.sources),
        (_FLAGS, batch.flags),
    ]
    for identifier, column in (
        (_GRADIENT_NORMS, batch.gradient_norms),
        (_TOTAL_NORMS, batch.total_norms),
        (_DIGESTS, batch.digests),
    ):
        if column is not None:
            columns.append((identifier, column))
    if batch.nonfinite is not None:
        columns.extend(zip(_NONFINITE, _nonfinite_columns(batch.nonfinite), strict=True))
    for quantity, scalar in batch.scalars.items():
        base = _SCALARS + _STRIDE * quantity
        columns += [(base, scalar.rows), (base + 1, scalar.values)]
    for quantity, tensor in batch.tensors.items():
        base = _TENSORS + _STRIDE * quantity
        columns += [(base, tensor.rows), (base + 1, tensor.parameters), (base + 2, tensor.values)]
    if batch.data_ids:
        text = json.dumps({str(row): ids for row, ids in batch.data_ids.items()}, separators=(",", ":"))
        columns.append((_DATA_IDS, np.frombuffer(text.encode("ascii"), np.uint8)))
    return columns


def _batch(columns: Mapping[int, Column]) -> StepBatch:
    try:
        handle, optimizer, kind, branch, first_sequence, catalog_version, *rounded = columns[_HEAD].tolist()
        nonfinite = Nonfinite(*(columns[identifier] for identifier in _NONFINITE)) if _NONFINITE[0] in columns else None
        scalars = {
            quantity: ScalarColumn(columns[base], columns[base + 1])
            for quantity, base in _quantities(columns, _SCALARS).items()
        }
        tensors = {
            quantity: TensorColumn(columns[base], columns[base + 1], columns[base + 2])
            for quantity, base in _quantities(columns, _TENSORS).items()
        }
        data_ids: dict[int, str] = {}
        if _DATA_IDS in columns:
            data_ids = {int(row): ids for row, ids in json.loads(columns[_DATA_IDS].tobytes()).items()}
        return StepBatch(
            rank_handle=handle,
            optimizer=optimizer,
            kind=RecordKind(kind),
            branch=branch,
            first_sequence=first_sequence,
            catalog_version=catalog_version,
            steps=columns[_STEPS],
            times=columns[_TIMES],
            sources=columns[_SOURCES],
            flags=columns[_FLAGS],
            gradient_norms=columns.get(_GRADIENT_NORMS),
            total_norms=columns.get(_TOTAL_NORMS),
            digests=columns.get(_DIGESTS),
            nonfinite=nonfinite,
            scalars=scalars,
            tensors=tensors,
            data_ids=data_ids,
            rounded=bool(rounded),
        )
    except (KeyError, AttributeError) as error:
        raise ValueError(f"stored batch lacks something: {error}") from error


def slice_batch(batch: StepBatch, start: int, stop: int) -> StepBatch:
    """Records [start, stop) of a batch as a batch of its own; a sparse column that has none of them is left out.

    Arrays are views where they can be.

    Raises:
        ValueError: not 0 <= start < stop <= batch.count.
    """
    if not 0 <= start < stop <= batch.count:
        raise ValueError(f"records {start} to {stop} of a batch of {batch.count}")
    if start == 0 and stop == batch.count:
        return batch
    cut = slice(start, stop)
    return StepBatch(
        rank_handle=batch.rank_handle,
        optimizer=batch.optimizer,
        kind=batch.kind,
        branch=batch.branch,
        first_sequence=batch.first_sequence + start,
        catalog_version=batch.catalog_version,
        steps=batch.steps[cut],
        times=batch.times[cut],
        sources=batch.sources[cut],
        flags=batch.flags[cut],
        gradient_norms=None if batch.gradient_norms is None else batch.gradient_norms[cut],
        total_norms=None if batch.total_norms is None else batch.total_norms[cut],
        digests=None if batch.digests is None else batch.digests[cut],
        nonfinite=None if batch.nonfinite is None else _slice_nonfinite(batch.nonfinite, start, stop),
        scalars=_slice_scalars(batch.scalars, start, stop),
        tensors=_slice_tensors(batch.tensors, start, stop),
        data_ids={row - start: ids for row, ids in batch.data_ids.items() if start <= row < stop},
        rounded=batch.rounded,
    )


def _nonfinite_columns(nonfinite: Nonfinite) -> tuple[Column, ...]:
    return (
        nonfinite.rows,
        nonfinite.parameters,
        nonfinite.nan_counts,
        nonfinite.positive_inf_counts,
        nonfinite.negative_inf_counts,
    )


def _quantities(columns: Mapping[int, Column], base: int) -> dict[Quantity, int]:
    """The quantities stored from `base` on, in stored order, with the id of their first column."""
    known = {base + _STRIDE * quantity: quantity for quantity in Quantity}
    return {known[identifier]: identifier for identifier in columns if identifier in known}


def _slice_nonfinite(nonfinite: Nonfinite, start: int, stop: int) -> Nonfinite | None:
    # Unlike the other sparse columns, these entries need not be sorted by row.
    chosen = (nonfinite.rows >= start) & (nonfinite.rows < stop)
    if not chosen.any():
        return None
    rows, *rest = (column[chosen] for column in _nonfinite_columns(nonfinite))
    return Nonfinite(rows - np.uint32(start), *rest)


def _slice_rows(rows: UInt32, start: int, stop: int) -> slice:
    low, high = np.searchsorted(rows, (start, stop))
    return slice(int(low), int(high))


def _slice_scalars(scalars: Mapping[Quantity, ScalarColumn], start: int, stop: int) -> dict[Quantity, ScalarColumn]:
    sliced: dict[Quantity, ScalarColumn] = {}
    for quantity, column in scalars.items():
        cut = _slice_rows(column.rows, start, stop)
        if cut.start < cut.stop:
            sliced[quantity] = ScalarColumn(column.rows[cut] - np.uint32(start), column.values[cut])
    return sliced


def _slice_tensors(tensors: Mapping[Quantity, TensorColumn], start: int, stop: int) -> dict[Quantity, TensorColumn]:
    sliced: dict[Quantity, TensorColumn] = {}
    for quantity, column in tensors.items():
        cut = _slice_rows(column.rows, start, stop)
        if cut.start < cut.stop:
            rows = column.rows[cut] - np.uint32(start)
            sliced[quantity] = TensorColumn(rows, column.parameters, column.values[cut])
    return sliced
