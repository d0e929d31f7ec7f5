"""When a step is closed, and of which records it is made: the ranks of one (launch, optimizer) brought together.

    offer(records as they arrive) -> close(now) -> Closing: steps in order, for each rank the rows that belong to them

A step is identified by its position (branch, step), and positions close in rising order. A rank's sequence numbers
tell how far it has really come: behind a hole in them an earlier step may still be on its way, so that reordered
frames wait for one another. A position closes when every rank expected has come past it, or when it has waited for
`close_wait_seconds`. What comes later is late: it is stored, but no detector will see it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from seismograd_server.model import Bool, Int64, StepBatch

Position = tuple[int, int]
"""(branch, step): positions of one launch are closed in rising order."""

_BEFORE_ALL: Position = (-1, 0)
_BEHIND_ALL: Position = (2**32, 0)  # no branch is that high: it is an unsigned 32-bit number on the wire
# Per record, beside its tensor row: the fixed columns, a few scalars and the arrays' own headers.
_BYTES_A_RECORD = 128


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and for whom a step waits.

    Attributes:
        close_wait_seconds: from the arrival of a step's first record until it closes without the missing ranks.
        absent_after_seconds: a rank that has sent nothing for so long is not waited for until it speaks again, so that
            one dead rank does not delay the alerts of the others for ever.
        max_pending_bytes: above this the oldest steps close at once.
    """

    close_wait_seconds: float = 5.0
    absent_after_seconds: float = 30.0
    max_pending_bytes: int = 64 * 2**20


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
class _Piece:
    """Rows of a batch that wait."""

    rank: int
    batch: StepBatch
    start: int
    stop: int
    arrived_at: float
    segment: int

    @property
    def first(self) -> Position:
        return (self.batch.branch, int(self.batch.steps[self.start]))

    @property
    def last(self) -> Position:
        return (self.batch.branch, int(self.batch.steps[self.stop - 1]))

    @property
    def size(self) -> int:
        norms = self.batch.gradient_norms
        columns = 0 if norms is None else norms.shape[1]
        return (self.stop - self.start) * (_BYTES_A_RECORD + 4 * columns)

    def rows_up_to(self, limit: Position) -> int:
        """The first row behind `limit`."""
        branch, step = limit
        if self.batch.branch != branch:
            return self.stop if self.batch.branch < branch else self.start
        steps = self.batch.steps[self.start : self.stop]
        return self.start + int(np.searchsorted(steps, step, side="right"))


