"""Steps to buckets, and buckets to larger ones: the arithmetic of summaries. Pure.

Everything kept of a bucket adds up: whatever its steps were cut into, the parts merge to the same numbers (a mean, to
its last bits).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from seismograd_server.model import Bool, ClosedBlock, Float32, Float64, Int64, RecordFlag, Summary
from seismograd_server.store.blocks import StepChunk

# What the run's own series are summarised under, in this order.
SERIES_NAMES = (
    "time",
    "grad_norm",
    "loss",
    "learning_rate",
    "loss_scale",
    "clip_threshold",
    "clip_coefficient",
    "step_seconds",
    "rank_spread",
    "ranks_present",
)
# Elements of one step that count at most, so that no sum over a run leaves the range of int64; no model has as many.
_MOST_ELEMENTS = 2**40


def series_summary(chunk: StepChunk, size: int = 1) -> Summary:
    """The run's own series of some steps, in buckets of `size`."""
    columns = [
        chunk.times,
        chunk.global_norm,
        chunk.loss,
        chunk.learning_rate,
        chunk.loss_scale,
        chunk.clip_threshold,
        chunk.clip_coefficient,
        chunk.step_seconds,
        _rank_spread(chunk.rank_norm),
        chunk.ranks_present.sum(axis=1).astype(np.float64),
    ]
    values = np.stack(columns, axis=1)
    present = ~np.isnan(values)
    present[:, SERIES_NAMES.index("loss")] = chunk.loss_known
    finite = np.isfinite(values) & present
    strange = present & ~finite
    elements = np.minimum(chunk.nonfinite, _MOST_ELEMENTS).sum(axis=1)
    flags = [chunk.flags & int(flag) != 0 for flag in _COUNTED_FLAGS]
    tallies = np.stack([elements, elements > 0, *flags], axis=1).astype(np.int64)
    return _bucketed(chunk.steps, SERIES_NAMES, values, size, finite=finite, nonfinite=strange, tallies=tallies)


_COUNTED_FLAGS = (RecordFlag.SKIPPED_BY_SCALER, RecordFlag.SKIPPED_BY_USER, RecordFlag.CLIPPED)


def layer_summary(block: ClosedBlock, size: int = 1) -> Summary:
    """The gradient norms of every layer in some steps, in buckets of `size`."""
    values = block.layer_norms
    nonfinite = np.isinf(values)
    for entry in block.nonfinite_layers:
        if entry.layer >= 0:
            nonfinite[entry.row, entry.layer] = True
    tallies = np.zeros((block.count, 0), np.int64)
    names, finite = block.layout.names, np.isfinite(values)
    return _bucketed(block.steps, names, values, size, finite=finite, nonfinite=nonfinite, tallies=tallies)


def merged(parts: Sequence[Summary], size: int) -> Summary | None:
    """Summaries of different steps in buckets of `size`, a multiple of theirs; None = there is not one bucket.

    A column that a part does not have is not known in it.
    """
    parts = [part for part in parts if part.count]
    if not parts:
        return None
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    aligned = [part if part.names == names else _under(part, names) for part in parts]
    columns = {name: np.concatenate([getattr(part, name) for part in aligned]) for name in _COLUMNS}
    buckets = np.concatenate([part.buckets * part.size // size for part in aligned])
    order = np.argsort(buckets, kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    return _reduced(buckets[order], names, columns, size)


def between(summary: Summary, first_bucket: int, end_bucket: int) -> Summary:
    """The buckets from one on to another, itself excluded."""
    low, high = np.searchsorted(summary.buckets, (first_bucket, end_bucket)).tolist()
    return _rows(summary, slice(low, high))


def shortened(summary: Summary, first_step: int, last_step: int) -> Summary:
    """What may be said of the steps in [first_step, last_step] alone: extremes and means of whole buckets.

    Counts are at most the number of steps that the range has room for, which is exact where every number has a step.
    """
    firsts, lasts = np.maximum(summary.first_steps, first_step), np.minimum(summary.last_steps, last_step)
    steps = np.minimum(summary.steps, lasts - firsts + 1)
    tallies = summary.tallies.copy()
    tallies[:, 1:] = np.minimum(tallies[:, 1:], steps[:, None])  # the first one is of elements, not of steps
    cut = replace(
        summary,
        first_steps=firsts,
        last_steps=lasts,
        steps=steps,
        known=np.minimum(summary.known, steps[:, None]),
        nonfinite=np.minimum(summary.nonfinite, steps[:, None]),
        tallies=tallies,
    )
    (inside,) = np.nonzero(steps > 0)
    return _rows(cut, slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0))


def cut_into_rows(summary: Summary, row_steps: int) -> Iterator[Summary]:
    """The parts of a summary that lie within one and the same aligned range of `row_steps` steps each."""
    rows = summary.buckets // (row_steps // summary.size)
    starts = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1])))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), summary.count], strict=True):
        yield _rows(summary, slice(start, end))


