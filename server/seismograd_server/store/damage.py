"""What readers have found damaged: each row once, so that it is told, counted and shown wherever it is missing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from seismograd_server.errors import StorageDamageError
from seismograd_server.model import joined_ranges

_log = structlog.get_logger(__name__)
# Rows that are remembered. A disk that has spoilt more is no longer looked at row by row, but replaced.
_MOST_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class DamagedRow:
    """A row whose payload cannot be read; what it held is missing from whatever is read of the run.

    Attributes:
        run_id: whose it is.
        what: "segment" (records of one rank), "closed_block" or "summary".
        first_step: the steps that it held, by its own columns,
        last_step: both ends included.
        reason: which row, and what is wrong with it.
    """

    run_id: int
    what: str
    first_step: int
    last_step: int
    reason: str


class DamageLog:
    """Of one opened database. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[DamagedRow, None] = {}
        self._listener: Callable[[DamagedRow], None] = lambda row: None  # noqa: ARG005 (nobody to tell)

    def listen(self, listener: Callable[[DamagedRow], None]) -> None:
        """From now on tell of every row that is found, once."""
        self._listener = listener

    def noting(self, run_id: int) -> Callable[[StorageDamageError], None]:
        """What a reader of this run is to be given as `on_damage`: it notes the row, and the reader goes on."""
        return lambda error: self.note(run_id, error)

    def note(self, run_id: int, error: StorageDamageError) -> None:
        """Note that a row of a run cannot be read."""
        row = DamagedRow(run_id, error.what, error.first_step, error.last_step, str(error))
        with self._lock:
            if row in self._rows or len(self._rows) >= _MOST_ROWS:
                return
            self._rows[row] = None
        _log.error("stored data is damaged: it is left out", run_id=run_id, what=row.what, reason=row.reason)
        self._listener(row)

    def of_run(self, run_id: int, first_step: int | None = None, last_step: int | None = None) -> list[DamagedRow]:
        """What has been found of a run that touches [first_step, last_step], by step."""
        with self._lock:
            rows = [row for row in self._rows if row.run_id == run_id]
        first = float("-inf") if first_step is None else first_step
        last = float("inf") if last_step is None else last_step
        touching = [row for row in rows if row.last_step >= first and row.first_step <= last]
        return sorted(touching, key=lambda row: (row.first_step, row.last_step, row.what))


def damaged_steps(rows: Iterable[DamagedRow]) -> list[tuple[int, int]]:
    """The ranges of steps that the rows cover together, rising and apart from each other."""
    return joined_ranges((row.first_step, row.last_step) for row in rows)
