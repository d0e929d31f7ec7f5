"""Curves over a stretch of steps: thinned series with a rolling baseline. Pure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from seismograd_server.display.thinning import kept_points, marked_buckets
from seismograd_server.model import TALLIES, Float64, Int64, Summary
from seismograd_server.reading.history import Series

# Buckets across the page; each may keep four points, and more would not be seen at its width.
_BUCKETS = 150
# Marks closer than this many to the page's width run into each other.
_MARKS = 120
# The baseline drawn is the median of so many earlier healthy norms.
_BASELINE_STEPS = 64
# A level needs some norms before it is one.
_BASELINE_LEAST = 8
# Where only buckets are known, it is the median of the means of so many.
_BASELINE_BUCKETS = 8
# Points at which the baseline is computed; it is smooth, so lines between them do.
_BASELINE_POINTS = 160


@dataclass(frozen=True, slots=True)
class TableRow:
    """The curves over some steps, in words; None = not known there."""

    first_step: int
    last_step: int
    norm_low: float | None
    norm_high: float | None
    loss_low: float | None
    loss_high: float | None
    broken: bool  # NaN or Inf in the gradients


@dataclass(frozen=True, slots=True, eq=False)
class CurveData:
    """Curves over a stretch of steps, thinned for drawing with every extreme kept; m points."""

    steps: Int64  # [m]
    norm: Float64  # [m]; NaN = not known
    baseline: Float64  # [m]; rolling median of earlier healthy norms; NaN = none yet
    loss: Float64  # [m]; NaN = not known or not finite
    learning_rate: Float64  # [m]; NaN = not known
    loss_scale: Float64  # [m]; NaN = no scaler
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
        loss_scale=series.loss_scale[start:end][shown],
        clip_threshold=series.clip_threshold[start:end][shown],
        broken_steps=steps[marked_buckets(broken, _MARKS)],
        broken_loss_steps=steps[marked_buckets(broken_loss, _MARKS)],
        skipped_steps=steps[marked_buckets(series.skipped[start:end], _MARKS)],
        broken_count=int(broken.sum()),
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
    )


def curve_table(data: CurveData, rows: int = 20) -> list[TableRow]:
    """The curves in at most so many rows, for those who cannot see them, or want the numbers."""
    edges = np.unique(np.linspace(0, len(data.steps), min(rows, len(data.steps)) + 1).astype(np.int64)).tolist()
    found = []
    for start, end in itertools.pairwise(edges):
        first = data.first_step if start == 0 else int(data.steps[start])
        last = data.last_step if end == len(data.steps) else max(first, int(data.steps[end]) - 1)
        broken = bool(((data.broken_steps >= first) & (data.broken_steps <= last)).any())
        norm, loss = _span(data.norm[start:end]), _span(data.loss[start:end])
        found.append(TableRow(first, last, *norm, *loss, broken))
    return found


def _span(values: Float64) -> tuple[float | None, float | None]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (None, None)


def curves_of_buckets(summary: Summary, onset: int | None) -> CurveData:
    """Curves of a range too long for single steps: at each bucket its smallest and its largest value."""
    columns = {name: place for place, name in enumerate(summary.names)}
    middle = (summary.first_steps + summary.last_steps) // 2
    tallies = {name: summary.tallies[:, place] for place, name in enumerate(TALLIES)}
    broken = tallies["nonfinite_steps"] > tallies["skipped_by_scaler"]

    def both(name: str) -> Float64:
        place = columns[name]
        values = np.stack((summary.minimum[:, place], summary.maximum[:, place]), axis=1)
        # Up in one bucket and down in the next: the line runs along the edges of what it fills.
        values[1::2] = values[1::2, ::-1]
        values = values.reshape(-1)
        return np.where(np.isfinite(values), values, np.nan)

    norm = both("grad_norm")

    return CurveData(
        steps=np.repeat(middle, 2),
        # As above: where no element was finite there is no level.
        norm=np.where(np.repeat(broken, 2) & (norm == 0), np.nan, norm),
        baseline=np.repeat(_bucket_baseline(summary, columns["grad_norm"], onset), 2),
        loss=both("loss"),
        learning_rate=both("learning_rate"),
        loss_scale=both("loss_scale"),
        clip_threshold=both("clip_threshold"),
        broken_steps=middle[marked_buckets(broken, _MARKS)],
        broken_loss_steps=middle[marked_buckets(summary.nonfinite[:, columns["loss"]] > 0, _MARKS)],
        skipped_steps=middle[marked_buckets(tallies["skipped_by_scaler"] > 0, _MARKS)],
        broken_count=int(np.maximum(tallies["nonfinite_steps"] - tallies["skipped_by_scaler"], 0).sum()),
        first_step=int(summary.first_steps[0]),
        last_step=int(summary.last_steps[-1]),
    )


def _bucket_baseline(summary: Summary, place: int, onset: int | None) -> Float64:
    """Median of the means of the eight buckets before each; from the onset on it stays where it was."""
    means = summary.mean[:, place].astype(np.float64)
    if onset is not None:
        means = np.where(summary.last_steps < onset, means, np.nan)
    before = np.full((summary.count, _BASELINE_BUCKETS), np.nan)
    for back in range(1, min(_BASELINE_BUCKETS, summary.count - 1) + 1):
        before[back:, back - 1] = means[:-back]
    known = np.isfinite(before).any(axis=1)
    levels = np.full(summary.count, np.nan)
    levels[known] = 2.0 * np.nanmedian(before[known] / 2.0, axis=1)  # of an even number it is half the sum of two
    last = np.maximum.accumulate(np.where(known, np.arange(summary.count), -1))
    return np.where(last >= 0, levels[np.maximum(last, 0)], np.nan)


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
            levels[place] = 2.0 * np.median(values[max(0, end - _BASELINE_STEPS) : end] / 2.0)  # as above
    known = np.isfinite(levels)
    if not known.any():
        return np.full(len(rows), np.nan)
    drawn = np.interp(rows, probes[known], levels[known])
    return np.where(rows >= probes[known][0], drawn, np.nan)
