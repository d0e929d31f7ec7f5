"""Closed blocks to bytes and back, without the per-layer norms: those are recomposed from segments. Pure.

A column in which nothing is known is left out, so that what was never logged costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from seismograd_server.model import (
    Bool,
    ClosedBlock,
    Float64,
    Int64,
    NonfiniteLayer,
    ReplicaGap,
    UInt8,
    UInt16,
    is_unknown,
)
from seismograd_server.store.columns import Column, pack, unpack
from seismograd_server.store.dense import pack_dense, unpack_dense


@dataclass(frozen=True, slots=True, eq=False)
class StepChunk:
    """Consecutive closed steps as they were stored; fields as in ClosedBlock, n steps, r ranks.

    `layer` in `nonfinite_layers` is an index into the layout that the launch's catalogs compose to.
    """

    ordinal: int
    attempt: int
    branch: int
    launch_row: int
    steps: Int64
    times: Float64
    global_norm: Float64
    nonfinite: Int64
    inexact: Bool
    flags: UInt16
    sources: UInt8
    loss: Float64
    loss_known: Bool
    rank_loss: Float64
    rank_loss_known: Bool
    rank_norm: Float64
    learning_rate: Float64
    loss_scale: Float64
    clip_threshold: Float64
    clip_coefficient: Float64
    step_seconds: Float64
    ranks_present: Bool
    nonfinite_layers: tuple[NonfiniteLayer, ...]
    replica_gaps: tuple[ReplicaGap, ...]

    @property
    def count(self) -> int:
        """Number of steps, n."""
        return len(self.steps)

    def select(self, chosen: Bool) -> StepChunk:
        """The steps where `chosen` (bool[n]) holds."""
        if chosen.all():
            return self
        columns: dict[str, Any] = {
            field.name: value[chosen]
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray)
        }
        rows = np.cumsum(chosen) - 1
        layers = tuple(replace(layer, row=int(rows[layer.row])) for layer in self.nonfinite_layers if chosen[layer.row])
        gaps = tuple(replace(gap, row=int(rows[gap.row])) for gap in self.replica_gaps if chosen[gap.row])
        return replace(self, **columns, nonfinite_layers=layers, replica_gaps=gaps)


def join_chunks(chunks: Sequence[StepChunk]) -> StepChunk:
    """Consecutive chunks of one launch and branch as one, with the last one's ordinal."""
    if len(chunks) == 1:
        return chunks[0]
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(chunk, field.name) for chunk in chunks])
        for field in fields(StepChunk)
        if isinstance(getattr(chunks[0], field.name), np.ndarray)
    }
    starts = np.cumsum([0, *(chunk.count for chunk in chunks)]).tolist()
    parts = list(zip(starts, chunks, strict=False))
    layers = tuple(replace(each, row=start + each.row) for start, chunk in parts for each in chunk.nonfinite_layers)
    gaps = tuple(replace(each, row=start + each.row) for start, chunk in parts for each in chunk.replica_gaps)
    return replace(chunks[-1], **columns, nonfinite_layers=layers, replica_gaps=gaps)


def narrow(chunk: StepChunk) -> StepChunk:
    """The same with what was measured or composed from float32 as exact as a float32 is: 2^-24 of the value.

    What a job set itself (rates, scales, thresholds), losses and times stay as they are; so does a number beyond the
    range of normal float32.
    """
    return replace(
        chunk,
        global_norm=_narrowed(chunk.global_norm),
        clip_coefficient=_narrowed(chunk.clip_coefficient),
        step_seconds=_narrowed(chunk.step_seconds),
    )


def _narrowed(values: Float64) -> Float64:
    limits = np.finfo(np.float32)
    size = np.abs(values)
    fits = (size >= limits.smallest_normal) & (size < limits.max)
    return np.where(fits, np.where(fits, values, 0.0).astype(np.float32).astype(np.float64), values)


@dataclass(frozen=True, slots=True, eq=False)
class Closing:
    """The event that closed some steps: which, and with which ranks; what a replay repeats exactly."""

    ordinal: int
    attempt: int
    branch: int
    steps: Int64  # [n]
    ranks_present: Bool  # [n, r]


# Ids of columns: they are on disk, never reuse one.
_STEPS = 1
_RANKS = 2  # one number, r
_RANKS_PRESENT = 3  # bits
_LOSS_KNOWN = 4  # bits
_RANK_LOSS_KNOWN = 5  # bits
_INEXACT = 6  # bits
_NONFINITE = 7
_FLAGS = 8
_SOURCES = 9
_RANK_LOSS = 10
_RANK_NORM_ROWS = 11  # the steps whose local norms were sampled
_RANK_NORM = 12
_NONFINITE_LAYERS = 13  # int64[k, 6]
_REPLICA_GAPS = 14  # float64[k, 3]: row, rank, gap
# Columns of float64[n] in which NaN may stand for "not known".
_SERIES = {
    20: "times",
    21: "global_norm",
    22: "loss",
    23: "learning_rate",
    24: "loss_scale",
    25: "clip_threshold",
    26: "clip_coefficient",
    27: "step_seconds",
}


