"""Which rows are to become one: neighbours of one place, in tiers, so that a value is encoded two or three times. Pure.

    plain rows --512 records--> dense, exact --4,096 records, or the run is over--> dense, settled

While a run goes, its newest records stay as exact as they came: alerts about them may still be raised.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from seismograd_server.store.compacting import StoredRow

# Plain bytes of a dense row, about: between 1.4 for exact norms and 2.6 for rounded ones.
_EXPANSION = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large rows become, and when.

    Attributes:
        full_records: of a full row. Beyond it the codec saves nothing more, and whoever wants one step has to decode
            all of them.
        full_bytes: likewise for wide models, as plain bytes: a piece of work of some 30 ms, and less than a megabyte on
            the disk.
        tail_records: worth a dense row of its own while a run goes; what is plain stays below a few hundred kilobytes a
            stream.
        most_rows: merged at once: deleting that many takes the writer's turn for some milliseconds.
        lookback_records: that stay exact behind the newest one that was judged. Detectors look back over excursions and
            trends of a few hundred steps when they say since when something has been wrong.
    """

    full_records: int = 4096
    full_bytes: int = 2 * 2**20
    tail_records: int = 512
    most_rows: int = 512
    lookback_records: int = 1024


@dataclass(frozen=True, slots=True)
class Group:
    """Rows to put into one, by id; `settle` = for good, so that norms may be rounded."""

    rows: tuple[StoredRow, ...]
    settle: bool


@dataclass(slots=True)
class _Line:
    """The rows of one place, as they come by."""

    seen: int = 0  # records
    pending: list[StoredRow] = field(default_factory=list)
    records: int = 0  # of the pending ones
    size: int = 0
    full: deque[tuple[int, list[StoredRow]]] = field(default_factory=deque)  # (seen when it was full, rows)


class Tiers:
    """Takes rows by rising id and gives groups; `finish` gives what is left."""

    def __init__(self, sizes: Sizes, *, at_rest: bool) -> None:
        """`at_rest`: the run is over, and all of it was judged."""
        self._sizes = sizes
        self._at_rest = at_rest
        self._lines: dict[Hashable, _Line] = {}

    def add(self, rows: Sequence[StoredRow]) -> list[Group]:
        """Take some rows, and give the groups that are full and old enough."""
        sizes, ready = self._sizes, list[Group]()
        for row in rows:
            line = self._lines.setdefault(row.place, _Line())
            if self._is_done(row):
                _close(line)
            else:
                size = _plain_size(row)
                if line.pending and (
                    line.records + row.records > sizes.full_records
                    or line.size + size > sizes.full_bytes
                    or len(line.pending) == sizes.most_rows
                ):
                    _close(line)
                line.pending.append(row)
                line.records += row.records
                line.size += size
            line.seen += row.records
            while line.full and (self._at_rest or line.seen - line.full[0][0] >= sizes.lookback_records):
                ready += _settled(line.full.popleft()[1])
        return ready

    def finish(self) -> list[Group]:
        """The groups of what is left over, when there are no more rows."""
        sizes, ready = self._sizes, list[Group]()
        for line in self._lines.values():
            if self._at_rest:
                _close(line)
                while line.full:
                    ready += _settled(line.full.popleft()[1])
            elif tail := [row for row in line.pending if not row.dense]:
                records, size = sum(row.records for row in tail), sum(row.size for row in tail)
                if records >= sizes.tail_records or size >= sizes.full_bytes // 2 or len(tail) == sizes.most_rows:
                    ready.append(Group(tuple(tail), settle=False))
        return ready

    def _is_done(self, row: StoredRow) -> bool:
        sizes = self._sizes
        return row.settled and (row.records >= sizes.full_records // 2 or _plain_size(row) >= sizes.full_bytes // 2)


def _close(line: _Line) -> None:
    if line.pending:
        line.full.append((line.seen, line.pending))
        line.pending, line.records, line.size = [], 0, 0


def _settled(rows: Sequence[StoredRow]) -> list[Group]:
    """A group, unless it is a single row with which nothing more is to be done."""
    return [Group(tuple(rows), settle=True)] if len(rows) > 1 or not rows[0].settled else []


def _plain_size(row: StoredRow) -> int:
    return row.size * _EXPANSION if row.dense else row.size
