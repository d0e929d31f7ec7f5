"""What was not finite in a closed step, over all ranks: counted once per shard, attributed to every rank. Pure."""

from __future__ import annotations

import numpy as np

from seismograd_server.detect.closing import Closing, Part
from seismograd_server.detect.layout import Plan
from seismograd_server.model import TOTAL_ONLY, Int64, NonfiniteLayer

# Entries kept per step: a dead run has every layer non-finite on every rank at every step, and hundreds say it all.
_LAYERS_A_STEP = 256
_INT64_MAXIMUM = 2**63 - 1


def compose_nonfinite(closing: Closing, plan: Plan) -> tuple[Int64, tuple[NonfiniteLayer, ...]]:
    """Counts int64[n, 3] of NaN, +Inf and -Inf elements, and who reported which layer (by row, rank, layer).

    Replicas of a shard are counted once, by the largest count: an agreeing replica adds nothing, and one that alone
    went bad is not lost.
    """
    counts = np.zeros((len(closing.steps), 3), np.int64)
    found = [_entries(part, plan) for part in closing.parts if part.batch.nonfinite is not None]
    if not found:
        return counts, ()
    entries = np.concatenate(found)
    if not len(entries):
        return counts, ()
    _add_up(counts, entries)
    return counts, _named(entries, plan)


def _entries(part: Part, plan: Plan) -> Int64:
    """int64[k, 6]: position, rank, slot (-1 = total), and the three counts."""
    nonfinite = part.batch.nonfinite
    assert nonfinite is not None  # noqa: S101 (for the type checker; the caller looks)
    inside = np.flatnonzero((nonfinite.rows >= part.start) & (nonfinite.rows < part.stop))
    entries = np.empty((len(inside), 6), np.int64)
    entries[:, 0] = part.at(nonfinite.rows[inside])
    entries[:, 1] = part.rank
    parameters = nonfinite.parameters[inside]
    known = parameters != TOTAL_ONLY
    entries[:, 2] = -1
    entries[known, 2] = plan.slots[part.rank][parameters[known]]
    for column, values in enumerate(
        (nonfinite.nan_counts, nonfinite.positive_inf_counts, nonfinite.negative_inf_counts), start=3
    ):
        entries[:, column] = np.minimum(values[inside], np.uint64(_INT64_MAXIMUM)).astype(np.int64)
    return entries


def _add_up(counts: Int64, entries: Int64) -> None:
    """Add over shards what is the largest over replicas; a total stands in where it is larger than its parts."""
    ordered = entries[np.lexsort((entries[:, 2], entries[:, 0]))]
    changes = np.any(ordered[1:, [0, 2]] != ordered[:-1, [0, 2]], axis=1)
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
    largest = np.maximum.reduceat(ordered[:, 3:], starts, axis=0)
    rows, slots = ordered[starts, 0], ordered[starts, 2]
    parts, totals = slots >= 0, slots < 0
    np.add.at(counts, rows[parts], largest[parts])
    np.maximum.at(counts, rows[totals], largest[totals])


def _named(entries: Int64, plan: Plan) -> tuple[NonfiniteLayer, ...]:
    layers = np.full(len(entries), -1, np.int64)
    known = entries[:, 2] >= 0
    layers[known] = plan.slot_layers[entries[known, 2]]
    order = np.lexsort((layers, entries[:, 1], entries[:, 0]))
    rows = entries[order, 0]
    rank_in_row = np.arange(len(rows)) - np.searchsorted(rows, rows)
    order = order[rank_in_row < _LAYERS_A_STEP]
    return tuple(
        NonfiniteLayer(row, layer, rank, nan, positive, negative)
        for (row, rank, _, nan, positive, negative), layer in zip(
            entries[order].tolist(), layers[order].tolist(), strict=True
        )
    )