def encode_block(block: ClosedBlock | StepChunk, *, dense: bool = False) -> bytes:
    """Serialise all of a block but its layout and its norms by layer; dense: few bytes, and a checksum.

    Raises:
        ValueError: a column whose type is not the one that ClosedBlock declares.
    """
    return pack_dense(_columns(block)) if dense else pack(_columns(block))


def _columns(block: ClosedBlock | StepChunk) -> list[tuple[int, Column]]:
    columns: list[tuple[int, Column]] = [
        (_STEPS, block.steps),
        (_RANKS, np.array([block.ranks_present.shape[1]], np.int64)),
        (_RANKS_PRESENT, np.packbits(block.ranks_present)),
        (_FLAGS, block.flags),
        (_SOURCES, block.sources),
    ]
    for identifier, bits in (
        (_LOSS_KNOWN, block.loss_known),
        (_RANK_LOSS_KNOWN, block.rank_loss_known),
        (_INEXACT, block.inexact),
    ):
        if np.count_nonzero(bits):
            columns.append((identifier, np.packbits(bits)))
    for identifier, name in _SERIES.items():
        series: Float64 = getattr(block, name)
        if _is_told(series) or (name == "loss" and np.count_nonzero(block.loss_known)):
            columns.append((identifier, series))
    if np.count_nonzero(block.nonfinite):
        columns.append((_NONFINITE, block.nonfinite))
    if np.count_nonzero(block.rank_loss_known):
        columns.append((_RANK_LOSS, block.rank_loss))
    if _is_told(block.rank_norm):
        sampled = ~np.isnan(block.rank_norm).all(axis=1)
        columns.append((_RANK_NORM_ROWS, np.flatnonzero(sampled).astype(np.uint32)))
        columns.append((_RANK_NORM, block.rank_norm[sampled]))
    if block.nonfinite_layers:
        layers = [
            (entry.row, entry.layer, entry.rank, entry.nan_count, entry.positive_inf_count, entry.negative_inf_count)
            for entry in block.nonfinite_layers
        ]
        columns.append((_NONFINITE_LAYERS, np.array(layers, np.int64)))
    if block.replica_gaps:
        gaps = [(each.row, each.rank, each.gap) for each in block.replica_gaps]
        columns.append((_REPLICA_GAPS, np.array(gaps, np.float64)))
    return columns


def _is_told(column: Float64) -> bool:
    """Whether anything of it is known."""
    return not is_unknown(column) and int(np.count_nonzero(np.isnan(column))) < column.size


def decode_block(
    data: bytes, *, ordinal: int, attempt: int, branch: int, launch_row: int, dense: bool = False
) -> StepChunk:
    """What `encode_block` kept.

    Raises:
        ValueError: the bytes are damaged.
    """
    columns = unpack_dense(data)[0] if dense else unpack(data)
    try:
        steps, shape = columns[_STEPS], (len(columns[_STEPS]), int(columns[_RANKS][0]))
        rank_norm = np.full(shape, np.nan)
        if _RANK_NORM in columns:
            rank_norm[columns[_RANK_NORM_ROWS]] = columns[_RANK_NORM]
        series = {name: columns.get(identifier) for identifier, name in _SERIES.items()}
        return StepChunk(
            ordinal=ordinal,
            attempt=attempt,
            branch=branch,
            launch_row=launch_row,
            steps=steps,
            nonfinite=columns.get(_NONFINITE, np.zeros((shape[0], 3), np.int64)),
            inexact=_bits(columns.get(_INEXACT), shape[:1]),
            flags=columns[_FLAGS],
            sources=columns[_SOURCES],
            loss_known=_bits(columns.get(_LOSS_KNOWN), shape[:1]),
            rank_loss=columns.get(_RANK_LOSS, np.full(shape, np.nan)),
            rank_loss_known=_bits(columns.get(_RANK_LOSS_KNOWN), shape),
            rank_norm=rank_norm,
            ranks_present=_bits(columns[_RANKS_PRESENT], shape),
            nonfinite_layers=tuple(
                NonfiniteLayer(*entry) for entry in columns.get(_NONFINITE_LAYERS, np.empty((0, 6), np.int64)).tolist()
            ),
            replica_gaps=tuple(
                ReplicaGap(int(row), int(rank), gap)
                for row, rank, gap in columns.get(_REPLICA_GAPS, np.empty((0, 3))).tolist()
            ),
            **{name: np.full(shape[0], np.nan) if column is None else column for name, column in series.items()},
        )
    except (KeyError, IndexError) as error:
        raise ValueError(f"stored block lacks column {error}") from error


def _bits(packed: Column | None, shape: tuple[int, ...]) -> Bool:
    if packed is None:
        return np.zeros(shape, np.bool_)
    bits: npt.NDArray[np.uint8] = np.unpackbits(packed, count=int(np.prod(shape)))
    return bits.view(np.bool_).reshape(shape)
