"""When a step is closed, and of which records it is made: the ranks of one (launch, optimizer) brought together.

    offer(records as they arrive) -> close(now) -> Closing: steps in order, for each rank the rows that belong to them

A step is identified by its position (branch, step), and positions close in rising order. A rank's sequence numbers
tell how far it has really come: behind a hole in them an earlier step may still be on its way, so that reordered
frames wait for one another. A position closes when every rank expected has come past it, or when it has waited for
`close_wait_seconds`. What comes later is late: it is stored, but no detector will see it.

Behind a restart of the server the ranks come back one by one, each with what it held back. Whoever has not come back
yet is waited for, and what has waited for it meanwhile waits `close_wait_seconds` from then on.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace

from seismograd_server.detect.closing import Closing, Piece, Position, assemble, rows_in, union_of_steps
from seismograd_server.detect.joining import join
from seismograd_server.model import Bool, Int64, StepBatch

_BEFORE_ALL: Position = (-1, 0)
_BEHIND_ALL: Position = (2**32, 0)  # no branch is that high: it is an unsigned 32-bit number on the wire


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and for whom a step waits.

    Attributes:
        close_wait_seconds: from the arrival of a step's first record until it closes without the missing ranks.
        absent_after_seconds: a rank that has sent nothing for so long is not waited for until it speaks again, so that
            one dead rank does not delay the alerts of the others for ever.
        return_seconds: what clients wait at most between two attempts to connect: so long, ranks that are expected
            back are waited for.
        max_pending_bytes: above this the oldest steps close at once.
    """

    close_wait_seconds: float = 5.0
    absent_after_seconds: float = 30.0
    return_seconds: float = 60.0
    max_pending_bytes: int = 64 * 2**20


