"""Curves of several runs over one axis, told apart by colour and by dashes. Pure SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seismograd_server.display import svg
from seismograd_server.display.numbers import figure, share
from seismograd_server.display.scale import LinearScale, LogScale, Scale, Tick
from seismograd_server.display.text import plural
from seismograd_server.model import Float64

_WIDTH = 920.0
# A quantity that spans more than this cannot be read on a linear axis.
_LOG_RANGE = 50.0


@dataclass(frozen=True, slots=True)
class Curves:
    """What is drawn.

    Attributes:
        title: of the chart.
        position: float64[m], steps or shares of the way.
        values: of each run, float64[m]; NaN = not known, Inf = not finite any more.
        names: of the runs.
        partings: positions at which curves part, each with the index of the run that does.
        by_progress: whether positions are shares.
        logarithmic: whether the axis always is; otherwise only for what spans much.
    """

    title: str
    position: Float64
    values: Sequence[Float64]
    names: Sequence[str]
    partings: Sequence[tuple[int, float]]
    by_progress: bool
    logarithmic: bool


def comparison_chart(curves: Curves, identifier: str) -> str:
    """The curves of all runs; empty when no value is known."""
    every = np.concatenate([np.zeros(0), *curves.values])
    finite = every[np.isfinite(every)]
    if curves.logarithmic:
        finite = finite[finite > 0]
    if not len(finite):
        return ""
    frame = svg.Frame(_WIDTH, 300 if curves.logarithmic else 200, top=20)
    axis = _axis(frame, curves)
    scale = _scale(frame, finite, logarithmic=curves.logarithmic)
    ticks = axis.ticks()
    if curves.by_progress:
        ticks = tuple(Tick(tick.place, share(value)) for tick, value in zip(ticks, _shares(axis), strict=False))
    parts = [
        svg.horizontal_grid(frame, scale.ticks()),
        svg.step_axis(frame, ticks, "of the way" if curves.by_progress else "step"),
    ]
    places = axis.places(curves.position)
    for run, position in curves.partings:
        place = float(axis.places(np.array([position]))[0])
        title = f"{curves.names[run]} parts from {curves.names[0]} here"
        parts.append(
            f'<path class="run-{run} parting" d="M{place:.1f} {frame.y1:g}V{frame.y0:g}">'
            f"<title>{svg.escaped(title)}</title></path>"
        )
    for run, values in reversed(list(enumerate(curves.values))):  # the first one, which all are held against, on top
        parts.append(f"<g><title>{svg.escaped(curves.names[run])}</title>")
        known = ~np.isnan(values)
        drawn = np.where(np.isfinite(values), values, np.nan)[known]
        parts.append(svg.curve(places[known], scale.places(drawn), f"run-{run}"))
        lost = np.isinf(values)
        if lost.any():
            title = f"{curves.names[run]}: {plural(int(lost.sum()), 'point')} that are not finite"
            # Only the first of them: a row of crosses would hide those of the other runs.
            parts.append(svg.crosses(places[lost][:1], frame.y1 + 6, "broken", title))
        parts.append("</g>")
    text = f"{plural(len(curves.values), 'run')}, from {figure(float(finite.min()))} to {figure(float(finite.max()))}."
    return svg.document(frame, curves.title, text, parts, identifier)


def _axis(frame: svg.Frame, curves: Curves) -> LinearScale:
    if curves.by_progress:
        return LinearScale(0.0, 1.0, frame.x0, frame.x1, wanted=5)
    low, high = float(curves.position[0]), float(curves.position[-1])
    return LinearScale(low, max(high, low + 1.0), frame.x0, frame.x1, wanted=8, whole=True)


def _shares(axis: LinearScale) -> list[float]:
    return [
        axis.low + (tick.place - axis.start) / (axis.end - axis.start) * (axis.high - axis.low) for tick in axis.ticks()
    ]


def _scale(frame: svg.Frame, finite: Float64, *, logarithmic: bool) -> Scale:
    low, high = float(finite.min()), float(finite.max())
    if logarithmic or (low > 0 and high / low > _LOG_RANGE):
        return LogScale.around(finite, frame.y0, frame.y1)
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return LinearScale(low - margin, high + margin, frame.y0, frame.y1, wanted=4)
