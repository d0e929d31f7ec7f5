"""Which replicas do not agree, though they hold the same shards of the same gradient. Pure.

Replicas whose gradients have the same bits have the same norms to the bit: those that ship no rows send a digest of
theirs. Where digests differ, the totals tell by how much. Where several ranks ship rows of the same shard, these are
compared with the one that composition agreed on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from seismograd_server.detect.closing import Closing
from seismograd_server.detect.layout import Plan
from seismograd_server.detect.shards import Reported, rank_totals, squares_of
from seismograd_server.model import Bool, Float32, ReplicaGap, UInt64

# The least that is told: bits differ, and the norms by less than float32 can say.
LEAST_GAP = 2.0**-24
# Replicas that add up the same numbers in another order (other kernels, other threads) differ by some 1e-7.
BEYOND_ROUNDING = 1e-5


def replica_gaps(closing: Closing, plan: Plan, reported: Sequence[Reported]) -> tuple[ReplicaGap, ...]:
    """Compare replicas step by step; `reported` are the rows of the ranks that shipped norms by parameter.

    Rows that were rounded are left out: whether they agreed was found out when they came.
    """
    if plan.layout.world_size == 1:
        return ()
    exact = [each for each in reported if not each.rounded]
    found = [*_by_digest(closing, plan, exact), *_by_row(plan, exact, len(closing.steps))]
    return tuple(sorted(found, key=lambda each: (each.row, each.rank)))


def _by_digest(closing: Closing, plan: Plan, reported: Sequence[Reported]) -> Iterator[ReplicaGap]:
    sent = {part.rank for part in closing.parts if part.batch.digests is not None}
    for twins in plan.twins if sent else ():
        if not sent.intersection(twins):
            continue
        places = {rank: place for place, rank in enumerate(twins)}
        digests = np.zeros((len(closing.steps), len(twins)), np.uint64)
        known = np.zeros(digests.shape, np.bool_)
        for part in closing.parts:
            if part.rank in places and part.batch.digests is not None:
                digests[part.positions, places[part.rank]] = part.batch.digests[part.start : part.stop]
                known[part.positions, places[part.rank]] = True
        for each in reported:
            if each.rank in places:
                digests[each.positions, places[each.rank]] = _digests(each.values)
                known[each.positions, places[each.rank]] = True
        yield from _disagreeing(closing, digests, known, twins)


def _disagreeing(closing: Closing, digests: UInt64, known: Bool, twins: Sequence[int]) -> Iterator[ReplicaGap]:
    first = np.take_along_axis(digests, known.argmax(axis=1)[:, None], axis=1)
    odd = np.flatnonzero(((digests != first) & known).any(axis=1)).tolist()
    totals = rank_totals(closing) if odd else np.empty((0, 0))
    for row in odd:
        present = np.flatnonzero(known[row]).tolist()
        counts = Counter(int(digests[row, place]) for place in present)
        usual = counts.most_common(1)[0][0]  # of equally many, those with the lowest rank
        reference = next(totals[row, twins[place]] for place in present if int(digests[row, place]) == usual)
        for place in present:
            if int(digests[row, place]) != usual:
                gap = _relative(abs(totals[row, twins[place]] - reference), reference)
                yield ReplicaGap(row, twins[place], gap)


def _by_row(plan: Plan, reported: Sequence[Reported], count: int) -> Iterator[ReplicaGap]:
    if len({each.rank for each in reported}) < 2:
        return
    holders = np.zeros(plan.slot_count, np.int64)
    for slots in {each.rank: each.slots for each in reported}.values():
        holders[slots] += 1
    holders[plan.partial[plan.slot_layers]] = 0  # summands are not meant to agree
    if not (holders > 1).any():
        return
    agreed = np.sqrt(squares_of(plan, reported, count))
    for each in reported:
        shared = holders[each.slots] > 1
        reference, norms = agreed[each.positions][:, each.slots[shared]], each.values[:, shared].astype(np.float64)
        # What is not known here (NaN) agrees with everything.
        distance = np.nan_to_num(norms - reference, nan=0.0, posinf=np.inf)
        rows = np.arange(count)[each.positions]
        for place in np.flatnonzero(np.abs(distance).max(axis=1, initial=0.0) > 0.0).tolist():
            gap = _relative(float(np.linalg.norm(distance[place])), float(np.linalg.norm(reference[place])))
            yield ReplicaGap(int(rows[place]), each.rank, gap)


def _relative(distance: float, reference: float) -> float:
    return max(distance / reference if reference > 0.0 else float("inf"), LEAST_GAP)


def _digests(rows: Float32) -> UInt64:
    """The digests that replicas with these rows send (telemetry.proto says how)."""
    canonical = np.where(np.isnan(rows), np.float32(np.nan), rows).astype("<f4", copy=False)
    width = canonical.shape[1] * 4
    data = canonical.tobytes()
    return np.array(
        [
            int.from_bytes(hashlib.blake2b(data[begin : begin + width], digest_size=8).digest(), "little")
            for begin in range(0, len(rows) * width, width)
        ],
        np.uint64,
    )