class Aligner:
    """Brings the ranks of one (launch, optimizer) together. Not thread-safe; knows no clock."""

    def __init__(self, world_size: int, patience: Patience, *, now: float, frontier: Position | None = None) -> None:
        """Start with everything up to `frontier` closed already (None = nothing)."""
        self._world_size = world_size
        self._patience = patience
        self._frontier = frontier if frontier is not None else _BEFORE_ALL
        self._pieces: list[list[Piece]] = [[] for _ in range(world_size)]
        self._settled: list[Position] = [self._frontier] * world_size
        # Per rank: (end of the sequence range, last position in it) of what the watermark has not yet passed.
        self._ahead: list[list[tuple[int, Position]]] = [[] for _ in range(world_size)]
        self._heard_at = [now] * world_size
        self._ended: set[int] = set()
        self._returning: dict[int, float] = {}  # rank -> until when it is expected back
        self._bytes = 0
        self._records = 0
        self.capped = False

    @property
    def frontier(self) -> Position | None:
        """The last position closed; None before the first."""
        return None if self._frontier == _BEFORE_ALL else self._frontier

    @property
    def size(self) -> int:
        """Bytes that wait, about."""
        return self._bytes

    @property
    def waiting_records(self) -> int:
        """How many records wait."""
        return self._records

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
        piece = Piece(rank, batch, 0, batch.count, now, segment)
        late = piece.rows_up_to(self._frontier)
        self.hear(rank, now)
        self._ended.discard(rank)
        heapq.heappush(self._ahead[rank], (batch.end_sequence, piece.last))
        if late < batch.count:
            piece = replace(piece, start=late)
            self._pieces[rank].append(piece)
            self._bytes += piece.size
            self._records += piece.stop - piece.start
        return late

    def settle(self, rank: int, watermark: int) -> None:
        """Hear that no record of the rank below the sequence `watermark` is missing any more."""
        ahead = self._ahead[rank]
        while ahead and ahead[0][0] <= watermark:
            self._settled[rank] = max(self._settled[rank], heapq.heappop(ahead)[1])

    def hear(self, rank: int, now: float) -> None:
        """Note a sign of life."""
        self._heard_at[rank] = max(self._heard_at[rank], now)
        if self._returning.pop(rank, None) is not None:
            self._pieces = [
                [replace(piece, arrived_at=max(piece.arrived_at, now)) for piece in pieces] for pieces in self._pieces
            ]

    def expect(self, rank: int, now: float) -> None:
        """A rank is to come back: it was there before a restart, and has not said farewell."""
        self._returning[rank] = now + self._patience.return_seconds

    def expect_nobody(self) -> bool:
        """There is no room to wait for those that are to come back; tell whether anybody was."""
        waited, self._returning = bool(self._returning), {}
        return waited

    def follow_clock(self, seconds: float) -> None:
        """The clock has been set forward by so much (back, when negative): nothing has waited longer for that."""
        self._heard_at = [heard_at + seconds for heard_at in self._heard_at]
        self._returning = {rank: until + seconds for rank, until in self._returning.items()}
        self._pieces = [
            [replace(piece, arrived_at=piece.arrived_at + seconds) for piece in pieces] for pieces in self._pieces
        ]

    def end(self, rank: int) -> None:
        """Stop waiting for a rank that has said farewell (until it sends something after all)."""
        self._ended.add(rank)
        self._returning.pop(rank, None)

    def close(self, now: float, *, most: int | None = None) -> tuple[Closing, ...]:
        """Close what is complete or has waited long enough; one Closing per branch, in order.

        With `most`, at most so many steps: `capped` then tells whether more could have been closed.
        """
        self._returning = {rank: until for rank, until in self._returning.items() if now < until}
        limit = self._complete_up_to(now)
        overdue = now - self._patience.close_wait_seconds if not self._returning else -math.inf
        for pieces in self._pieces:
            for piece in pieces:
                if piece.arrived_at <= overdue and piece.last > limit:
                    limit = piece.last
        return self._close_up_to(self._capped(self._crowded_up_to(limit), most))

    def close_all(self, *, most: int | None = None) -> tuple[Closing, ...]:
        """Close everything that is here (see `close` for `most`), because no more is to come."""
        return self._close_up_to(self._capped(_BEHIND_ALL, most))

    def repeat(self, branch: int, steps: Int64, ranks_present: Bool) -> Closing:
        """Close exactly these steps with exactly these ranks, as it was done before a restart.

        Records of theirs that are not in it were late; so is everything else up to the last step.
        """
        limit = (branch, int(steps[-1]))
        taken = join([piece for piece in self._take(limit) if piece.batch.branch == branch])
        self._frontier = max(self._frontier, limit)
        return assemble(branch, steps, taken, self._world_size, ranks_present)

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
            there = self._heard_at[rank] >= silent_since or rank in self._returning
            if settled < limit and rank not in self._ended and there:
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

    def _capped(self, limit: Position, most: int | None) -> Position:
        """Lower the limit so that no more than `most` steps, of one branch, close."""
        self.capped = False
        waiting = [piece for pieces in self._pieces for piece in pieces if piece.first <= limit]
        if most is None or sum(piece.stop - piece.start for piece in waiting) <= most:
            return limit
        branch = min(piece.batch.branch for piece in waiting)
        first: dict[int, list[Piece]] = {}
        for piece in sorted(waiting, key=lambda each: each.first):
            own = first.setdefault(piece.rank, [])
            # The first steps of all are among the first of each rank; the others need not be looked at.
            if piece.batch.branch == branch and sum(each.stop - each.start for each in own) < most:
                own.append(piece)
        steps = union_of_steps([piece for own in first.values() for piece in own])
        lowered = min(limit, (branch, int(steps[min(most, len(steps)) - 1])))
        self.capped = lowered < limit
        return lowered

    def _close_up_to(self, limit: Position) -> tuple[Closing, ...]:
        if limit <= self._frontier:
            return ()
        taken = self._take(limit)
        if not taken:
            return ()
        self._frontier = max(piece.last for piece in taken)
        closings = []
        for branch in sorted({piece.batch.branch for piece in taken}):
            pieces = join([piece for piece in taken if piece.batch.branch == branch])
            closings.append(assemble(branch, union_of_steps(pieces), pieces, self._world_size))
        return tuple(closings)

    def _take(self, limit: Position) -> list[Piece]:
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
        self._records -= sum(piece.stop - piece.start for piece in taken)
        return taken
