"""Drawing: frames, curves, marks and bands as SVG text.

Nothing here carries a `style` attribute (the content policy forbids them): colours come from CSS classes, so that one
drawing serves light, dark and print. All text goes through `escaped`.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from seismograd_server.display.scale import LinearScale, Scale, Tick
from seismograd_server.display.text import printable
from seismograd_server.model import Float64, Int64


def escaped(text: str) -> str:
    """Text that is safe in an element or a quoted attribute."""
    return html.escape(printable(text), quote=True)


@dataclass(frozen=True, slots=True)
class Frame:
    """The inner rectangle of a chart, in user units of its viewBox."""

    width: float
    height: float
    left: float = 56
    right: float = 16
    top: float = 12
    bottom: float = 30

    @property
    def x0(self) -> float:
        """Left edge of the plot."""
        return self.left

    @property
    def x1(self) -> float:
        """Right edge of the plot."""
        return self.width - self.right

    @property
    def y0(self) -> float:
        """Lower edge of the plot."""
        return self.height - self.bottom

    @property
    def y1(self) -> float:
        """Upper edge of the plot."""
        return self.top


def document(
    frame: Frame,
    title: str,
    description: str,
    parts: list[str],
    identifier: str,
    *,
    readout: str = "",
    role: str = "img",
) -> str:
    """The whole drawing; title and description are what a screen reader says. `identifier` is unique in the page.

    `readout` is for a script that tells what is under the pointer (see `readout`); without one the drawing is the same.
    A drawing with links in it is a "group", since nobody looks for links in an image.
    """
    data = f' data-readout="{readout}"' if readout else ""
    return (
        f'<svg class="chart" viewBox="0 0 {frame.width:g} {frame.height:g}" role="{role}"{data} '
        f'aria-labelledby="{identifier}-title {identifier}-text">'
        f'<title id="{identifier}-title">{escaped(title)}</title>'
        f'<desc id="{identifier}-text">{escaped(description)}</desc>' + "".join(parts) + "</svg>"
    )


def readout(frame: Frame, scale: LinearScale, steps: Int64, curves: Mapping[str, Float64]) -> str:
    """JSON as the text of an attribute: where the plot lies, its range of steps, and what is drawn at which step.

    A step may stand there twice, with the smallest and the largest value of the steps around it. Values have four
    digits, which is more than anybody sees; null = not known.
    """
    shown = {name: [_short(value) for value in values.tolist()] for name, values in curves.items()}
    data = {
        "plot": [frame.x0, frame.x1, frame.y1, frame.y0],
        "range": [scale.low, scale.high],
        "steps": steps.tolist(),
        "curves": {name: values for name, values in shown.items() if any(value is not None for value in values)},
    }
    return html.escape(json.dumps(data, separators=(",", ":")), quote=True)


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def horizontal_grid(frame: Frame, ticks: tuple[Tick, ...]) -> str:
    """Lines across the plot with labels on the left."""
    return "".join(
        f'<path class="grid" d="M{frame.x0:g} {tick.place:.1f}H{frame.x1:g}"/>'
        f'<text class="tick" x="{frame.x0 - 8:g}" y="{tick.place + 3.5:.1f}" text-anchor="end">'
        f"{escaped(tick.label)}</text>"
        for tick in ticks
    )


def step_axis(frame: Frame, ticks: tuple[Tick, ...], label: str = "step") -> str:
    """The axis under the plot; the last tick is left out where it would touch the axis's name."""
    drawn = [
        f'<path class="axis" d="M{tick.place:.1f} {frame.y0:g}v4"/>'
        f'<text class="tick" x="{tick.place:.1f}" y="{frame.y0 + 17:g}" text-anchor="middle">'
        f"{escaped(tick.label)}</text>"
        for tick in ticks
        if tick.place < frame.x1 - 44
    ]
    return (
        f'<path class="axis" d="M{frame.x0:g} {frame.y0:g}H{frame.x1:g}"/>'
        + "".join(drawn)
        + f'<text class="tick" x="{frame.x1:g}" y="{frame.y0 + 17:g}" text-anchor="end">{escaped(label)}</text>'
    )


def curve(places_x: Float64, places_y: Float64, css_class: str) -> str:
    """A line through the points, broken where a place is not finite; a lone point becomes a dot."""
    good = np.isfinite(places_x) & np.isfinite(places_y)
    pieces: list[str] = []
    dots: list[str] = []
    for start, end in _stretches(good):
        points = [f"{places_x[index]:.1f} {places_y[index]:.1f}" for index in range(start, end)]
        if len(points) == 1:
            dots.append(
                f'<circle class="{css_class}-dot" cx="{places_x[start]:.1f}" cy="{places_y[start]:.1f}" r="1.8"/>'
            )
        else:
            pieces.append("M" + "L".join(points))
    line = f'<path class="{css_class}" d="{"".join(pieces)}"/>' if pieces else ""
    return line + "".join(dots)


def _stretches(good: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], good, [False])).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def band(frame: Frame, start: float, end: float, css_class: str) -> str:
    """A shaded stretch of the step axis."""
    width, height = max(1.0, end - start), frame.y0 - frame.y1
    return f'<rect class="{css_class}" x="{start:.1f}" y="{frame.y1:g}" width="{width:.1f}" height="{height:g}"/>'


def crosses(places_x: Float64, y: float, css_class: str, title: str) -> str:
    """A row of small crosses: steps with something that cannot stand on the axis."""
    marks = "".join(f"M{x - 2.5:.1f} {y - 2.5:.1f}l5 5m0 -5l-5 5" for x in places_x.tolist())
    return f'<path class="{css_class}" d="{marks}"><title>{escaped(title)}</title></path>' if marks else ""


@dataclass(frozen=True, slots=True)
class Pin:
    """A numbered mark: its head stands at (`head`, `y`), its line at `x`."""

    x: float
    head: float
    y: float
    severity: str
    number: str
    title: str


def pin(frame: Frame, mark: Pin) -> str:
    """A numbered mark with a line down to the axis; shape and colour both tell the severity."""
    head, y = mark.head, mark.y
    shapes = {
        "critical": f"M{head:.1f} {y + 11:.1f}l-10.5 -18h21z",  # a triangle on its tip
        "warning": f"M{head:.1f} {y - 11:.1f}l10.5 10.5l-10.5 10.5l-10.5 -10.5z",  # a diamond
    }
    shape = shapes.get(mark.severity, f"M{head - 8:.1f} {y - 9:.1f}h16v16h-16z")
    line = f"M{head:.1f} {y + 9:.1f}L{mark.x:.1f} {frame.y1:g}V{frame.y0:g}"
    return (
        f'<g class="pin {mark.severity}"><title>{escaped(mark.title)}</title>'
        f'<path class="pin-line" d="{line}"/><path class="pin-shape" d="{shape}"/>'
        f'<text class="pin-number" x="{head:.1f}" y="{y + 3:.1f}" text-anchor="middle">'
        f"{escaped(mark.number)}</text></g>"
    )


def spread(wanted: Float64, gap: float, low: float, high: float) -> Float64:
    """Places as near as possible to the wanted ones (rising) that keep `gap` apart: for labels in a row."""
    places = np.array(wanted, np.float64)
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    limit = high
    for index in range(len(places) - 1, -1, -1):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    return np.maximum(places, low)


def steps_to_places(scale: Scale, steps: Int64) -> Float64:
    """Places of whole steps."""
    return scale.places(steps.astype(np.float64))
