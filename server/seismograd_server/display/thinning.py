"""Long series made short enough to draw, keeping every extreme: no one-step spike may fall between two points."""

from __future__ import annotations

import numpy as np

from seismograd_server.model import Bool, Float64, Int64


def kept_points(values: Float64, buckets: int) -> Int64:
    """Indexes, rising, of the points to draw so that at most `4 * buckets` remain.

    Each bucket keeps its first and last point, its smallest and its largest finite value. Points that are not finite
    are never chosen as extremes: draw them as marks (see `marked_buckets`).

    >>> import numpy as np
    >>> kept_points(np.array([0., 1., 9., 1., 0., -5., 0., 0.]), 1).tolist()
    [0, 2, 5, 7]
    """
    count = len(values)
    if count <= 4 * buckets:
        return np.arange(count, dtype=np.int64)
    edges = np.linspace(0, count, buckets + 1).astype(np.int64)
    finite = np.isfinite(values)
    low = np.where(finite, values, np.inf)
    high = np.where(finite, values, -np.inf)
    chosen: set[int] = set()
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        chosen.update((start, end - 1, start + int(np.argmin(low[start:end])), start + int(np.argmax(high[start:end]))))
    return np.array(sorted(chosen), np.int64)


def marked_buckets(marked: Bool, buckets: int) -> Int64:
    """Indexes of the first marked point of each bucket: enough to draw where marks are, however many there are."""
    places = np.flatnonzero(marked)
    if len(places) <= buckets:
        return places.astype(np.int64)
    bucket = places * buckets // max(1, len(marked))
    _, first = np.unique(bucket, return_index=True)
    return places[first].astype(np.int64)
