"""What notebooks show of runs and series: tables and curves in a cell, pictures by matplotlib on request.

Mixins, so that what reads a server stays plain: they need the fields that their hosts declare.
"""

from __future__ import annotations

import html
import importlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seismograd.errors import QueryError

Column = npt.NDArray[Any]

# Points of the curve in a cell, and its size in pixels.
_CELL_POINTS, _CELL_WIDTH, _CELL_HEIGHT = 240, 480, 60
# Points of a picture: more would not be seen.
_POINTS = 2000
_RUNS_SHOWN = 20
_ALERTS_SHOWN = 10
_COLOURS = {"critical": "#b4301c", "warning": "#9c5d00", "info": "#2c6fbb"}
_NORM, _LOSS = "#1d4f91", "#2f6b5e"
# Octaves at which the colours of layers end: what is farther above or below looks the same.
_OCTAVES = 8.0


class _Stepped(Protocol):
    @property
    def steps(self) -> npt.NDArray[np.int64]: ...
    @property
    def values(self) -> Column: ...
    @property
    def minimum(self) -> Column: ...
    @property
    def resolution(self) -> int: ...


class NormsShown:
    """For `GradNorms`."""

    __slots__ = ()

    def plot(self: Any, axes: Any = None) -> Any:
        """Draw the norms over a logarithmic axis, with crosses where elements were NaN or Inf; gives the axes.

        Raises:
            QueryError: matplotlib is not installed.
        """
        axes = _axes(axes)
        axes.set_yscale("log")
        _draw(axes, self, _NORM, positive=True)
        broken = self.steps[self.nonfinite_counts > 0]
        if len(broken):
            at_top = np.full(len(broken), 0.97)
            axes.plot(broken, at_top, "x", color=_COLOURS["critical"], transform=axes.get_xaxis_transform())
        axes.set(xlabel="step", ylabel="gradient norm")
        return axes

    def _repr_html_(self: Any) -> str:
        return _curve_html(self, "gradient norm", logarithmic=True)


class CurveShown:
    """For `Curve`."""

    __slots__ = ()

    def plot(self: Any, axes: Any = None) -> Any:
        """Draw the curve; gives the axes. Raises QueryError without matplotlib."""
        axes = _axes(axes)
        _draw(axes, self, _LOSS, positive=False)
        axes.set(xlabel="step", ylabel=self.name.replace("_", " "))
        return axes

    def _repr_html_(self: Any) -> str:
        return _curve_html(self, self.name.replace("_", " "), logarithmic=False)


class LayersShown:
    """For `Layers`."""

    __slots__ = ()

    def plot(self: Any, axes: Any = None) -> Any:
        """Draw layers by steps, in octaves above each layer's own median; gives the axes.

        Raises:
            QueryError: matplotlib is not installed, or no layer was captured.
        """
        if not self.names or not len(self.steps):
            raise QueryError("no layer was captured in these steps: ask for others, or capture layers")
        axes = _axes(axes)
        with np.errstate(divide="ignore", invalid="ignore"):
            octaves = np.log2(np.where(self.values > 0, self.values, np.nan).astype(np.float64))
            octaves -= [_median(column) for column in octaves.T]
        # The input at the top, as the model is read.
        mesh = axes.pcolormesh(
            self.steps, np.arange(len(self.names)), octaves.T, cmap="RdBu_r", vmin=-_OCTAVES, vmax=_OCTAVES
        )
        axes.invert_yaxis()
        axes.set_yticks(np.arange(len(self.names)), self.names)
        axes.set(xlabel="step")
        axes.figure.colorbar(mesh, ax=axes, label="octaves above the layer's median")
        return axes


