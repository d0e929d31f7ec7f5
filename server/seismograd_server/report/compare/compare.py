"""Runs on one axis, and what is said of each pair: aligned by step or by progress, parted or together. Pure.

Shapes: m = points of the common axis, k = runs.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seismograd_server.display.numbers import figure, octaves, share, times
from seismograd_server.display.text import plural
from seismograd_server.model import TALLIES, Alert, Float64, Int64, Run, RunState, Summary
from seismograd_server.reading.buckets import SERIES_NAMES
from seismograd_server.report.compare.parting import Parting, find_parting

# Parts of a run's way that runs are compared in by progress; twice as many are not seen on a page.
PROGRESS_PARTS = 256


class Align(enum.StrEnum):
    """What runs have in common at a point of the axis."""

    STEP = "step"
    PROGRESS = "progress"  # share of the run's own way, from its first step to its last


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A run as it was read: its alerts, and its series in buckets of the same size as all others'."""

    run: Run
    alerts: Sequence[Alert]
    buckets: Summary | None  # None = no step is closed


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """The runs' curves over one axis."""

    position: Float64 | Int64  # [m], rising: steps, or shares from 0 to 1
    norm: tuple[Float64, ...]  # k of [m]; NaN = not known, Inf = hardly anything was finite
    loss: tuple[Float64, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """What is said of one quantity of a run against the first one."""

    run: int  # index of the run, from 1
    quantity: str  # "grad_norm" or "loss"
    shared: int  # points at which both are known
    parting: Parting | None
    position: float | None  # where they part: a step, or a share of the way
    sentence: str


def align_runs(runs: Sequence[Read], align: Align) -> Aligned:
    """The curves of all runs over a common axis."""
    curves = [_curves(each.buckets) for each in runs]
    if align is Align.PROGRESS:
        parts = [_by_progress(*each) for each in curves]
        position = (np.arange(PROGRESS_PARTS) + 0.5) / PROGRESS_PARTS
        return Aligned(position, tuple(norm for norm, _ in parts), tuple(loss for _, loss in parts))
    position = np.zeros(0, np.int64)
    for bucket, _, _ in curves:
        position = np.union1d(position, bucket)
    norms: list[Float64] = []
    losses: list[Float64] = []
    for bucket, norm, loss in curves:
        places = np.searchsorted(position, bucket)
        for values, kept in ((norm, norms), (loss, losses)):
            column = np.full(len(position), np.nan)
            column[places] = values
            kept.append(column)
    size = next((each.buckets.size for each in runs if each.buckets is not None), 1)
    return Aligned(position * size, tuple(norms), tuple(losses))


def _curves(buckets: Summary | None) -> tuple[Int64, Float64, Float64]:
    """Bucket numbers, norms and losses."""
    if buckets is None:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    place = {name: SERIES_NAMES.index(name) for name in ("grad_norm", "loss")}
    norm = buckets.mean[:, place["grad_norm"]].astype(np.float64)
    loss = buckets.mean[:, place["loss"]].astype(np.float64)
    broken = (
        buckets.tallies[:, TALLIES.index("nonfinite_steps")] - buckets.tallies[:, TALLIES.index("skipped_by_scaler")]
    )
    norm = np.where(2 * broken >= buckets.steps, np.inf, norm)
    lost = buckets.nonfinite[:, place["loss"]]
    loss = np.where((lost > 0) & (2 * lost >= buckets.steps), np.inf, loss)
    return buckets.buckets, norm, loss


def _by_progress(bucket: Int64, norm: Float64, loss: Float64) -> tuple[Float64, Float64]:
    found = np.full(PROGRESS_PARTS, np.nan), np.full(PROGRESS_PARTS, np.nan)
    if not len(bucket):
        return found
    # As floats of a difference: buckets themselves may be too large for them.
    part = np.floor((bucket - bucket[0]) / (float(bucket[-1] - bucket[0]) + 1.0) * PROGRESS_PARTS).astype(np.int64)
    for values, kept in zip((norm, loss), found, strict=True):
        known = np.flatnonzero(~np.isnan(values))
        for each in np.unique(part[known]).tolist():
            kept[each] = np.median(values[known[part[known] == each]])
    return found


def pairs(runs: Sequence[Read], aligned: Aligned, align: Align) -> tuple[Pair, ...]:
    """Every run but the first against the first, by norm and by loss."""
    quantities = itertools.product(range(1, len(runs)), _WORDS)
    return tuple(_pair(runs, index, quantity, aligned, align) for index, quantity in quantities)


_WORDS = {"grad_norm": "gradient norms", "loss": "losses"}


def _pair(
    runs: Sequence[Read],
    index: int,
    quantity: str,
    aligned: Aligned,
    align: Align,
) -> Pair:
    columns, position = aligned.norm if quantity == "grad_norm" else aligned.loss, aligned.position
    one, other = columns[index], columns[0]
    what, name, first = _WORDS[quantity], str(runs[index].run.key), str(runs[0].run.key)
    shared = int(np.count_nonzero(~np.isnan(one) & ~np.isnan(other)))
    if not shared:
        both = not (np.isnan(one).all() or np.isnan(other).all())
        hint = "; align by progress" if align is Align.STEP and both else ""
        why = f"The {what} of {name} and {first} are never known at the same point{hint}."
        return Pair(index, quantity, 0, None, None, why)
    if _nonpositive(one) or _nonpositive(other):
        sentence = f"The {what} of {name} and {first} are not all positive: octaves say nothing of them."
        return Pair(index, quantity, shared, None, None, sentence)
    parting = find_parting(_octaves(one), _octaves(other))
    if parting is None:
        sentence = f"The {what} of {name} and {first} stay together, within their own noise."
        return Pair(index, quantity, shared, None, None, sentence)
    at = float(position[parting.row])
    where = f"{share(at)} of the way" if align is Align.PROGRESS else f"step {int(position[parting.row]):,}"
    return Pair(index, quantity, shared, parting, at, _parted(what, name, first, where, parting))


def _parted(what: str, name: str, first: str, where: str, parting: Parting) -> str:
    if math.isinf(parting.octaves):
        broken = name if parting.octaves > 0 else first
        return f"The {what} part at {where}: from there on that of {broken} is mostly not finite."
    higher, lower = (name, first) if parting.octaves > 0 else (first, name)
    distance = abs(parting.octaves)
    return (
        f"The {what} part at {where}: from there on that of {higher} lies {octaves(distance).lstrip('+')} octaves "
        f"({times(2.0**distance)}) above that of {lower}, with a noise of {figure(parting.noise, 2)} octaves between "
        "them."
    )


def _nonpositive(values: Float64) -> bool:
    """Whether some are below zero, or zero more than now and then."""
    known = values[~np.isnan(values)]
    return bool((known < 0).any() or (len(known) and np.mean(known == 0) > 0.5))


def _octaves(values: Float64) -> Float64:
    with np.errstate(divide="ignore"):
        level = np.log2(values)
    return np.where(np.isneginf(level), np.nan, level)


def notes(runs: Sequence[Read], align: Align, size: int) -> tuple[str, ...]:
    """What has to be known to read the comparison rightly."""
    found = []
    if size > 1:
        found.append(f"A point is the mean of {plural(size, 'step')}: where curves part is known to that many.")
    running = [str(each.run.key) for each in runs if each.run.state is RunState.RUNNING]
    if align is Align.PROGRESS and running:
        found.append(f"Still running, so that its progress is of the steps so far: {', '.join(running)}.")
    rewound = [str(each.run.key) for each in runs if each.run.attempts > 1]
    if rewound:
        found.append(f"Of several attempts, the last one of each step is shown: {', '.join(rewound)}.")
    silent = [str(each.run.key) for each in runs if each.buckets is None]
    if silent:
        found.append(f"No step is closed yet: {', '.join(silent)}.")
    return tuple(found)
