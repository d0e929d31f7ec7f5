"""The heatmap of layers by steps as SVG: one rectangle a cell, coloured by class, explained on hover."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from seismograd_server.display import svg
from seismograd_server.display.charts import Moments
from seismograd_server.display.heat import Heatmap
from seismograd_server.display.numbers import figure, octaves
from seismograd_server.display.text import plural, shortened

_WIDTH = 920.0
LEFT = 196.0
_ROW = 15.0
# Octaves at which the colour changes; classes h0 (far below) to h8 (thirty-two octaves above, and beyond).
LEVELS = (-3.0, -1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_LABEL_LENGTH = 30


def level_class(octaves_above: float) -> str:
    """The colour class of a cell."""
    if math.isnan(octaves_above):
        return "hx"
    return f"h{int(np.searchsorted(LEVELS, octaves_above, side='right'))}"


def heat_chart(heatmap: Heatmap, moments: Moments, identifier: str, links: Sequence[str] = ()) -> str:
    """The picture, with the layers' names at the left, the steps below and the scale of colours beneath.

    `links` leads from each row to what is within it; "" = nowhere.
    """
    rows, columns = heatmap.octaves.shape
    frame = svg.Frame(_WIDTH, 10 + rows * _ROW + 62, left=LEFT, top=10, bottom=62)
    width = (frame.x1 - frame.x0) / columns
    parts = []
    for row, name in enumerate(heatmap.names):
        top = frame.y1 + row * _ROW
        label = svg.escaped(shortened(name, _LABEL_LENGTH))
        text = (
            f'<text class="layer" x="{frame.x0 - 8:g}" y="{top + 11:g}" text-anchor="end">{label}'
            f"<title>{svg.escaped(name)}</title></text>"
        )
        parts.append(f'<a data-swap="" href="{svg.escaped(links[row])}">{text}</a>' if links and links[row] else text)
        parts.append(f'<g transform="translate({frame.x0:g} {top:g})">{_cells(heatmap, row, width)}</g>')
    parts.append(_axis(frame, heatmap, width))
    parts.append(_moments(frame, heatmap, moments, width))
    parts.append(_legend(frame))
    shown = f"{plural(rows, 'row')} of {heatmap.total_layers} layers"
    text = f"{shown}; colours are octaves above each layer's own median before the onset."
    role = "group" if any(links) else "img"
    return svg.document(frame, "Gradient norm by layer and step", text, parts, identifier, role=role)


def _cells(heatmap: Heatmap, row: int, width: float) -> str:
    cells = []
    drawn = f"{width - 0.6:.1f}"
    for column in range(heatmap.octaves.shape[1]):
        level = float(heatmap.octaves[row, column])
        broken = bool(heatmap.nonfinite[row, column])
        css_class = "hn" if broken else level_class(level)
        if css_class == "hx":
            continue
        cells.append(
            f'<rect class="{css_class}" x="{column * width:.1f}" width="{drawn}" height="{_ROW - 1:g}">'
            f"<title>{_explained(heatmap, row, column, level)}</title></rect>"
        )
    return "".join(cells)


def _explained(heatmap: Heatmap, row: int, column: int, level: float) -> str:
    first, last = int(heatmap.column_first[column]), int(heatmap.column_last[column])
    parts = [f"{first:,}" if first == last else f"{first:,}–{last:,}"]
    if heatmap.nonfinite[row, column]:
        parts.append("NaN or Inf")
    if np.isfinite(heatmap.norms[row, column]):
        parts.append(figure(float(heatmap.norms[row, column])))
    if math.isfinite(level):
        parts.append(octaves(level))
    return svg.escaped(" · ".join(parts))


def _axis(frame: svg.Frame, heatmap: Heatmap, width: float) -> str:
    columns = len(heatmap.column_first)
    every = max(1, math.ceil(columns / 9))
    parts = [f'<path class="axis" d="M{frame.x0:g} {frame.y0 + 1:g}H{frame.x1:g}"/>']
    for column in range(0, columns, every):
        place = frame.x0 + (column + 0.5) * width
        if place > frame.x1 - 40:
            break
        label = svg.escaped(f"{int(heatmap.column_first[column]):,}")
        parts.append(f'<path class="axis" d="M{place:.1f} {frame.y0 + 1:g}v4"/>')
        parts.append(f'<text class="tick" x="{place:.1f}" y="{frame.y0 + 18:g}" text-anchor="middle">{label}</text>')
    parts.append(f'<text class="tick" x="{frame.x1:g}" y="{frame.y0 + 18:g}" text-anchor="end">step</text>')
    return "".join(parts)


def _moments(frame: svg.Frame, heatmap: Heatmap, moments: Moments, width: float) -> str:
    parts = []
    for step, css_class in ((moments.onset, "onset-line"), (moments.failure, "failure-line")):
        if step is None or not heatmap.column_first[0] <= step <= heatmap.column_last[-1]:
            continue
        column = int(np.searchsorted(heatmap.column_last, step))
        place = frame.x0 + column * width - 0.3
        parts.append(f'<path class="{css_class}" d="M{place:.1f} {frame.y1 - 6:g}V{frame.y0 + 1:g}"/>')
    return "".join(parts)


def _legend(frame: svg.Frame) -> str:
    labels = ("below −3", "to −1", "±1", "to 2", "to 4", "to 8", "to 16", "to 32", "above", "NaN or Inf")
    left, top, width = frame.x0, frame.y0 + 34, 62.0
    parts = []
    for index, label in enumerate(labels):
        place = left + index * width + (12 if index == len(labels) - 1 else 0)
        css_class = "hn" if index == len(labels) - 1 else f"h{index}"
        parts.append(f'<rect class="{css_class}" x="{place:g}" y="{top:g}" width="{width - 2:g}" height="9"/>')
        at = place + width / 2 - 1
        parts.append(f'<text class="tick" x="{at:g}" y="{top + 22:g}" text-anchor="middle">{label}</text>')
    parts.append(f'<text class="tick" x="{left - 8:g}" y="{top + 8:g}" text-anchor="end">octaves</text>')
    return "".join(parts)
