"""The series of the runs that people look at, continued instead of read again. Blocks.

A page of a live run loads itself every few seconds, and all but the last of its steps are the same each time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from seismograd_server.reading.history import Series
from seismograd_server.reading.series import read_series
from seismograd_server.store.database import Database

# Steps kept over all runs, at some 120 bytes each: 60 MB at most. A longer run is read anew for every page.
_MOST_STEPS = 2**19


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    attempt: int
    branch: int
    series: Series


class RecentSeries:
    """Gives the series of a run as `read_series` would. From any thread."""

    def __init__(self, database: Database, most_steps: int = _MOST_STEPS) -> None:
        self._database = database
        self._most_steps = most_steps
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], _Kept] = OrderedDict()  # the latest looked at last

    def read(self, run_id: int, optimizer: int) -> Series:
        """The whole series of one optimizer of a run. Raises StorageError."""
        key = run_id, optimizer
        with self._database.read() as transaction:
            last = transaction.steps.last(run_id, optimizer)
        with self._lock:
            known = self._kept.get(key)
        if last is None:
            return read_series(self._database, run_id, optimizer)
        attempt, branch, step = last
        # A later attempt or branch hides steps of those before it: only within one do steps merely follow.
        if known is not None and (known.attempt, known.branch) == (attempt, branch):
            series = self._continued(known.series, run_id, optimizer, step)
        else:
            series = read_series(self._database, run_id, optimizer)
        self._keep(key, _Kept(attempt, branch, series))
        return series

    def _continued(self, series: Series, run_id: int, optimizer: int, last_step: int) -> Series:
        end = int(series.steps[-1])
        if last_step <= end:
            return series
        more = read_series(self._database, run_id, optimizer, first_step=end + 1)
        return Series(
            **{
                name: np.concatenate([getattr(series, name), getattr(more, name)])
                for name in Series.__dataclass_fields__
            }
        )

    def _keep(self, key: tuple[int, int], kept: _Kept) -> None:
        with self._lock:
            self._kept.pop(key, None)
            if kept.series.count:
                self._kept[key] = kept
            while self._kept and sum(each.series.count for each in self._kept.values()) > self._most_steps:
                self._kept.popitem(last=False)
