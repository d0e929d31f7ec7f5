"""Columns of a log as records of a run: aligned by step, with what is not known left out. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seismograd_server.display.text import plural
from seismograd_server.errors import UsageError
from seismograd_server.model import Float32, Float64, Int64, Quantity
from seismograd_server.transfer.logs import Column, Log
from seismograd_server.transfer.recognising import Recognised

# The parameter of a run of which only one norm was logged.
EVERYTHING = "all parameters"
# What the logged layers leave of the logged total.
REST = "what was not logged"
# Logged layers and total are of the same gradient when they agree so well: both were rounded on the way.
_AGREEMENT = 0.02
_QUANTITIES = {
    "loss": Quantity.LOSS,
    "learning_rate": Quantity.LEARNING_RATE,
    "loss_scale": Quantity.LOSS_SCALE,
    "clip_threshold": Quantity.CLIP_THRESHOLD,
    "clip_coefficient": Quantity.CLIP_COEFFICIENT,
    "step_seconds": Quantity.STEP_SECONDS,
}


@dataclass(frozen=True, slots=True, eq=False)
class ImportedRun:
    """A run ready to be sent: n records, l layers."""

    name: str
    project: str
    steps: Int64  # [n], rising
    times: Float64  # [n], Unix seconds, finite
    total: Float64  # [n], the norm of all parameters; NaN = not logged, Inf or NaN-in-the-log are in `broken`
    broken: Float64  # [n], 0 = finite, 1 = NaN, 2 = Inf: what the logged total was
    layers: tuple[str, ...]
    norms: Float32  # [n, l]; NaN = not logged; non-finite ones are in `broken_layers`
    broken_layers: Int64  # [k, 3]: row, layer, 1 = NaN or 2 = Inf
    scalars: Mapping[Quantity, tuple[Int64, Float64]]  # rows that have it, and the values
    config: Mapping[str, Any]
    failed: str
    used: Mapping[str, str] = field(default_factory=dict)  # what a column was taken for
    unknown: tuple[str, ...] = ()  # columns that were not taken
    unreadable: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of records, n."""
        return len(self.steps)

    def identity(self, project: str, run: str, source: str) -> str:
        """The same for the same log, also when it has grown since: from names and the first record."""
        values = {
            quantity.name: float(each[1][0])
            for quantity, each in self.scalars.items()
            if len(each[0]) and each[0][0] == 0
        }
        first = [int(self.steps[0]), repr(float(self.total[0])), values, self.norms[0].tolist()]
        said = json.dumps([project, run, source, repr(first)]).encode("utf-8", errors="surrogatepass")
        return f"import-{hashlib.blake2b(said, digest_size=16).hexdigest()}"


def assemble(log: Log, recognised: Recognised, fallback_time: float) -> ImportedRun:
    """Align what was recognised.

    Args:
        log: as it was read.
        recognised: which column is what.
        fallback_time: Unix seconds of the last step of a log without times; the others are a second apart.

    Raises:
        UsageError: the log has no gradient norm and no loss that could be recognised.
    """
    columns = {**recognised.fields, **{f"layer:{layer}": name for layer, name in recognised.layers.items()}}
    series = {wanted: log.columns[name].latest() for wanted, name in columns.items()}
    _check_norms(log, columns, series)
    if not any(wanted in {"grad_norm", "loss"} or wanted.startswith("layer:") for wanted in series):
        there = ", ".join(sorted(log.columns)[:20]) or "no column of numbers"
        raise UsageError(
            f"{log.name}: neither a gradient norm nor a loss was recognised; there is {there}. "
            "Say which it is, as in --map grad_norm=COLUMN"
        )
    steps = np.unique(np.concatenate([each[0] for each in series.values()]))
    notes = [*log.notes, *_repeated(log, columns.values())]
    total, broken = _spread(series.get("grad_norm"), steps)
    layers, norms, broken_layers = _layers(series, steps)
    if layers and "grad_norm" in series:
        layers, norms, broken_layers, more = _reconciled(layers, norms, broken_layers, total)
        notes += more
    elif layers:
        notes.append("no total was logged: the global norm is that of the logged layers")
    elif "grad_norm" not in series:
        notes.append("no gradient norm was recognised: only what shows in the loss can be found")
    times, more = _times(log, steps, fallback_time)
    return ImportedRun(
        name=log.name,
        project=log.project,
        steps=steps,
        times=times,
        total=total,
        broken=broken,
        layers=layers,
        norms=norms,
        broken_layers=broken_layers,
        scalars={
            quantity: (np.searchsorted(steps, series[name][0]), series[name][1])
            for name, quantity in _QUANTITIES.items()
            if name in series
        },
        config=log.config,
        failed=log.failed,
        used={name: wanted for wanted, name in columns.items()},
        unknown=tuple(recognised.unknown),
        unreadable={name: kind for name, kind in log.unreadable.items() if name not in columns.values()},
        notes=(*notes, *more),
    )


