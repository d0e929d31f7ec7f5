"""How often a norm was how large: bars over a logarithmic axis, and the clip thresholds among them. Pure SVG text."""

from __future__ import annotations

import math

import numpy as np

from seismograd_server.display import svg
from seismograd_server.display.numbers import figure, share
from seismograd_server.display.scale import LinearScale, Tick
from seismograd_server.model import Float64, Int64

_WIDTH = 920.0
# Bars of a share below this are still seen.
_LEAST_HEIGHT = 1.0
_MOST_TICKS = 10


def distribution_chart(
    counts: Int64,
    start_octaves: float,
    octaves_per_bin: float,
    *,
    in_force: float | None,
    recommended: float | None,
    identifier: str,
) -> str:
    """Bars of counts per bin of log2, from `start_octaves` on. Empty when nothing was counted."""
    if not counts.sum():
        return ""
    frame = svg.Frame(_WIDTH, 170, top=20)
    edges = start_octaves + octaves_per_bin * np.arange(len(counts) + 1, dtype=np.float64)
    marked = np.log2([value for value in (in_force, recommended) if value is not None])
    shown = np.concatenate((edges, marked))
    axis = LinearScale(float(shown.min()), float(shown.max()), frame.x0, frame.x1)
    shares = counts / counts.sum()
    heights = LinearScale(0.0, float(shares.max()) * 1.08, frame.y0, frame.y1, wanted=3)
    ticks = tuple(Tick(tick.place, share(value)) for tick, value in _grid(heights))
    parts = [
        svg.horizontal_grid(frame, ticks),
        svg.step_axis(frame, _octaves(axis), "norm"),
        _bars(frame, axis.places(edges), heights.places(shares), shares, edges),
    ]
    parts += [
        _line(frame, axis, value, css_class, title)
        for value, css_class, title in (
            (in_force, "clip-line", "threshold in force"),
            (recommended, "recommended-line", "recommended threshold"),
        )
        if value is not None
    ]
    most = int(np.argmax(counts))
    text = f"{counts.sum():,} steps; the fullest bar is from {_norm(edges[most])} to {_norm(edges[most + 1])}."
    return svg.document(frame, "Distribution of the norm before clipping, logarithmic", text, parts, identifier)


def _norm(octaves: float) -> str:
    return figure(2.0 ** float(octaves))


def _octaves(axis: LinearScale) -> tuple[Tick, ...]:
    """Whole octaves, every one or every so many: most norms of a run lie within one power of ten."""
    every = max(1, math.ceil((axis.high - axis.low) / _MOST_TICKS))
    values = [each for each in range(math.ceil(axis.low), math.floor(axis.high) + 1) if each % every == 0]
    places = axis.places(np.array(values, np.float64)).tolist()
    return tuple(Tick(place, _norm(value)) for place, value in zip(places, values, strict=True))


def _grid(scale: LinearScale) -> list[tuple[Tick, float]]:
    """The ticks of the scale with their values: its labels are figures, and these are shares."""
    span = scale.high - scale.low
    return [(tick, scale.low + (tick.place - scale.start) / (scale.end - scale.start) * span) for tick in scale.ticks()]


def _bars(frame: svg.Frame, places: Float64, tops: Float64, shares: Float64, edges: Float64) -> str:
    bars = []
    for place in np.flatnonzero(shares).tolist():
        left, right = float(places[place]), float(places[place + 1])
        height = max(_LEAST_HEIGHT, frame.y0 - float(tops[place]))
        title = f"{_norm(edges[place])} to {_norm(edges[place + 1])}: {share(float(shares[place]))}"
        bars.append(
            f'<rect class="bar" x="{left:.1f}" y="{frame.y0 - height:.1f}" width="{max(0.5, right - left - 0.5):.1f}" '
            f'height="{height:.1f}"><title>{svg.escaped(title)}</title></rect>'
        )
    return "".join(bars)


def _line(frame: svg.Frame, axis: LinearScale, value: float, css_class: str, title: str) -> str:
    place = float(axis.places(np.log2([value]))[0])
    return (
        f'<path class="{css_class}" d="M{place:.1f} {frame.y1:g}V{frame.y0:g}">'
        f"<title>{svg.escaped(f'{title}: {figure(value)}')}</title></path>"
    )
