"""Which records a closed step is made of: for each rank, rows of its batches and where they belong. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seismograd_server.model import Bool, Int64, StepBatch, true_rows

Position = tuple[int, int]
"""(branch, step): positions of one launch are closed in rising order."""

# Per record, beside its tensor row: the fixed columns, a few scalars and the arrays' own headers.
_BYTES_A_RECORD = 128


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows [start, stop) of a rank's batch, and where they belong: `positions` int64[stop - start] or a slice of it."""

    rank: int
    batch: StepBatch
    start: int
    stop: int
    positions: slice | Int64

    def at(self, rows: npt.NDArray[np.integer]) -> Int64:
        """Positions in the closing of some rows of the batch (indexes from `start` to `stop`)."""
        offsets = rows.astype(np.int64) - self.start
        found: Int64
        found = offsets + self.positions.start if isinstance(self.positions, slice) else self.positions[offsets]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Closing:
    """Steps of one branch that are closed now, in order: `steps` int64[n], `ranks_present` bool[n, r]."""

    branch: int
    steps: Int64
    ranks_present: Bool
    parts: tuple[Part, ...]  # by rank, then by sequence


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Rows of a batch that wait."""

    rank: int
    batch: StepBatch
    start: int
    stop: int
    arrived_at: float
    segment: int

    @property
    def first(self) -> Position:
        """Position of the first row."""
        return (self.batch.branch, int(self.batch.steps[self.start]))

    @property
    def last(self) -> Position:
        """Position of the last row."""
        return (self.batch.branch, int(self.batch.steps[self.stop - 1]))

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        norms = self.batch.gradient_norms
        columns = 0 if norms is None else norms.shape[1]
        return (self.stop - self.start) * (_BYTES_A_RECORD + 4 * columns)

    def rows_up_to(self, limit: Position) -> int:
        """The first row behind `limit`."""
        if limit >= self.last:  # mostly it is all of them or none
            return self.stop
        if limit < self.first:
            return self.start
        steps = self.batch.steps[self.start : self.stop]
        return self.start + int(np.searchsorted(steps, limit[1], side="right"))


def rows_in(batch: StepBatch, rank: int, branch: int, steps: Int64, ranks_present: Bool) -> int:
    """How many records of a rank's batch belong to a closing."""
    if batch.branch != branch:
        return 0
    return int(np.count_nonzero(ranks_present[np.isin(steps, batch.steps, assume_unique=True), rank]))


def union_of_steps(pieces: list[Piece]) -> Int64:
    """All steps of some pieces of one branch, rising."""
    columns = [piece.batch.steps[piece.start : piece.stop] for piece in pieces]
    if len(columns) == 1:
        return columns[0]
    steps: Int64 = np.concatenate(columns)
    return steps if (steps[1:] > steps[:-1]).all() else np.unique(steps)  # mostly they are of one rank


def assemble(
    branch: int, steps: Int64, pieces: Iterable[Piece], world_size: int, wanted: Bool | None = None
) -> Closing:
    """Place each piece's rows; where a rank has a step twice, the lower sequence is the one."""
    present = np.zeros((len(steps), world_size), np.bool_)
    parts: list[Part] = []
    for piece in sorted(pieces, key=lambda each: (each.rank, each.batch.first_sequence, each.start)):
        own = piece.batch.steps[piece.start : piece.stop]
        if wanted is None and np.array_equal(own, steps) and not present[:, piece.rank].any():
            present[:, piece.rank] = True
            parts.append(Part(piece.rank, piece.batch, piece.start, piece.stop, slice(0, len(steps))))
            continue
        places = np.searchsorted(steps, own).astype(np.int64)
        fits = places < len(steps)
        fits[fits] = steps[places[fits]] == own[fits]
        fits[fits] = ~present[places[fits], piece.rank]
        if wanted is not None:
            fits[fits] = wanted[places[fits], piece.rank]
        for start, stop in true_rows(fits):
            chosen = places[start:stop]
            present[chosen, piece.rank] = True
            parts.append(Part(piece.rank, piece.batch, piece.start + start, piece.start + stop, _as_slice(chosen)))
    return Closing(branch, steps, present, tuple(parts))


def _as_slice(positions: Int64) -> slice | Int64:
    """Consecutive positions as a slice, which numpy copies several times faster."""
    first, last = int(positions[0]), int(positions[-1])
    if last - first + 1 == len(positions):
        return slice(first, last + 1)
    return positions
