"""A record as bytes and back, exactly: every bit of every number, with numpy and struct only.

    fixed part | scalars: quantities, values | tensors: quantities, lengths | columns | non-finite counts | data ids

The fixed part comes first and alone says who the record is, so that files are indexed without reading their columns.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from seismograd.record import Float32, Nonfinite, NormSource, Quantity, RecordFlag, RecordKind, StepRecord, Travels

VERSION = 1  # of this layout; another one is not read

# version, kind, source, what is there | flags, scalars, tensors, unused | optimizer, branch, catalog | columns,
# non-finite parameters, bytes of data ids | sequence, step, digest | time, total norm
_FIXED = struct.Struct("<BBBBHHHHIIIIIIQqQdd")
IDENTITY_AT = struct.calcsize("<BBBBHHHHIIIIII")  # of the sequence, with which that begins which differs by step
_HAS_NORMS, _HAS_TOTAL, _HAS_DIGEST, _HAS_NONFINITE, _HAS_DATA = 1, 2, 4, 8, 16
_TRAVELS = 32  # two bits from here on
_STEP = int(RecordKind.STEP)
_NONFINITE_BYTES = 4 + 3 * 8  # per parameter concerned


class PackedError(ValueError):
    """Bytes that are no record of this version."""


class Name(NamedTuple):
    """Who a packed record is."""

    optimizer: int
    kind: int
    sequence: int
    step: int


class Heading(NamedTuple):
    """What identifies a step's record."""

    optimizer: int
    branch: int
    sequence: int
    step: int
    time_unix_seconds: float
    catalog_version: int
    columns: int  # t


class PackedRecord(NamedTuple):
    """A step that was packed instead of being made an object first; a PendingRecord whose way is over."""

    optimizer: int
    sequence: int
    step: int
    data: bytes

    def ready(self) -> bool:
        """It is."""
        return True

    def immediate(self) -> bool:
        """Nothing needs to be done on the training thread."""
        return False

    def packed(self) -> PackedRecord:
        """Itself."""
        return self

    def resolve(self) -> StepRecord:
        """The record."""
        return unpack(self.data)


@lru_cache(maxsize=64)  # as many combinations as there are numbers of scalars and tensors in practice
def _table(entries: str) -> struct.Struct:
    return struct.Struct(entries)


def pack_step(
    heading: Heading,
    source: int,
    flags: int,
    norms: Float32,
    scalars: Mapping[Quantity, float],
    *,
    data_ids: str | None,
) -> PackedRecord:
    """What `pack` gives for a step of norms, scalars and data ids and nothing else, at a fraction of the cost."""
    optimizer, branch, sequence, step, time, catalog_version, columns = heading
    there, ids, count = _HAS_NORMS, b"", len(scalars)
    if data_ids is not None:
        there, ids = _HAS_NORMS | _HAS_DATA, data_ids.encode("utf-8", "surrogatepass")
    what = (VERSION, _STEP, source, there, flags, count, 0, 0)
    who = (optimizer, branch, catalog_version, columns, 0, len(ids), sequence, step, 0, time, 0.0)
    table = _table(f"<{count}H{count}d").pack(*scalars, *scalars.values()) if count else b""
    return PackedRecord(optimizer, sequence, step, b"".join((_FIXED.pack(*what, *who), table, norms.tobytes(), ids)))


