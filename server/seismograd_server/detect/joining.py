"""Pieces of one rank that follow one another become one: what comes after costs by the piece, not by the step. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from seismograd_server.detect.closing import Piece
from seismograd_server.model import (
    Nonfinite,
    Quantity,
    ScalarColumn,
    StepBatch,
    TensorColumn,
    UInt32,
)

_Number = TypeVar("_Number", bound=np.generic)


def join(pieces: Sequence[Piece]) -> list[Piece]:
    """Join pieces of one branch where one goes on where the other ends: the same records, in fewer batches.

    In order of rank and sequence. Pieces whose columns differ in kind stay apart, and so do those whose steps overlap,
    because of a step that is there twice the lower sequence counts.
    """
    groups: list[list[Piece]] = []
    sampled: dict[Quantity, UInt32] = {}  # parameters of the last group's tensor columns
    for piece in sorted(pieces, key=lambda each: (each.rank, each.batch.first_sequence + each.start)):
        tensors = piece.batch.tensors
        if groups and _continues(groups[-1][-1], piece) and _agree(sampled, tensors):
            groups[-1].append(piece)
        else:
            groups.append([piece])
            sampled = {}
        sampled |= {quantity: column.parameters for quantity, column in tensors.items()}
    return [group[0] if len(group) == 1 else _joined(group) for group in groups]


def _continues(before: Piece, piece: Piece) -> bool:
    one, other = before.batch, piece.batch
    return (
        before.rank == piece.rank
        and one.catalog_version == other.catalog_version
        and (one.gradient_norms is None) == (other.gradient_norms is None)
        and (one.total_norms is None) == (other.total_norms is None)
        and (one.digests is None) == (other.digests is None)
        and int(one.steps[before.stop - 1]) < int(other.steps[piece.start])
    )


def _agree(sampled: Mapping[Quantity, UInt32], tensors: Mapping[Quantity, TensorColumn]) -> bool:
    return all(
        quantity not in sampled or np.array_equal(sampled[quantity], column.parameters)
        for quantity, column in tensors.items()
    )


def _joined(group: list[Piece]) -> Piece:
    first, count = group[0], sum(piece.stop - piece.start for piece in group)
    batch = StepBatch(
        rank_handle=first.batch.rank_handle,
        optimizer=first.batch.optimizer,
        kind=first.batch.kind,
        branch=first.batch.branch,
        first_sequence=first.batch.first_sequence + first.start,
        catalog_version=first.batch.catalog_version,
        steps=_column(group, lambda batch: batch.steps),
        times=_column(group, lambda batch: batch.times),
        sources=_column(group, lambda batch: batch.sources),
        flags=_column(group, lambda batch: batch.flags),
        gradient_norms=_optional(group, lambda batch: batch.gradient_norms),
        total_norms=_optional(group, lambda batch: batch.total_norms),
        digests=_optional(group, lambda batch: batch.digests),
        nonfinite=_nonfinite(group),
        scalars=_scalars(group),
        tensors=_tensors(group),
        data_ids=_data_ids(group),
    )
    return Piece(first.rank, batch, 0, count, first.arrived_at, first.segment)


def _column(group: list[Piece], of: Callable[[StepBatch], npt.NDArray[_Number] | None]) -> npt.NDArray[_Number]:
    columns = (of(piece.batch) for piece in group)
    return np.concatenate(
        [column[piece.start : piece.stop] for piece, column in zip(group, columns, strict=True) if column is not None]
    )


def _optional(
    group: list[Piece], of: Callable[[StepBatch], npt.NDArray[_Number] | None]
) -> npt.NDArray[_Number] | None:
    return None if of(group[0].batch) is None else _column(group, of)


def _offsets(group: list[Piece]) -> Iterator[tuple[Piece, int]]:
    """Each piece, and what is to be added to its rows."""
    total = 0
    for piece in group:
        yield piece, total - piece.start
        total += piece.stop - piece.start


def _moved(rows: UInt32, offset: int) -> UInt32:
    moved: UInt32 = (rows.astype(np.int64) + offset).astype(np.uint32)
    return moved


def _scalars(group: list[Piece]) -> dict[Quantity, ScalarColumn]:
    found: dict[Quantity, list[ScalarColumn]] = {}
    for piece, offset in _offsets(group):
        for quantity, column in piece.batch.scalars.items():
            inside = _rows_inside(column.rows, piece)
            own = ScalarColumn(_moved(column.rows[inside], offset), column.values[inside])
            found.setdefault(quantity, []).append(own)
    return {
        quantity: ScalarColumn(
            np.concatenate([each.rows for each in columns]), np.concatenate([each.values for each in columns])
        )
        for quantity, columns in found.items()
    }


def _tensors(group: list[Piece]) -> dict[Quantity, TensorColumn]:
    found: dict[Quantity, list[TensorColumn]] = {}
    for piece, offset in _offsets(group):
        for quantity, column in piece.batch.tensors.items():
            inside = _rows_inside(column.rows, piece)
            own = TensorColumn(_moved(column.rows[inside], offset), column.parameters, column.values[inside])
            found.setdefault(quantity, []).append(own)
    return {
        quantity: TensorColumn(
            np.concatenate([each.rows for each in columns]),
            columns[0].parameters,
            np.concatenate([each.values for each in columns]),
        )
        for quantity, columns in found.items()
    }


def _rows_inside(rows: UInt32, piece: Piece) -> slice:
    first, last = np.searchsorted(rows, (piece.start, piece.stop)).tolist()
    return slice(first, last)


def _nonfinite(group: list[Piece]) -> Nonfinite | None:
    """Unlike those of the other columns, these rows need not be in order."""
    found = []
    for piece, offset in _offsets(group):
        own = piece.batch.nonfinite
        if own is None:
            continue
        inside = (own.rows >= piece.start) & (own.rows < piece.stop)
        counts = (own.nan_counts[inside], own.positive_inf_counts[inside], own.negative_inf_counts[inside])
        found.append((_moved(own.rows[inside], offset), own.parameters[inside], *counts))
    return Nonfinite(*(np.concatenate(columns) for columns in zip(*found, strict=True))) if found else None


def _data_ids(group: list[Piece]) -> dict[int, str]:
    return {
        row + offset: name
        for piece, offset in _offsets(group)
        for row, name in piece.batch.data_ids.items()
        if piece.start <= row < piece.stop
    }
