"""Batches of the wire to batches of the domain: validated, and consecutive ones joined to one.

The column bytes of consecutive batches are joined before numpy sees them, so that a client that sends many small
frames costs one array per column and tick, not one per frame. Every length is checked batch by batch before that, and
when a check of the values fails for joined batches, each is looked at alone: only the bad one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from seismograd_proto.v1 import telemetry
from seismograd_server.errors import InvalidBatchError
from seismograd_server.ingest.limits import IngestLimits
from seismograd_server.ingest.sparse import SparseColumns
from seismograd_server.model import Float32, Float64, Int64, NormSource, RecordKind, StepBatch, UInt8, UInt16, UInt64

ParameterCount = Callable[[int, int, int], int | None]
"""(rank handle, optimizer, catalog version) -> number of parameters; None = no such catalog."""

# Steps and sequences are int64 in storage; this leaves room to add counts to them.
_INT62 = 2**62
# A joined batch is one blob in the database: large ones amortise its row, huge ones only cost memory.
_JOINED_RECORDS = 4_096
_JOINED_BYTES = 4 * 2**20
_LAST_SOURCE = max(NormSource)
_SOURCES = bytes(NormSource)


class BatchColumns:
    """The columns of one batch, their lengths checked, as bytes; `norms` where the message does not have them."""

    __slots__ = ("count", "dense", "key", "sparse", "wire")

    def __init__(
        self,
        wire: telemetry.StepBatch,
        norms: bytes | memoryview | None,
        parameter_count: ParameterCount,
        limits: IngestLimits,
    ) -> None:
        count = wire.count
        if not 1 <= count <= limits.max_batch_records:
            raise InvalidBatchError("count", f"is {count}: a batch holds 1 to {limits.max_batch_records} records")
        if wire.first_sequence >= _INT62:
            raise InvalidBatchError("first_sequence", f"is {wire.first_sequence}: beyond 2^62")
        parameters = parameter_count(wire.rank_handle, wire.optimizer, wire.catalog_version)
        if parameters is None:
            raise InvalidBatchError(
                "catalog_version",
                f"version {wire.catalog_version} of optimizer {wire.optimizer} was never sent: send the catalog first",
            )
        steps = wire.steps
        if not steps and not -_INT62 < wire.first_step < _INT62:
            raise InvalidBatchError("first_step", f"is {wire.first_step}: beyond 2^62")
        totals, digests = wire.total_norms, wire.digests
        self.wire = wire
        self.count = count
        # Each look into the message is a copy of the column, so that there is one.
        gradient_norms = wire.gradient_norms if norms is None else norms
        self.dense = (steps, wire.times_unix_seconds, wire.sources, wire.flags, gradient_norms, totals, digests)
        for (name, size, required), column in zip(_DENSE, self.dense, strict=True):
            width = size or 4 * parameters
            if len(column) != count * width and (required or column):
                raise _wrong_length(name, column, count, width)
        self.sparse = SparseColumns(wire, parameters, limits)
        # What must be equal for two batches to be joined: whose they are, and which columns they have.
        self.key = (
            wire.rank_handle,
            wire.optimizer,
            wire.kind,
            wire.branch,
            wire.catalog_version,
            parameters,
            not gradient_norms,
            not totals,
            not digests,
        )

    @property
    def size(self) -> int:
        """Bytes of the tensor columns, which are what grows."""
        return len(self.dense[4])


_DENSE = (  # name, bytes a record (0 = four per parameter), whether it must be there
    ("steps", 8, False),
    ("times_unix_seconds", 8, True),
    ("sources", 1, True),
    ("flags", 2, True),
    ("gradient_norms", 0, False),
    ("total_norms", 8, False),
    ("digests", 8, False),
)


def decode_batches(
    batches: Iterable[tuple[telemetry.StepBatch, bytes | memoryview | None]],
    parameter_count: ParameterCount,
    limits: IngestLimits,
    refuse: Callable[[telemetry.StepBatch, InvalidBatchError], None],
) -> Iterator[StepBatch]:
    """Decode the batches of a frame, joining those that continue one another; `refuse` hears of the bad ones.

    Each comes with its gradient norms, if these are not in it.
    """
    group: list[BatchColumns] = []
    size = records = end = 0
    for wire, norms in batches:
        try:
            columns = BatchColumns(wire, norms, parameter_count, limits)
        except InvalidBatchError as error:
            refuse(wire, error)
            continue
        continues = (
            bool(group)
            and group[-1].key == columns.key
            and wire.first_sequence == end
            and records + columns.count <= _JOINED_RECORDS
            and size + columns.size <= _JOINED_BYTES
        )
        if not continues:
            yield from _decode_group(group, refuse)
            group, size, records = [], 0, 0
        group.append(columns)
        size += columns.size
        records += columns.count
        end = wire.first_sequence + columns.count
    yield from _decode_group(group, refuse)


def _decode_group(
    group: list[BatchColumns], refuse: Callable[[telemetry.StepBatch, InvalidBatchError], None]
) -> Iterator[StepBatch]:
    if not group:
        return
    try:
        yield _decode(group)
    except InvalidBatchError as error:
        if len(group) == 1:
            refuse(group[0].wire, error)
            return
        for columns in group:
            yield from _decode_group([columns], refuse)


def _decode(group: list[BatchColumns]) -> StepBatch:
    wire, parameters = group[0].wire, group[0].key[5]
    steps = _steps(group)
    times: Float64 = _column(group, 1, "<f8")
    sources: UInt8 = _column(group, 2, "u1")
    flags: UInt16 = _column(group, 3, "<u2")
    counted_on = len(group) == 1 and not group[0].dense[0]  # from a first step: they rise
    if len(steps) > 1 and not counted_on and not (steps[1:] > steps[:-1]).all():
        raise InvalidBatchError("steps", "do not rise: a step that goes back or repeats begins a new branch")
    if steps[0] <= -_INT62 or steps[-1] >= _INT62:  # between any two of them there is a number of steps
        raise InvalidBatchError("steps", f"go from {steps[0]} to {steps[-1]}: beyond 2^62")
    if not np.isfinite(times).all():
        raise InvalidBatchError("times_unix_seconds", "holds NaN or Inf: a record has a time")
    if any(each.dense[2].translate(None, _SOURCES) for each in group):  # a twentieth of what numpy's minimum costs
        raise InvalidBatchError("sources", f"holds a number outside 1 to {_LAST_SOURCE}: see NormSource")
    count = len(steps)
    *_, has_norms, has_totals, has_digests = (bool(column) for column in group[0].dense)
    norms: Float32 | None = _column(group, 4, "<f4").reshape(count, parameters) if has_norms else None
    totals: Float64 | None = _column(group, 5, "<f8") if has_totals else None
    digests: UInt64 | None = _column(group, 6, "<u8") if has_digests else None
    sparse = SparseColumns.joined([(each.count, each.sparse) for each in group])
    return StepBatch(
        rank_handle=wire.rank_handle,
        optimizer=wire.optimizer,
        kind=RecordKind(wire.kind),
        branch=wire.branch,
        first_sequence=wire.first_sequence,
        catalog_version=wire.catalog_version,
        steps=steps,
        times=times,
        sources=sources,
        flags=flags,
        gradient_norms=norms,
        total_norms=totals,
        digests=digests,
        nonfinite=sparse.nonfinite,
        scalars=sparse.scalars,
        tensors=sparse.tensors,
        data_ids=sparse.data_ids,
    )


def _steps(group: list[BatchColumns]) -> Int64:
    if all(each.dense[0] for each in group):
        return _column(group, 0, "<i8")
    first = end = group[0].wire.first_step
    for each in group:
        if each.dense[0] or each.wire.first_step != end:
            break
        end += each.count
    else:  # each goes on where the one before it ends
        return np.arange(first, end, dtype=np.int64)
    pieces: list[Int64] = []
    for each in group:
        if each.dense[0]:
            pieces.append(np.frombuffer(each.dense[0], "<i8"))
        else:
            first = each.wire.first_step
            pieces.append(np.arange(first, first + each.count, dtype=np.int64))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _column(group: list[BatchColumns], index: int, dtype: str) -> npt.NDArray[Any]:
    data = group[0].dense[index] if len(group) == 1 else b"".join([each.dense[index] for each in group])
    return np.frombuffer(data, dtype)


def _wrong_length(name: str, column: bytes | memoryview, count: int, width: int) -> InvalidBatchError:
    return InvalidBatchError(
        name,
        f"has {len(column)} bytes; {count} records of {width} bytes each are {count * width}",
    )
