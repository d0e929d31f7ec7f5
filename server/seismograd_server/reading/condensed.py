"""A run of any length in a bounded number of rows: its steps where something happened, and samples between. Blocks.

    buckets of the whole run -> which of them tell something -> their steps, each as it was closed

What must be exact about all steps (how many, how many of them broken) is counted from the buckets: `totals.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from seismograd_server.model import TALLIES, Bool, Int64, Run, Summary, SummaryKind
from seismograd_server.reading.buckets import SERIES_NAMES
from seismograd_server.reading.history import Series
from seismograd_server.reading.series import joined, read_series
from seismograd_server.reading.stored import Asked
from seismograd_server.reading.summaries import read_summary
from seismograd_server.store.database import Database

Places = Callable[[Series], Iterable[int]]
"""Steps of which the neighbours must be known: where an incident began, where it ended."""

# A run of no more steps is read step by step, in a tenth of a second; of a longer one about as many are.
MOST_STEPS = 65_536
# As many steps as a block has after merging: to read a part of one costs as much as to read it.
_BUCKET_STEPS = 1024
# Steps at the beginning and at the end that are always there: what is usual at first, and how it ended.
_ENDS = 2048
# Steps before and behind what is asked for: a level before it, and as many as a report ever shows.
_LEAD, _TRAIL = 1024, 2048
# Buckets looked into for the longest gap and the longest pause within a bucket.
_SUSPECTS = 4
# How often places may move when their neighbours become known; each time the samples around them are closer.
_ROUNDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Condensed:
    """Steps of a run.

    Attributes:
        series: rising; of a run of no more than 65,536 steps all of them.
        whole: buckets of all steps; None = they all are in `series`.
        removed: whether single steps have been looked for that there are no longer; see `maintenance/downsampling.py`.
    """

    series: Series
    whole: Summary | None = None
    removed: bool = False


def read_condensed(
    database: Database,
    run: Run,
    optimizer: int,
    windows: Sequence[tuple[int, int]] = (),
    places: Places = lambda series: (),  # noqa: ARG005 (none)
) -> Condensed:
    """Read a run: every step of the windows, of its ends, and around the places that are found in what has been read.

    Every step that is there is one of the run's, whole; what was read grows until the places stand still.

    Raises:
        StorageError: the store failed.
    """
    every = read_series(database, run.run_id, optimizer) if run.closed_steps <= MOST_STEPS else None
    if every is not None and every.count == run.closed_steps:
        return Condensed(every)
    whole = read_summary(database, Asked(run.run_id, optimizer, SummaryKind.SERIES), _BUCKET_STEPS)
    if every is not None or whole is None or int(whole.steps.sum()) <= MOST_STEPS:
        found = read_series(database, run.run_id, optimizer) if every is None else every
        # A rewind has overwritten steps, or there are fewer by now than have been summarised.
        removed = whole is not None and found.count < int(whole.steps.sum())
        return Condensed(found, whole if removed else None, removed)
    wanted = _telling(whole, windows)
    parts: dict[int, Series] = {}
    for _ in range(_ROUNDS):
        for first, last in _stretches(whole, np.setdiff1d(np.flatnonzero(wanted), list(parts))):
            read = read_series(database, run.run_id, optimizer, first, last)
            parts.update(_by_bucket(whole, read, first, last))
        series = joined([parts[place] for place in sorted(parts) if parts[place].count])
        missing = _around(whole, wanted, places(series)) & ~wanted
        if not missing.any():
            break
        wanted |= missing
    there = np.array([parts[place].count for place in sorted(parts)])
    return Condensed(series, whole, bool((there < whole.steps[sorted(parts)]).any()))


def _telling(whole: Summary, windows: Sequence[tuple[int, int]]) -> Bool:
    """[k]: the buckets that are read: samples, the ends, the windows, and where something stands out."""
    chosen = np.zeros(whole.count, np.bool_)
    chosen[:: -(-int(whole.steps.sum()) // MOST_STEPS)] = True
    chosen[: int(np.searchsorted(np.cumsum(whole.steps), _ENDS)) + 1] = True
    chosen[whole.count - 1 - int(np.searchsorted(np.cumsum(whole.steps[::-1]), _ENDS)) :] = True
    columns = {name: place for place, name in enumerate(SERIES_NAMES)}
    for first, last in windows:
        chosen |= (whole.last_steps >= first - _LEAD) & (whole.first_steps <= min(last, first + _TRAIL) + _LEAD)
        chosen |= _peaks(whole, first)
    chosen |= _peaks(whole, int(whole.first_steps[0]))
    ranks, times = columns["ranks_present"], columns["time"]
    for marked in (
        whole.tallies[:, TALLIES.index("nonfinite_steps")] > 0,
        whole.nonfinite[:, columns["loss"]] > 0,
        whole.minimum[:, ranks] < float(np.nanmax(whole.maximum[:, ranks])),
    ):
        chosen[np.flatnonzero(marked)[:1]] = True
    holes = whole.last_steps - whole.first_steps + 1 - whole.steps
    seconds = np.asarray(whole.maximum[:, times] - whole.minimum[:, times], np.float64)
    for suspicion in (holes.astype(np.float64), seconds):
        chosen[np.argsort(-np.nan_to_num(suspicion), kind="stable")[:_SUSPECTS]] = True
    return chosen


def _around(whole: Summary, read: Bool, places: Iterable[int]) -> Bool:
    """[k]: the buckets between each place and the nearest that has been read, on both of its sides, and its peaks."""
    near = np.zeros(whole.count, np.bool_)
    known = np.flatnonzero(read)
    for step in places:
        here = int(np.searchsorted(whole.first_steps, step, side="right")) - 1
        before, behind = known[known < here], known[known > here]
        near |= _peaks(whole, step)
        near[int(before[-1]) + 1 if len(before) else 0 : int(behind[0]) if len(behind) else whole.count] = True
    return near


def _stretches(whole: Summary, buckets: Int64) -> Iterator[tuple[int, int]]:
    """First and last steps of runs of neighbouring buckets, which are read together."""
    for together in np.split(buckets, np.flatnonzero(np.diff(buckets) > 1) + 1):
        if len(together):
            yield int(whole.first_steps[together[0]]), int(whole.last_steps[together[-1]])


def _by_bucket(whole: Summary, read: Series, first: int, last: int) -> Iterator[tuple[int, Series]]:
    """What was read of [first, last], bucket by bucket; one whose steps are gone is empty."""
    chosen = np.flatnonzero((whole.first_steps >= first) & (whole.last_steps <= last))
    starts = np.searchsorted(read.steps, whole.first_steps[chosen])
    ends = np.searchsorted(read.steps, whole.last_steps[chosen], side="right")
    for place, start, end in zip(chosen.tolist(), starts.tolist(), ends.tolist(), strict=True):
        rows = {name: getattr(read, name)[start:end] for name in Series.__dataclass_fields__}
        yield place, Series(**rows)


def _peaks(whole: Summary, step: int) -> Bool:
    """[k]: the bucket with the largest norm before that of a step, and that with the largest behind it."""
    norm = whole.maximum[:, SERIES_NAMES.index("grad_norm")]
    known = np.where(np.isnan(norm), -np.inf, norm)
    found = np.zeros(whole.count, np.bool_)
    for side in (whole.last_steps < step, whole.first_steps >= step):
        found[int(np.argmax(np.where(side, known, -np.inf)))] = True
    return found
