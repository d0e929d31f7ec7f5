"""Curves over a stretch of steps: thinned series with a rolling baseline. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seismograd_server.display.thinning import kept_points, marked_buckets
from seismograd_server.model import Float64, Int64
from seismograd_server.reading.history import Series

# Buckets across the page; each may keep four points, and more would not be seen at its width.
_BUCKETS = 150
# Marks closer than this many to the page's width run into each other.
_MARKS = 120
# The baseline drawn is the median of so many earlier healthy norms.
_BASELINE_STEPS = 64
# A level needs some norms before it is one.
_BASELINE_LEAST = 8
# Points at which the baseline is computed; it is smooth, so lines between them do.
_BASELINE_POINTS = 160


@dataclass(frozen=True, slots=True, eq=False)
class CurveData:
    """Curves over a stretch of steps, thinned for drawing with every extreme kept; m points."""

    steps: Int64  # [m]
    norm: Float64  # [m]; NaN = not known
    baseline: Float64  # [m]; rolling median of earlier healthy norms; NaN = none yet
    loss: Float64  # [m]; NaN = not known or not finite
    learning_rate: Float64  # [m]; NaN = not known
    clip_threshold: Float64  # [m]; NaN = not clipped
    broken_steps: Int64  # steps with non-finite gradients that nobody skipped, thinned
    broken_loss_steps: Int64  # steps with a non-finite loss, thinned
    skipped_steps: Int64  # steps that the loss scaler skipped, thinned
    broken_count: int  # how many there are, not thinned
    first_step: int
    last_step: int


def curve_data(series: Series, first_step: int, last_step: int, onset: int | None) -> CurveData | None:
    """Curves of the steps in [first_step, last_step]; None when there are none."""
    rows = np.flatnonzero((series.steps >= first_step) & (series.steps <= last_step))
    if not len(rows):
        return None
    start, end = int(rows[0]), int(rows[-1]) + 1
    # Where no element was finite there is no finite part: its norm of 0 is no level, and is not drawn as one.
    nothing_finite = series.broken[start:end] & (series.norm[start:end] == 0)
    norm = np.where(nothing_finite, np.nan, series.norm[start:end])
    loss = np.where(series.loss_known[start:end], series.loss[start:end], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log(norm)
    shown = np.union1d(kept_points(level, _BUCKETS), kept_points(loss, _BUCKETS))
    steps = series.steps[start:end]
    broken = series.broken[start:end]
    broken_loss = series.loss_known[start:end] & ~np.isfinite(series.loss[start:end])
    return CurveData(
        steps=steps[shown],
        norm=norm[shown],
        baseline=_baseline(series, start + shown, onset),
        loss=np.where(np.isfinite(loss), loss, np.nan)[shown],
        learning_rate=series.learning_rate[start:end][shown],
        clip_threshold=series.clip_threshold[start:end][shown],
        broken_steps=steps[marked_buckets(broken, _MARKS)],
        broken_loss_steps=steps[marked_buckets(broken_loss, _MARKS)],
        skipped_steps=steps[marked_buckets(series.skipped[start:end], _MARKS)],
        broken_count=int(broken.sum()),
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
    )


def _baseline(series: Series, rows: Int64, onset: int | None) -> Float64:
    """Median of the 64 healthy norms before each row; from the onset on it stays where it was."""
    calm = np.isfinite(series.norm) & (series.norm > 0) & ~series.broken
    if onset is not None:
        calm &= series.steps < onset
    healthy = np.flatnonzero(calm)
    values = series.norm[healthy]
    if len(values) < _BASELINE_LEAST:
        return np.full(len(rows), np.nan)
    probes = np.unique(np.linspace(rows[0], rows[-1], _BASELINE_POINTS).astype(np.int64))
    levels = np.full(len(probes), np.nan)
    for place, row in enumerate(probes.tolist()):
        end = int(np.searchsorted(healthy, row))
        if end >= _BASELINE_LEAST:
            levels[place] = np.median(values[max(0, end - _BASELINE_STEPS) : end])
    known = np.isfinite(levels)
    if not known.any():
        return np.full(len(rows), np.nan)
    drawn = np.interp(rows, probes[known], levels[known])
    return np.where(rows >= probes[known][0], drawn, np.nan)