def _check_norms(log: Log, columns: Mapping[str, str], series: Mapping[str, tuple[Int64, Float64]]) -> None:
    for wanted, (steps, values) in series.items():
        if wanted != "grad_norm" and not wanted.startswith("layer:"):
            continue
        below = np.flatnonzero(values < 0)
        if len(below):
            step, value = int(steps[below[0]]), float(values[below[0]])
            raise UsageError(
                f"{log.name}: {columns[wanted]} is {value:g} at step {step}, and a norm is never negative: "
                f"say with --map which column holds {wanted}"
            )


def _repeated(log: Log, names: Any) -> list[str]:
    repeated = sum(len(log.columns[name].steps) - len(np.unique(log.columns[name].steps)) for name in names)
    if not repeated:
        return []
    return [f"{plural(repeated, 'value')} of steps that were logged again: the last one counts"]


def _spread(series: tuple[Int64, Float64] | None, steps: Int64) -> tuple[Float64, Float64]:
    """Values at their rows, and what was not finite; NaN where nothing was logged, 0 where it was not finite."""
    spread, broken = np.full(len(steps), np.nan), np.zeros(len(steps))
    if series is not None:
        rows, values = np.searchsorted(steps, series[0]), series[1]
        broken[rows] = np.where(np.isnan(values), 1, np.where(np.isinf(values), 2, 0))
        spread[rows] = np.where(broken[rows] > 0, 0.0, values)
    return spread, broken


def _layers(series: Mapping[str, tuple[Int64, Float64]], steps: Int64) -> tuple[tuple[str, ...], Float32, Int64]:
    names = tuple(name.removeprefix("layer:") for name in series if name.startswith("layer:"))
    norms = np.full((len(steps), len(names)), np.nan, np.float32)
    broken = [np.zeros((0, 3), np.int64)]
    for place, name in enumerate(names):
        values, kinds = _spread(series[f"layer:{name}"], steps)
        norms[:, place] = values
        rows = np.flatnonzero(kinds)
        broken.append(np.stack([rows, np.full(len(rows), place), kinds[rows].astype(np.int64)], axis=1))
    return names, norms, np.concatenate(broken)


def _reconciled(
    layers: tuple[str, ...], norms: Float32, broken: Int64, total: Float64
) -> tuple[tuple[str, ...], Float32, Int64, list[str]]:
    """Layers that add up to the total, with what is missing as one more; none where they are of another gradient."""
    squares = np.square(norms, dtype=np.float64).sum(axis=1)
    known = np.isfinite(squares) & np.isfinite(total) & (total > 0)
    if not known.any():
        return layers, norms, broken, []
    with np.errstate(divide="ignore", invalid="ignore"):
        share = float(np.median(np.sqrt(squares[known]) / total[known]))
    if share > 1 + _AGREEMENT:
        note = f"the logged layers are {share:.2g} times the logged total: they are of another gradient, and left out"
        return (), np.zeros((len(total), 0), np.float32), np.zeros((0, 3), np.int64), [note]
    if share >= 1 - _AGREEMENT:
        return layers, norms, broken, []
    rest = np.sqrt(np.maximum(np.square(total) - squares, 0.0)).astype(np.float32)
    note = f"the logged layers are {share:.0%} of the logged total: the others are in it as {REST!r}"
    return (*layers, REST), np.concatenate([norms, rest[:, None]], axis=1), broken, [note]


def _times(log: Log, steps: Int64, fallback_time: float) -> tuple[Float64, list[str]]:
    """Times between known ones are drawn straight; a log without any has a second between steps."""
    if not log.times:
        return fallback_time - (steps[-1] - steps).astype(np.float64), ["no times were logged: a second a step"]
    known = Column()
    for step, time in log.times.items():
        known.put(step, time)
    at, times = known.latest()
    return np.interp(steps, at, times), []
