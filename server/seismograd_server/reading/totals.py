"""What is said of all steps of a run: counted step by step where each was read, and from buckets where not. Pure.

A bucket knows how many steps it has, which are its first and its last, and how many of them were broken: so these
counts are exact however long the run is. Within a bucket, the longest gap and the longest pause are looked for where
they can be, which `condensed.py` has read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from seismograd_server.model import TALLIES, Bool, Float64, Int64, Summary
from seismograd_server.reading.buckets import SERIES_NAMES
from seismograd_server.reading.history import Series


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over all closed steps of a run; everything is 0 for one that has none.

    Attributes:
        steps: that are there.
        broken: with non-finite gradient elements that no loss scaler skipped.
        unknown_norms: whose norm is not known.
        spacing: the usual distance between neighbours; 1 = every step is recorded, 0 = there are no two.
        missing: numbers between the first step and the last one under which there is none.
        longest_gap, longest_gap_after: the longest stretch of them, and the step before it; of a long run with a step
            only every so many numbers, one of a few steps within a bucket may not be seen (it is in `missing`).
        partial: that closed without all ranks.
        partial_at_least: whether there may be more of these.
        first_partial: the first of them; -1 = there is none.
        usual_pause, longest_pause, longest_pause_after: seconds between neighbours, and the step before the longest.
    """

    steps: int = 0
    broken: int = 0
    unknown_norms: int = 0
    spacing: int = 0
    missing: int = 0
    longest_gap: int = 0
    longest_gap_after: int = 0
    partial: int = 0
    partial_at_least: bool = False
    first_partial: int = -1
    usual_pause: float = 0.0
    longest_pause: float = 0.0
    longest_pause_after: int = 0


def totals_of(series: Series, world_size: int, whole: Summary | None = None) -> Totals:
    """Count.

    Args:
        series: every step of the run; with `whole` some of them.
        world_size: of the run.
        whole: buckets of all steps.
    """
    if not series.count:
        return Totals()
    read = None if whole is None else _read_whole(series, whole)
    gaps, pauses, after = _between(series, whole, read)
    gap, pause = int(np.argmax(gaps)) if len(gaps) else -1, int(np.argmax(pauses)) if len(pauses) else -1
    present = series.ranks_present < world_size
    counted = _counts(series, present)
    if whole is not None and read is not None:
        counted = _counts_of_buckets(series, present, world_size, whole, read)
    return Totals(
        **counted,
        spacing=int(np.median(gaps)) + 1 if len(gaps) else 0,
        longest_gap=int(gaps[gap]) if len(gaps) else 0,
        longest_gap_after=int(after[gap]) if len(gaps) else 0,
        first_partial=int(series.steps[np.argmax(present)]) if present.any() else -1,
        usual_pause=float(np.median(pauses)) if len(pauses) else 0.0,
        longest_pause=float(pauses[pause]) if len(pauses) else 0.0,
        longest_pause_after=int(after[pause]) if len(pauses) else 0,
    )


def _counts(series: Series, partial: Bool) -> dict[str, Any]:
    return {
        "steps": series.count,
        "broken": int(series.broken.sum()),
        "unknown_norms": int((~np.isfinite(series.norm)).sum()),
        "missing": int(series.steps[-1] - series.steps[0]) + 1 - series.count,
        "partial": int(partial.sum()),
    }


def _counts_of_buckets(series: Series, partial: Bool, world_size: int, whole: Summary, read: Bool) -> dict[str, Any]:
    tallies = {name: whole.tallies[:, place] for place, name in enumerate(TALLIES)}
    steps = int(whole.steps.sum())
    present = SERIES_NAMES.index("ranks_present")
    counted = np.bincount(_bucket_of(series, whole), weights=partial, minlength=whole.count).astype(np.int64)
    # Of a bucket that was not read it is only known that some step lacked a rank, or that every one did.
    least = np.where(whole.maximum[:, present] < world_size, whole.steps, whole.minimum[:, present] < world_size)
    at_least = np.where(read, counted, least.astype(np.int64))
    return {
        "steps": steps,
        "broken": int(np.maximum(tallies["nonfinite_steps"] - tallies["skipped_by_scaler"], 0).sum()),
        "unknown_norms": steps - int(whole.known[:, SERIES_NAMES.index("grad_norm")].sum()),
        "missing": int(whole.last_steps[-1] - whole.first_steps[0]) + 1 - steps,
        "partial": int(at_least.sum()),
        "partial_at_least": bool(((at_least < whole.steps) & (at_least > 0) & ~read).any()),
    }


def _bucket_of(series: Series, whole: Summary) -> Int64:
    return np.searchsorted(whole.first_steps, series.steps, side="right") - 1


def _read_whole(series: Series, whole: Summary) -> Bool:
    """[k]: whether every step of a bucket is in the series."""
    return np.asarray(np.bincount(_bucket_of(series, whole), minlength=whole.count) == whole.steps, np.bool_)


def _between(series: Series, whole: Summary | None, read: Bool | None) -> tuple[Int64, Float64, Int64]:
    """Numbers left out and seconds passed between neighbours, and the first of the two; of those that are known."""
    gaps, pauses, after = np.diff(series.steps) - 1, np.diff(series.times), series.steps[:-1]
    if whole is None or read is None:
        return gaps, pauses, after
    # Rows of one bucket are neighbours when all of it is there; from one to the next their ends tell.
    buckets = _bucket_of(series, whole)
    inside = (buckets[1:] == buckets[:-1]) & read[buckets[1:]]
    time = SERIES_NAMES.index("time")
    across = whole.first_steps[1:] - whole.last_steps[:-1] - 1
    waits = whole.minimum[1:, time].astype(np.float64) - whole.maximum[:-1, time].astype(np.float64)
    return (
        np.concatenate((gaps[inside], across)),
        np.concatenate((pauses[inside], waits)),
        np.concatenate((after[inside], whole.last_steps[:-1])),
    )
