"""The sparse columns of a batch: scalars, tensors, non-finite counts and data ids, which not every record has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from seismograd_proto.v1 import telemetry
from seismograd_server.errors import InvalidBatchError
from seismograd_server.ingest.limits import IngestLimits
from seismograd_server.model import TOTAL_ONLY, Nonfinite, Quantity, ScalarColumn, TensorColumn, UInt32

_QUANTITIES = {int(quantity): quantity for quantity in Quantity}
_COUNTS = ("nan_counts", "positive_inf_counts", "negative_inf_counts")


@dataclass(slots=True)
class Joined:
    """The sparse columns of joined batches, their rows counted from the first record of the first."""

    nonfinite: Nonfinite | None = None
    scalars: dict[Quantity, ScalarColumn] = field(default_factory=dict)
    tensors: dict[Quantity, TensorColumn] = field(default_factory=dict)
    data_ids: dict[int, str] = field(default_factory=dict)


class SparseColumns:
    """The sparse columns of one batch, checked. `rows` None means all records."""

    __slots__ = ("data_ids", "nonfinite", "scalars", "tensors")

    def __init__(self, wire: telemetry.StepBatch, parameters: int, limits: IngestLimits) -> None:
        count = wire.count
        self.scalars: dict[Quantity, tuple[UInt32 | None, bytes]] = {}
        self.tensors: dict[Quantity, tuple[UInt32 | None, UInt32 | None, bytes, int]] = {}
        self.nonfinite: Nonfinite | None = None
        self.data_ids: dict[int, str] = {}
        for scalar in wire.scalars:
            quantity = _quantity("scalars", scalar.quantity, self.scalars)
            if quantity is not None:
                rows = _indexes("scalars.rows", scalar.rows, count)
                values = scalar.values
                _require_length("scalars.values", values, 8 * (count if rows is None else len(rows)))
                self.scalars[quantity] = (rows, values)
        for tensor in wire.tensors:
            quantity = _quantity("tensors", tensor.quantity, self.tensors)
            if quantity is not None:
                rows = _indexes("tensors.rows", tensor.rows, count)
                chosen = _indexes("tensors.parameters", tensor.parameters, parameters)
                width = parameters if chosen is None else len(chosen)
                values = tensor.values
                _require_length("tensors.values", values, 4 * width * (count if rows is None else len(rows)))
                self.tensors[quantity] = (rows, chosen, values, width)
        if wire.HasField("nonfinite"):
            self.nonfinite = _nonfinite(wire.nonfinite, count, parameters)
        for each in wire.data_ids:
            if each.row >= count:
                raise InvalidBatchError("data_ids.row", f"is {each.row} in a batch of {count} records")
            if len(each.ids.encode()) > limits.max_data_ids_bytes:
                raise InvalidBatchError("data_ids.ids", f"is longer than {limits.max_data_ids_bytes} bytes: shorten it")
            self.data_ids[each.row] = each.ids

    @staticmethod
    def joined(parts: Sequence[tuple[int, SparseColumns]]) -> Joined:
        """Put the columns of consecutive batches, each given with its number of records, behind one another."""
        result = Joined()
        _join_scalars(result, parts)
        _join_tensors(result, parts)
        counts: list[Nonfinite] = []
        offset = 0
        for count, part in parts:
            if part.nonfinite is not None:
                counts.append(_moved(part.nonfinite, offset))
            for row, ids in part.data_ids.items():
                result.data_ids[offset + row] = ids
            offset += count
        if counts:
            columns = ("rows", "parameters", *_COUNTS)
            result.nonfinite = Nonfinite(*(_concatenated([getattr(each, name) for each in counts]) for name in columns))
        return result


def _join_scalars(result: Joined, parts: Sequence[tuple[int, SparseColumns]]) -> None:
    found: dict[Quantity, tuple[list[UInt32], list[bytes]]] = {}
    offset = 0
    for count, part in parts:
        for quantity, (rows, values) in part.scalars.items():
            all_rows, all_values = found.setdefault(quantity, ([], []))
            all_rows.append(_placed(rows, count, offset))
            all_values.append(values)
        offset += count
    for quantity, (rows_of, values_of) in found.items():
        data = values_of[0] if len(values_of) == 1 else b"".join(values_of)
        result.scalars[quantity] = ScalarColumn(_concatenated(rows_of), np.frombuffer(data, "<f8"))


def _join_tensors(result: Joined, parts: Sequence[tuple[int, SparseColumns]]) -> None:
    found: dict[Quantity, list[tuple[UInt32, UInt32 | None, npt.NDArray[np.float32]]]] = {}
    offset = 0
    for count, part in parts:
        for quantity, (rows, chosen, data, width) in part.tensors.items():
            values = np.frombuffer(data, "<f4").reshape(-1, width) if width else np.empty((0, 0), np.float32)
            found.setdefault(quantity, []).append((_placed(rows, count, offset)[: len(values)], chosen, values))
        offset += count
    for quantity, pieces in found.items():
        chosen = _common([each for _, each, _ in pieces])
        parameters = np.arange(pieces[0][2].shape[1], dtype=np.uint32) if chosen is None else chosen
        rows_column = _concatenated([each for each, _, _ in pieces])
        result.tensors[quantity] = TensorColumn(rows_column, parameters, _concatenated([each for *_, each in pieces]))


def _common(choices: list[UInt32 | None]) -> UInt32 | None:
    """The one choice of parameters that all the pieces made.

    Raises:
        InvalidBatchError: they differ, so that their batches cannot be joined; each is then taken alone.
    """
    first = choices[0]
    for each in choices[1:]:
        if (each is None) != (first is None) or (
            each is not None and first is not None and not np.array_equal(each, first)
        ):
            raise InvalidBatchError("tensors.parameters", "differ between batches")
    return first


def _quantity(name: str, number: int, seen: dict[Quantity, Any]) -> Quantity | None:
    """The quantity; None for one that only a newer client knows."""
    if number == 0:
        raise InvalidBatchError(f"{name}.quantity", "is not set")
    quantity = _QUANTITIES.get(number)
    if quantity in seen:
        raise InvalidBatchError(f"{name}.quantity", f"{quantity.name if quantity else number} is there twice")
    return quantity


def _indexes(name: str, data: bytes, bound: int) -> UInt32 | None:
    """Rising indexes below `bound`; None = all of them."""
    if not data:
        return None
    if len(data) % 4:
        raise InvalidBatchError(name, f"has {len(data)} bytes, which is no multiple of 4")
    indexes = np.frombuffer(data, "<u4")
    if int(indexes[-1]) >= bound or (len(indexes) > 1 and not (indexes[1:] > indexes[:-1]).all()):
        raise InvalidBatchError(name, f"must rise and stay below {bound}")
    return indexes


def _nonfinite(wire: telemetry.NonfiniteColumns, count: int, parameters: int) -> Nonfinite | None:
    length = len(wire.rows) // 4
    _require_length("nonfinite.rows", wire.rows, 4 * length)
    _require_length("nonfinite.parameters", wire.parameters, 4 * length)
    for name in _COUNTS:
        _require_length(f"nonfinite.{name}", getattr(wire, name), 8 * length)
    if not length:
        return None
    rows, chosen = np.frombuffer(wire.rows, "<u4"), np.frombuffer(wire.parameters, "<u4")
    if rows.max() >= count:
        raise InvalidBatchError("nonfinite.rows", f"must stay below {count}")
    if ((chosen >= parameters) & (chosen != TOTAL_ONLY)).any():
        raise InvalidBatchError("nonfinite.parameters", f"must stay below {parameters}, or be {TOTAL_ONLY}")
    counts = (np.frombuffer(getattr(wire, name), "<u8") for name in _COUNTS)
    return Nonfinite(rows, chosen, *counts)


def _require_length(name: str, data: bytes, expected: int) -> None:
    if len(data) != expected:
        raise InvalidBatchError(name, f"has {len(data)} bytes, expected {expected}")


def _placed(rows: UInt32 | None, count: int, offset: int) -> UInt32:
    if rows is None:
        return np.arange(offset, offset + count, dtype=np.uint32)
    return rows + np.uint32(offset) if offset else rows


def _moved(counts: Nonfinite, offset: int) -> Nonfinite:
    if not offset:
        return counts
    return Nonfinite(
        counts.rows + np.uint32(offset),
        counts.parameters,
        counts.nan_counts,
        counts.positive_inf_counts,
        counts.negative_inf_counts,
    )


def _concatenated(pieces: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