class Aligner:
    """Brings the ranks of one (launch, optimizer) together. Not thread-safe; knows no clock."""

    def __init__(self, world_size: int, patience: Patience, *, now: float, frontier: Position | None = None) -> None:
        """Start with everything up to `frontier` closed already (None = nothing)."""
        self._world_size = world_size
        self._patience = patience
        self._frontier = frontier if frontier is not None else _BEFORE_ALL
        self._pieces: list[list[_Piece]] = [[] for _ in range(world_size)]
        self._settled: list[Position] = [self._frontier] * world_size
        # Per rank: (end of the sequence range, last position in it) of what the watermark has not yet passed.
        self._ahead: list[list[tuple[int, Position]]] = [[] for _ in range(world_size)]
        self._heard_at = [now] * world_size
        self._ended: set[int] = set()
        self._bytes = 0

    @property
    def frontier(self) -> Position | None:
        """The last position closed; None before the first."""
        return None if self._frontier == _BEFORE_ALL else self._frontier

    @property
    def pending(self) -> bool:
        """Whether any record waits."""
        return any(self._pieces)

    @property
    def oldest_arrival(self) -> float | None:
        """When the record that has waited longest arrived; None = nothing waits."""
        return min((piece.arrived_at for pieces in self._pieces for piece in pieces), default=None)

    @property
    def lowest_segment(self) -> int | None:
        """The lowest `segment` among the records that wait; None = nothing waits."""
        return min((piece.segment for pieces in self._pieces for piece in pieces), default=None)

    def offer(self, rank: int, batch: StepBatch, *, now: float, segment: int = 0) -> int:
        """Take a rank's records, which hold no sequence that was offered before.

        Args:
            rank: who recorded it.
            batch: the records.
            now: time of their arrival.
            segment: where they are stored; only remembered.

        Returns:
            how many of them are late: their position is closed.
        """
        piece = _Piece(rank, batch, 0, batch.count, now, segment)
        late = piece.rows_up_to(self._frontier)
        self._heard_at[rank] = now
        self._ended.discard(rank)
        heapq.heappush(self._ahead[rank], (batch.end_sequence, piece.last))
        if late < batch.count:
            piece = replace(piece, start=late)
            self._pieces[rank].append(piece)
            self._bytes += piece.size
        return late

    def settle(self, rank: int, watermark: int) -> None:
        """Hear that no record of the rank below the sequence `watermark` is missing any more."""
        ahead = self._ahead[rank]
        while ahead and ahead[0][0] <= watermark:
            self._settled[rank] = max(self._settled[rank], heapq.heappop(ahead)[1])

    def hear(self, rank: int, now: float) -> None:
        """Note a sign of life."""
        self._heard_at[rank] = max(self._heard_at[rank], now)

    def end(self, rank: int) -> None:
        """Stop waiting for a rank that has said farewell (until it sends something after all)."""
        self._ended.add(rank)

    def close(self, now: float) -> tuple[Closing, ...]:
        """Close what is complete or has waited long enough; one Closing per branch, in order."""
        limit = self._complete_up_to(now)
        overdue = now - self._patience.close_wait_seconds
        for pieces in self._pieces:
            for piece in pieces:
                if piece.arrived_at <= overdue and piece.last > limit:
                    limit = piece.last
        return self._close_up_to(self._crowded_up_to(limit))

    def close_all(self) -> tuple[Closing, ...]:
        """Close everything that is here, because no more is to come."""
        return self._close_up_to(_BEHIND_ALL)

    def repeat(self, branch: int, steps: Int64, ranks_present: Bool) -> Closing:
        """Close exactly these steps with exactly these ranks, as it was done before a restart.

        Records of theirs that are not in it were late; so is everything else up to the last step.
        """
        limit = (branch, int(steps[-1]))
        taken = [piece for piece in self._take(limit) if piece.batch.branch == branch]
        self._frontier = max(self._frontier, limit)
        return _assemble(branch, steps, taken, self._world_size, ranks_present)

    def holds(self, branch: int, steps: Int64, ranks_present: Bool) -> int:
        """How many of the rows that `repeat` would take are here."""
        return sum(
            rows_in(piece.batch, piece.rank, branch, steps, ranks_present)
            for pieces in self._pieces
            for piece in pieces
        )

    def _complete_up_to(self, now: float) -> Position:
        silent_since = now - self._patience.absent_after_seconds
        limit = _BEHIND_ALL
        for rank, settled in enumerate(self._settled):
            if settled < limit and rank not in self._ended and self._heard_at[rank] >= silent_since:
                limit = settled
        return limit

    def _crowded_up_to(self, limit: Position) -> Position:
        if self._bytes <= self._patience.max_pending_bytes:
            return limit
        excess = self._bytes - self._patience.max_pending_bytes
        for piece in sorted((each for pieces in self._pieces for each in pieces), key=lambda each: each.last):
            if excess <= 0:
                break
            excess -= piece.size
            limit = max(limit, piece.last)
        return limit

    def _close_up_to(self, limit: Position) -> tuple[Closing, ...]:
        if limit <= self._frontier:
            return ()
        taken = self._take(limit)
        if not taken:
            return ()
        self._frontier = max(piece.last for piece in taken)
        closings = []
        for branch in sorted({piece.batch.branch for piece in taken}):
            pieces = [piece for piece in taken if piece.batch.branch == branch]
            closings.append(_assemble(branch, _union_of_steps(pieces), pieces, self._world_size))
        return tuple(closings)

    def _take(self, limit: Position) -> list[_Piece]:
        taken = []
        for rank, pieces in enumerate(self._pieces):
            if not pieces:
                continue
            kept = []
            for piece in pieces:
                stop = piece.rows_up_to(limit)
                if stop > piece.start:
                    taken.append(piece if stop == piece.stop else replace(piece, stop=stop))
                if stop < piece.stop:
                    kept.append(piece if stop == piece.start else replace(piece, start=stop))
            self._pieces[rank] = kept
        self._bytes -= sum(piece.size for piece in taken)
        return taken


def rows_in(batch: StepBatch, rank: int, branch: int, steps: Int64, ranks_present: Bool) -> int:
    """How many records of a rank's batch belong to a closing."""
    if batch.branch != branch:
        return 0
    return int(np.count_nonzero(ranks_present[np.isin(steps, batch.steps, assume_unique=True), rank]))


def _union_of_steps(pieces: list[_Piece]) -> Int64:
    columns = [piece.batch.steps[piece.start : piece.stop] for piece in pieces]
    if len(columns) == 1:
        return columns[0]
    return np.unique(np.concatenate(columns))


def _assemble(
    branch: int, steps: Int64, pieces: Iterable[_Piece], world_size: int, wanted: Bool | None = None
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
        for start, stop in _runs(fits):
            chosen = places[start:stop]
            present[chosen, piece.rank] = True
            parts.append(Part(piece.rank, piece.batch, piece.start + start, piece.start + stop, _as_slice(chosen)))
    return Closing(branch, steps, present, tuple(parts))


def _runs(mask: Bool) -> list[tuple[int, int]]:
    """Ranges of consecutive rows that are True."""
    if mask.all():
        return [(0, len(mask))]
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _as_slice(positions: Int64) -> slice | Int64:
    """Consecutive positions as a slice, which numpy copies several times faster."""
    first, last = int(positions[0]), int(positions[-1])
    if last - first + 1 == len(positions):
        return slice(first, last + 1)
    return positions