_COLUMNS = ("first_steps", "last_steps", "steps", "minimum", "maximum", "mean", "known", "nonfinite", "tallies")


def _rows(summary: Summary, chosen: slice) -> Summary:
    return replace(summary, **{name: getattr(summary, name)[chosen] for name in ("buckets", *_COLUMNS)})


def _bucketed(
    steps: Int64,
    names: tuple[str, ...],
    values: Float64 | Float32,
    size: int,
    *,
    finite: Bool,
    nonfinite: Bool,
    tallies: Int64,
) -> Summary:
    columns = {
        "first_steps": steps,
        "last_steps": steps,
        "steps": np.ones(len(steps), np.int64),
        "minimum": values,
        "maximum": values,
        "mean": values,
        "known": finite.astype(np.int64),
        "nonfinite": nonfinite.astype(np.int64),
        "tallies": tallies,
    }
    return _reduced(steps // size, names, columns, size)


def _reduced(buckets: Int64, names: tuple[str, ...], columns: dict[str, npt.NDArray[Any]], size: int) -> Summary:
    """One row for every run of equal buckets, which rise."""
    starts = np.flatnonzero(np.concatenate(([True], buckets[1:] != buckets[:-1])))
    known = np.add.reduceat(columns["known"], starts, axis=0)
    mean = columns["mean"]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        weight = columns["known"] / np.repeat(known, np.diff([*starts, len(buckets)]), axis=0)
        weighted = np.where(columns["known"] > 0, mean, 0) * np.where(columns["known"] > 0, weight, 0)
        means = np.where(known > 0, np.add.reduceat(weighted, starts, axis=0), np.nan).astype(mean.dtype)
    return Summary(
        size=size,
        names=names,
        buckets=buckets[starts],
        first_steps=np.minimum.reduceat(columns["first_steps"], starts),
        last_steps=np.maximum.reduceat(columns["last_steps"], starts),
        steps=np.add.reduceat(columns["steps"], starts),
        minimum=np.fmin.reduceat(columns["minimum"], starts, axis=0),
        maximum=np.fmax.reduceat(columns["maximum"], starts, axis=0),
        mean=means,
        known=known,
        nonfinite=np.add.reduceat(columns["nonfinite"], starts, axis=0),
        tallies=np.add.reduceat(columns["tallies"], starts, axis=0),
    )


def _under(summary: Summary, names: tuple[str, ...]) -> Summary:
    """The same with columns of these names, among which all of its own are."""
    places = {name: place for place, name in enumerate(names)}
    chosen = [places[name] for name in summary.names]
    changed: dict[str, Any] = {}
    for name in ("minimum", "maximum", "mean", "known", "nonfinite"):
        values = getattr(summary, name)
        wide = np.full((summary.count, len(names)), np.nan if values.dtype.kind == "f" else 0, values.dtype)
        wide[:, chosen] = values
        changed[name] = wide
    return replace(summary, names=names, **changed)


def _rank_spread(norms: Float64) -> Float64:
    """[n]: the largest over the median of the ranks' own norms, where at least two were sampled; else NaN."""
    known = ~np.isnan(norms)
    spread = np.full(len(norms), np.nan)
    rows = np.flatnonzero(known.sum(axis=1) >= 2)
    if len(rows):
        median = np.nanmedian(norms[rows], axis=1)
        usable = (median > 0) & np.isfinite(median)
        spread[rows[usable]] = np.nanmax(norms[rows[usable]], axis=1) / median[usable]
    return spread