class RunShown:
    """For `RunReader`."""

    __slots__ = ()

    def plot(self: Any, *, points: int = _POINTS) -> Any:
        """Draw norm and loss over the steps, with every warning and critical alert marked; gives the figure.

        Raises:
            QueryError: matplotlib is not installed, or the server cannot answer.
        """
        figure, (above, below) = _matplotlib().subplots(2, 1, sharex=True, figsize=(9, 5), height_ratios=(3, 2))
        self.grad_norms(points=points).plot(above)
        self.loss(points=points).plot(below)
        marked = sorted((each for each in self.alerts() if each.severity in {"warning", "critical"}), key=_opened)
        for alert in marked:
            for axes in (above, below):
                axes.axvline(alert.opened_step, color=_COLOURS[alert.severity], linestyle="--", linewidth=1)
            where = (alert.opened_step, 1.0)
            above.annotate(
                alert.signature, where, xycoords=above.get_xaxis_transform(), color=_COLOURS[alert.severity],
                rotation=60, ha="left", va="bottom", fontsize="small",
            )  # fmt: skip
        above.set_xlabel("")
        figure.suptitle(f"{self.project}/{self.name}", x=0.01, ha="left")
        figure.tight_layout()
        return figure

    def _repr_html_(self: Any) -> str:
        try:
            run, norms, alerts = self.info(), self.grad_norms(points=_CELL_POINTS), self.alerts(limit=_ALERTS_SHOWN)
        except QueryError as error:
            return f"<pre>{html.escape(f'{self.project}/{self.name}: {error}')}</pre>"
        facts = [run.state, f"step {run.last_step:,}" if run.last_step is not None else "no step yet"]
        facts += [f"{run.world_size} ranks" if run.world_size > 1 else "", run.framework, run.failure_reason]
        head = f"<b>{html.escape(str(run.project))}/{html.escape(run.name)}</b> "
        said = html.escape(" · ".join(fact for fact in facts if fact))
        rows = [(each.severity, each.signature, f"{each.opened_step:,}", each.state, each.reason) for each in alerts]
        table = _table(("severity", "signature", "step", "state", "reason"), rows) if rows else "<p>no alert</p>"
        return f"<div>{head}{said}{norms._repr_html_()}{table}</div>"


class ClientShown:
    """For `Client`."""

    __slots__ = ()

    def _repr_html_(self: Any) -> str:
        try:
            runs = self.runs(limit=_RUNS_SHOWN)
        except QueryError as error:
            return f"<pre>{html.escape(str(error))}</pre>"
        rows = [
            (each.project, each.name, each.severity or each.state, _steps(each.last_step), str(each.firing_alerts))
            for each in runs
        ]
        return _table(("project", "run", "state", "step", "firing"), rows) if rows else "<p>no run yet</p>"


def _opened(alert: Any) -> int:
    step: int = alert.opened_step
    return step


def _steps(step: int | None) -> str:
    return "–" if step is None else f"{step:,}"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _curve_html(series: _Stepped, name: str, *, logarithmic: bool) -> str:
    """One line of facts and a small curve of the largest values."""
    count, values = len(series.steps), np.asarray(series.values, np.float64)
    if not count:
        return f"<p>{html.escape(name)}: no step yet</p>"
    finite = values[np.isfinite(values)]
    span = f"{finite.min():.4g} to {finite.max():.4g}" if len(finite) else "not known"
    steps = f"steps {series.steps[0]:,} to {series.steps[-1]:,}"
    every = f", {series.resolution:,} steps a point" if series.resolution > 1 else ""
    return f"<p>{html.escape(name)}: {span}, {steps}{every}</p>{_sparkline(values, logarithmic=logarithmic)}"


def _sparkline(values: npt.NDArray[np.float64], *, logarithmic: bool) -> str:
    """The largest value of each of some points as SVG; empty when there are fewer than two."""
    edges = np.unique(np.linspace(0, len(values), _CELL_POINTS + 1).astype(np.int64))[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        usable = np.where(values > 0, values, np.nan) if logarithmic else values
        heights = np.log10(usable) if logarithmic else usable
    heights = np.fmax.reduceat(np.where(np.isfinite(heights), heights, np.nan), edges)
    known = np.flatnonzero(np.isfinite(heights))
    if len(known) < 2:
        return ""
    low, high = float(heights[known].min()), float(heights[known].max())
    x = known / max(1, len(heights) - 1) * _CELL_WIDTH
    y = _CELL_HEIGHT - 2 - (heights[known] - low) / ((high - low) or 1.0) * (_CELL_HEIGHT - 4)
    path = "L".join(f"{left:.1f} {top:.1f}" for left, top in zip(x.tolist(), y.tolist(), strict=True))
    size = f'width="{_CELL_WIDTH}" height="{_CELL_HEIGHT}"'
    return f'<svg {size}><path d="M{path}" fill="none" stroke="{_NORM}" stroke-width="1.3"/></svg>'


def _draw(axes: Any, series: _Stepped, colour: str, *, positive: bool) -> None:
    values = np.asarray(series.values, np.float64)
    shown = np.where(np.isfinite(values) & ((values > 0) | (not positive)), values, np.nan)
    if series.resolution > 1:
        axes.fill_between(series.steps, series.minimum, shown, color=colour, alpha=0.25, linewidth=0)
    axes.plot(series.steps, shown, color=colour, linewidth=1.2)


def _median(column: npt.NDArray[np.float64]) -> float:
    known = column[np.isfinite(column)]
    return float(np.median(known)) if len(known) else math.nan


def _axes(axes: Any) -> Any:
    return axes if axes is not None else _matplotlib().subplots(figsize=(9, 3))[1]


def _matplotlib() -> Any:
    try:
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise QueryError('plot needs matplotlib: pip install "seismograd[notebook]"') from error
