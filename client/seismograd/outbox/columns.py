"""The columns of one record: how much memory they hold, and whether they can be copied to the wire as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from seismograd.record import Float32, Nonfinite, Quantity, StepRecord, Travels

_WIRE = np.dtype("<f4")  # numpy has one object for it; another byte order, or another type, is another object

# What the Python objects of one record weigh besides its arrays: record, dict of scalars, numbers, array headers.
RECORD_OVERHEAD = 1536


def record_size(record: StepRecord) -> int:
    """Bytes of memory that a record holds, to within a few hundred."""
    size = RECORD_OVERHEAD
    if record.gradient_norms is not None:
        size += record.gradient_norms.nbytes
    for column in record.tensors.values():
        size += column.nbytes + 112  # header of the array
    if record.nonfinite is not None:
        size += 28 * len(record.nonfinite.parameters) + 448  # four arrays
    if record.data_ids is not None:
        size += len(record.data_ids)
    return size


def travelling(record: StepRecord) -> StepRecord:
    """The record as it leaves this rank: without what only its flight recorder holds."""
    if record.travels is Travels.ALL:
        return record
    local = Quantity.LOCAL_GRADIENT_NORM
    tensors = {local: record.tensors[local]} if record.travels is Travels.LOCAL and local in record.tensors else {}
    return replace(record, gradient_norms=None, tensors=tensors, travels=Travels.ALL)


def normalise(record: StepRecord) -> StepRecord:
    """The record with columns that can be copied to the wire as they are: one dimension, little-endian, contiguous.

    Raises ValueError or TypeError for what is no such column.
    """
    columns = [*record.tensors.values(), *([] if record.gradient_norms is None else [record.gradient_norms])]
    if record.nonfinite is not None:
        _require_counts(record.nonfinite)
    if False not in [_is_wire_ready(column) for column in columns]:  # every step comes by: no generator
        return record
    norms = None if record.gradient_norms is None else _float32(record.gradient_norms)
    tensors = {quantity: _float32(column) for quantity, column in record.tensors.items()}
    return StepRecord(
        **{name: getattr(record, name) for name in StepRecord.__slots__ if name not in ("gradient_norms", "tensors")},
        gradient_norms=norms,
        tensors=tensors,
    )


def _is_wire_ready(column: Float32) -> bool:
    return column.dtype is _WIRE and column.ndim == 1 and column.flags.c_contiguous


def _float32(column: object) -> Float32:
    array = np.ascontiguousarray(column, dtype="<f4")
    if array.ndim != 1:
        raise ValueError(f"a column has {array.ndim} dimensions, expected 1")
    return array


def _require_counts(nonfinite: Nonfinite) -> None:
    lengths = {len(getattr(nonfinite, name)) for name in Nonfinite.__slots__}
    if len(lengths) != 1:
        raise ValueError(f"the arrays of the non-finite counts have the lengths {sorted(lengths)}, expected one length")
