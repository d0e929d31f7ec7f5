"""Ranges of whole numbers (steps), both ends among them, and rows in a row."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from seismograd_server.model.arrays import Bool

Range = tuple[int, int]


def joined_ranges(ranges: Iterable[Range]) -> list[Range]:
    """What some ranges cover together, in ranges that rise and do not touch. An inverted one covers nothing."""
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if last < first:
            continue
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def true_rows(mask: Bool) -> list[Range]:
    """The rows of a mask that are True, as [start, stop) of those in a row."""
    if mask.all():
        return [(0, len(mask))] if len(mask) else []
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