def pack(record: StepRecord) -> bytes:
    """The record as bytes. Its columns are float32 as `StepRecord` says; raises struct.error for what cannot be."""
    norms, total, digest, nonfinite, data = (
        record.gradient_norms,
        record.total_norm,
        record.digest,
        record.nonfinite,
        record.data_ids,
    )
    there = record.travels * _TRAVELS
    columns = concerned = 0
    parts: list[bytes] = [b""]
    scalars = record.scalars
    if scalars:
        count = len(scalars)
        parts.append(_table(f"<{count}H{count}d").pack(*scalars, *scalars.values()))
    tensors = record.tensors
    if tensors:
        count = len(tensors)
        parts.append(_table(f"<{count}H{count}I").pack(*tensors, *[len(column) for column in tensors.values()]))
    if norms is not None:
        there |= _HAS_NORMS
        columns = len(norms)
        parts.append(norms.tobytes())
    if tensors:
        parts += [column.tobytes() for column in tensors.values()]
    if total is not None:
        there |= _HAS_TOTAL
    if digest is not None:
        there |= _HAS_DIGEST
    if nonfinite is not None:
        there |= _HAS_NONFINITE
        concerned = len(nonfinite.parameters)
        parts.append(nonfinite.parameters.astype("<u4").tobytes())
        for counts in (nonfinite.nan_counts, nonfinite.positive_inf_counts, nonfinite.negative_inf_counts):
            parts.append(counts.astype("<u8").tobytes())
    ids = b""
    if data is not None:
        there |= _HAS_DATA
        ids = data.encode("utf-8", "surrogatepass")
        parts.append(ids)
    what = (VERSION, record.kind, record.source, there, record.flags, len(scalars), len(tensors), 0)
    who = (record.optimizer, record.branch, record.catalog_version, columns, concerned, len(ids))
    norm = 0.0 if total is None else total  # not `or`: -0.0 is a value
    when = (record.sequence, record.step, digest or 0, record.time_unix_seconds, norm)
    parts[0] = _FIXED.pack(*what, *who, *when)
    return b"".join(parts)


def name_of(packed: bytes) -> Name:
    """Who the record is, from its fixed part alone. Raises PackedError."""
    fixed = _fixed(packed)
    return Name(fixed[8], fixed[1], fixed[14], fixed[15])


def unpack(packed: bytes) -> StepRecord:
    """The record that `pack` was given. Its arrays are views of the bytes, and cannot be written to.

    Raises PackedError for anything else.
    """
    fixed = _fixed(packed)
    try:
        record, end = _parse(packed, fixed)
    except (struct.error, ValueError) as error:
        raise PackedError(f"not a record: {error}") from error
    if end != len(packed):
        raise PackedError(f"a record of {len(packed)} bytes, expected {end}")
    return record


def _parse(packed: bytes, fixed: tuple[Any, ...]) -> tuple[StepRecord, int]:
    """The record, and where it ends."""
    _, kind, source, there, flags, scalars, tensors, _, optimizer, branch, catalog, columns, concerned, ids = fixed[:14]
    sequence, step, digest, time, total = fixed[14:]
    table = _table(f"<{scalars}H{scalars}d")
    named = table.unpack_from(packed, _FIXED.size)
    place = _FIXED.size + table.size
    table = _table(f"<{tensors}H{tensors}I")
    lengths = table.unpack_from(packed, place)
    place += table.size
    norms = None
    if there & _HAS_NORMS:
        norms = np.frombuffer(packed, "<f4", columns, place)
        place += 4 * columns
    sampled = {}
    for quantity, length in zip(lengths[:tensors], lengths[tensors:], strict=True):
        sampled[Quantity(quantity)] = np.frombuffer(packed, "<f4", length, place)
        place += 4 * length
    nonfinite = None
    if there & _HAS_NONFINITE:
        nonfinite = Nonfinite(
            np.frombuffer(packed, "<u4", concerned, place),
            *(np.frombuffer(packed, "<u8", concerned, place + (4 + 8 * column) * concerned) for column in range(3)),
        )
        place += _NONFINITE_BYTES * concerned
    record = StepRecord(
        optimizer=optimizer,
        kind=RecordKind(kind),
        branch=branch,
        sequence=sequence,
        step=step,
        time_unix_seconds=time,
        source=NormSource(source),
        flags=RecordFlag(flags),
        catalog_version=catalog,
        gradient_norms=norms,
        total_norm=total if there & _HAS_TOTAL else None,
        digest=digest if there & _HAS_DIGEST else None,
        nonfinite=nonfinite,
        scalars={Quantity(quantity): value for quantity, value in zip(named[:scalars], named[scalars:], strict=True)},
        tensors=sampled,
        data_ids=packed[place:].decode("utf-8", "surrogatepass") if there & _HAS_DATA else None,
        travels=Travels(there // _TRAVELS & 3),
    )
    return record, place + ids


def _fixed(packed: bytes) -> tuple[Any, ...]:
    try:
        fixed: tuple[Any, ...] = _FIXED.unpack_from(packed)
    except struct.error as error:
        raise PackedError(f"not a record: {error}") from error
    if fixed[0] != VERSION:
        raise PackedError(f"a record of layout {fixed[0]}, expected {VERSION}")
    return fixed
