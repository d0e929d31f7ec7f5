"""Layers by steps in octaves above each layer's own usual level: what a heatmap shows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seismograd_server.display.tree import LayerRow
from seismograd_server.model import Bool, Float32, Float64, Int64, Summary
from seismograd_server.reading.history import LayerWindow, NonfiniteHit

# More rows than a page shows without scrolling are no picture any more.
_ROWS = 32
# At 15 units a column they fill the width of the page; each costs a hundred bytes a row, explanation included.
_COLUMNS = 48


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """Layers by columns of steps, in octaves above each layer's own median before the onset."""

    names: tuple[str, ...]  # [k], the layers shown, in forward order
    column_first: Int64  # [c], first step of each column
    column_last: Int64  # [c]
    octaves: Float32  # [k, c], the largest in the column; NaN = not captured; -Inf = exactly zero
    norms: Float32  # [k, c], the norm behind it
    nonfinite: Bool  # [k, c]
    total_layers: int


def octaves_above_median(window: LayerWindow, onset: int | None) -> Float64:
    """[w, l]: log2 of each norm over its layer's median before the onset; NaN = not captured, -Inf = exactly zero.

    A layer without a positive norm before the onset is measured against its own first positive norm.
    """
    norms = window.norms.astype(np.float64)
    norms[~np.isfinite(norms)] = np.nan
    calm = norms if onset is None else norms[window.steps < onset]
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.log2(norms)
        reference = np.array([_reference(calm[:, layer], norms[:, layer]) for layer in range(norms.shape[1])])
        return np.asarray(levels - reference, np.float64)


def _reference(calm: Float64, all_of_it: Float64) -> float:
    for values in (calm, all_of_it[:1], all_of_it):
        positive = values[np.isfinite(values) & (values > 0)]
        if len(positive):
            return float(np.median(np.log2(positive)))
    return float("nan")


def heatmap(
    window: LayerWindow, octaves: Float64, first: Sequence[str], hits: Sequence[NonfiniteHit]
) -> Heatmap | None:
    """The picture: at most 32 layers in forward order by at most 48 columns of steps, the largest value in each.

    `first` names layers that must be among the rows when there are more of them than fit, the first ones first.
    """
    if not window.names or not len(window.steps):
        return None
    rows = _shown_layers(window, octaves, first)
    columns = min(_COLUMNS, len(window.steps))
    edges = np.unique(np.linspace(0, len(window.steps), columns + 1).astype(np.int64))
    level = np.full((len(rows), len(edges) - 1), np.nan, np.float32)
    norms = np.full_like(level, np.nan)
    for column, (start, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        level[:, column] = _largest(octaves[start:end, rows])
        norms[:, column] = _largest(window.norms[start:end, rows].astype(np.float64))
    return Heatmap(
        names=tuple(window.names[row] for row in rows),
        column_first=window.steps[edges[:-1]],
        column_last=window.steps[edges[1:] - 1],
        octaves=level,
        norms=norms,
        nonfinite=_nonfinite_cells(window, rows, edges.tolist(), hits),
        total_layers=len(window.names),
    )


def heatmap_of_buckets(summary: Summary, rows: Sequence[LayerRow], onset: int | None) -> Heatmap | None:
    """The picture of stored columns; a row of several layers shows the one that is farthest above its own usual level.

    What is usual for a layer is the median of its columns' means before the onset.
    """
    if not rows or (not summary.known.any() and not summary.nonfinite.any()):
        return None
    means = summary.mean.astype(np.float64)
    calm = means if onset is None else means[summary.last_steps < onset]
    reference = np.array([_reference(calm[:, layer], means[:, layer]) for layer in range(means.shape[1])])
    with np.errstate(divide="ignore", invalid="ignore"):
        # An infinite norm is a cell of its own kind, not a level.
        levels = np.log2(np.where(np.isinf(summary.maximum), np.nan, summary.maximum.astype(np.float64))) - reference
    shape = len(rows), summary.count
    level, norms, nonfinite = np.empty(shape, np.float32), np.empty(shape, np.float32), np.zeros(shape, np.bool_)
    for row, each in enumerate(rows):
        members = list(each.layers)
        level[row] = _largest(levels[:, members].T)
        norms[row] = _largest(summary.maximum[:, members].astype(np.float64).T)
        nonfinite[row] = (summary.nonfinite[:, members] > 0).any(axis=1)
    return Heatmap(
        names=tuple(each.label for each in rows),
        column_first=summary.first_steps,
        column_last=summary.last_steps,
        octaves=level,
        norms=norms,
        nonfinite=nonfinite,
        total_layers=len(summary.names),
    )


def _largest(values: Float64) -> Float32:
    known = ~np.isnan(values)
    largest = np.where(known, values, -np.inf).max(axis=0)
    return np.where(known.any(axis=0), largest, np.nan).astype(np.float32)


def _nonfinite_cells(window: LayerWindow, rows: list[int], edges: list[int], hits: Sequence[NonfiniteHit]) -> Bool:
    cells = np.zeros((len(rows), len(edges) - 1), np.bool_)
    place = {window.names[layer]: row for row, layer in enumerate(rows)}
    lasts = window.steps[np.array(edges[1:]) - 1]
    for hit in hits:
        row = place.get(hit.layer)
        column = int(np.searchsorted(lasts, hit.step))
        if row is not None and column < len(lasts) and hit.step >= window.steps[0]:
            cells[row, column] = True
    return cells


def _shown_layers(window: LayerWindow, octaves: Float64, first: Sequence[str]) -> list[int]:
    count = len(window.names)
    if count > _ROWS:
        # Those asked for, then those that moved most; every one of them in its forward place.
        index = {name: layer for layer, name in enumerate(window.names)}
        chosen = [index[name] for name in first[:_ROWS]]
        moved = np.where(np.isfinite(octaves), np.abs(octaves), 0).max(axis=0)
        rest = [layer for layer in np.argsort(-moved, kind="stable").tolist() if layer not in set(chosen)]
        layers = sorted((chosen + rest)[:_ROWS])
    else:
        layers = list(range(count))
    far = 2**31  # a layer of unknown depth stands last, in catalog order
    return sorted(layers, key=lambda layer: (window.depths[layer] if window.depths[layer] >= 0 else far, layer))
