"""Records of one step from all ranks -> one closed step: what the whole launch's gradient was. Pure.

One agreeing replica per shard, squares added over shards in float64. A layer of which a shard is missing is not known,
rather than too small, and so is one of which the ranks have summands. Where layers were not shipped, the totals of the
ranks compose the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from seismograd_server.detect.closing import Closing, Part
from seismograd_server.detect.layout import Plan, make_plan
from seismograd_server.detect.nonfinites import compose_nonfinite
from seismograd_server.detect.replicas import replica_gaps
from seismograd_server.detect.scalars import by_rank, lowest_rank, mean_over_ranks
from seismograd_server.detect.shards import Reported, layers_of, rank_totals, squares_of
from seismograd_server.model import (
    Bool,
    Catalog,
    ClosedBlock,
    Float32,
    Float64,
    Quantity,
    RankLayers,
    RecordFlag,
    UInt8,
    UInt16,
    unknown32,
)

# As a plain number: an enum takes a microsecond for every `&`.
_INEXACT = np.uint16(RecordFlag.INEXACT)


@dataclass(slots=True)
class Composer:
    """Composes the closings of one (launch, optimizer), in order.

    The layout at a step follows from the catalogs that steps up to it were recorded under, and from nothing else, so
    that it does not depend on where the stream was cut. `versions` (catalog version in use by rank) is its whole state.
    """

    world_size: int
    attempt: int
    catalogs: dict[tuple[int, int], Catalog] = field(default_factory=dict)  # by (rank, version)
    hostnames: dict[int, str] = field(default_factory=dict)  # by rank
    versions: dict[int, int] = field(default_factory=dict)
    compare: bool = True  # replicas with each other; whoever composes again need not: what was found is stored
    _plan: Plan | None = None

    def compose(self, closing: Closing) -> Iterator[ClosedBlock]:
        """Give the closing as blocks, each of one layout."""
        for start, stop, changes in self._cuts(closing):
            if changes or self._plan is None:
                self.versions |= changes
                in_use = {rank: self.catalogs[rank, version] for rank, version in self.versions.items()}
                self._plan = make_plan(in_use, self.world_size, self.hostnames)
            yield compose_block(cut(closing, start, stop), self._plan, self.attempt, compare=self.compare)

    def _cuts(self, closing: Closing) -> list[tuple[int, int, dict[int, int]]]:
        """Ranges of the closing under one set of catalogs, with what changes at the start of each."""
        in_use = dict(self.versions)
        changes: dict[int, dict[int, int]] = {0: {}}
        for part in sorted(closing.parts, key=_first_position):
            version = part.batch.catalog_version
            if in_use.get(part.rank) != version:
                in_use[part.rank] = version
                changes.setdefault(_first_position(part), {})[part.rank] = version
        starts = sorted(changes)
        stops = [*starts[1:], len(closing.steps)]
        return [(start, stop, changes[start]) for start, stop in zip(starts, stops, strict=True)]


def cut(closing: Closing, start: int, stop: int) -> Closing:
    """Steps [start, stop) of a closing."""
    if start == 0 and stop == len(closing.steps):
        return closing
    parts = []
    for part in closing.parts:
        positions = np.arange(len(closing.steps))[part.positions]
        first, last = np.searchsorted(positions, (start, stop)).tolist()
        if first < last:
            inside = positions[first:last] - start
            parts.append(Part(part.rank, part.batch, part.start + first, part.start + last, inside))
    return Closing(closing.branch, closing.steps[start:stop], closing.ranks_present[start:stop], tuple(parts))


def compose_block(closing: Closing, plan: Plan, attempt: int, *, compare: bool = True) -> ClosedBlock:
    """Compose steps that were all recorded under the catalogs of `plan`; without `compare`, no replica gaps."""
    count, world_size = len(closing.steps), plan.layout.world_size
    reported = _gradient_norms(closing, plan)
    squares, layer_norms = layers_of(plan, reported, count)
    norms = np.sqrt(squares.sum(axis=1)) if plan.slot_count else np.full(count, np.nan)
    flags, times, sources = _heads(closing)
    inexact = (flags & _INEXACT) != 0
    if np.count_nonzero(plan.partial):
        inexact[:] = True
        norms, layer_norms = _without_summands(closing, plan, squares, layer_norms)
    else:
        _fall_back_on_totals(norms, inexact, closing, plan)
    rank_loss, rank_loss_known = by_rank(closing, Quantity.LOSS, world_size)
    nonfinite, nonfinite_layers = compose_nonfinite(closing, plan)
    return ClosedBlock(
        layout=plan.layout,
        attempt=attempt,
        branch=closing.branch,
        steps=closing.steps,
        times=times,
        ranks_present=closing.ranks_present,
        global_norm=norms,
        layer_norms=layer_norms,
        nonfinite=nonfinite,
        nonfinite_layers=nonfinite_layers,
        inexact=inexact,
        sources=sources,
        flags=flags,
        loss=mean_over_ranks(rank_loss, rank_loss_known),
        loss_known=rank_loss_known[:, 0] if world_size == 1 else np.logical_or.reduce(rank_loss_known, axis=1),
        rank_loss=rank_loss,
        rank_loss_known=rank_loss_known,
        rank_norm=by_rank(closing, Quantity.LOCAL_NORM, world_size)[0],
        learning_rate=lowest_rank(closing, Quantity.LEARNING_RATE),
        loss_scale=lowest_rank(closing, Quantity.LOSS_SCALE),
        clip_threshold=lowest_rank(closing, Quantity.CLIP_THRESHOLD),
        clip_coefficient=lowest_rank(closing, Quantity.CLIP_COEFFICIENT),
        step_seconds=lowest_rank(closing, Quantity.STEP_SECONDS),
        weight_norms=_sampled(closing, plan, Quantity.WEIGHT_NORM),
        update_norms=_sampled(closing, plan, Quantity.UPDATE_NORM),
        sampled=sampled_layers(closing, plan),
        rank_layers=rank_layers(closing, plan),
        replica_gaps=replica_gaps(closing, plan, reported) if compare else (),
    )


def _heads(closing: Closing) -> tuple[UInt16, Float64, UInt8]:
    """Flags, times and sources of the steps: united, the latest, and those of the lowest rank."""
    count = len(closing.steps)
    if len(closing.parts) == 1 and isinstance(closing.parts[0].positions, slice):  # a run of one rank, nearly always
        (part,) = closing.parts
        if part.stop - part.start == count:
            batch, rows = part.batch, slice(part.start, part.stop)
            return batch.flags[rows], batch.times[rows], batch.sources[rows]
    flags = np.zeros(count, np.uint16)
    times, sources = np.full(count, -np.inf), np.zeros(count, np.uint8)
    for part in reversed(closing.parts):  # the lowest rank is the last to write
        batch, rows = part.batch, slice(part.start, part.stop)
        flags[part.positions] |= batch.flags[rows]
        times[part.positions] = np.maximum(times[part.positions], batch.times[rows])
        sources[part.positions] = batch.sources[rows]
    return flags, times, sources


def _first_position(part: Part) -> int:
    return int(part.positions.start if isinstance(part.positions, slice) else part.positions[0])


def _gradient_norms(closing: Closing, plan: Plan) -> list[Reported]:
    reported = []
    for part in closing.parts:
        norms = part.batch.gradient_norms
        if norms is not None:
            values, slots = norms[part.start : part.stop], plan.slots[part.rank]
            reported.append(Reported(part.rank, part.positions, slots, values, part.batch.rounded))
    return reported


def _sampled(closing: Closing, plan: Plan, quantity: Quantity) -> Float32:
    """A sampled tensor column as float32[n, l]; NaN where it was not sampled."""
    reported = _tensor(closing, plan, quantity)
    if not reported:  # the usual case
        return unknown32(len(closing.steps), len(plan.layout.names))
    return layers_of(plan, reported, len(closing.steps))[1]


def _tensor(closing: Closing, plan: Plan, quantity: Quantity) -> list[Reported]:
    reported = []
    for part in closing.parts:
        column = part.batch.tensors.get(quantity)
        if column is None:
            continue
        first, last = np.searchsorted(column.rows, (part.start, part.stop)).tolist()
        if first < last:
            slots = plan.slots[part.rank][column.parameters]
            positions = part.at(column.rows[first:last])
            reported.append(Reported(part.rank, positions, slots, column.values[first:last]))
    return reported


def sampled_layers(closing: Closing, plan: Plan) -> dict[Quantity, Float32]:
    """Sampled columns that are no norms: over the shards of a layer the largest counts."""
    found = {}
    for quantity in (Quantity.MAX_ABS, Quantity.SPECTRAL_GAIN):
        if reported := _tensor(closing, plan, quantity):
            squares = squares_of(plan, reported, len(closing.steps))
            with np.errstate(over="ignore"):
                found[quantity] = np.sqrt(np.maximum.reduceat(squares, plan.first_slots, axis=1)).astype(np.float32)
            found[quantity][:, plan.partial] = np.nan  # no summand tells how large the sum is
    return found


def rank_layers(closing: Closing, plan: Plan) -> tuple[RankLayers, ...]:
    """What each rank's own gradients were: of the slots that it holds, so that nothing is composed over ranks."""
    found = []
    for each in _tensor(closing, plan, Quantity.LOCAL_GRADIENT_NORM):
        norms = np.full((len(each.values), len(plan.layout.names)), np.nan, np.float32)
        norms[:, plan.slot_layers[each.slots]] = each.values
        rows = np.arange(len(closing.steps), dtype=np.int64)[each.positions]
        found.append(RankLayers(each.rank, rows, norms))
    return tuple(found)


def _fall_back_on_totals(norms: Float64, inexact: Bool, closing: Closing, plan: Plan) -> None:
    """Fill in steps whose layers are not all known: from the ranks' totals, else from what the clipping returned."""
    missing = np.isnan(norms)
    if not np.count_nonzero(missing):
        return
    totals = rank_totals(closing)
    if plan.groups and plan.covered.all():
        squares = np.zeros(len(norms))
        for ranks in plan.groups:
            squares += np.square(_lower_median(totals[:, list(ranks)]))
        norms[missing] = np.sqrt(squares[missing])
        missing = np.isnan(norms)
    if np.count_nonzero(missing):
        reported = lowest_rank(closing, Quantity.REPORTED_NORM)
        norms[missing] = reported[missing]
        inexact |= missing & ~np.isnan(norms)


def _without_summands(closing: Closing, plan: Plan, squares: Float64, layer_norms: Float32) -> tuple[Float64, Float32]:
    """What is known where some layers came as summands: what the clipping returned, else the norm of all others."""
    norms = lowest_rank(closing, Quantity.REPORTED_NORM).copy()
    missing = np.isnan(norms)
    norms[missing] = np.sqrt(squares[missing][:, ~plan.partial].sum(axis=1))
    return norms, np.where(plan.partial, np.float32(np.nan), layer_norms)


def _lower_median(values: Float64) -> Float64:
    """float64[n] of float64[n, k]: over the values that are known, NaN where none is."""
    ordered = np.sort(values, axis=1)
    known = np.count_nonzero(~np.isnan(ordered), axis=1)
    middle = np.maximum(known - 1, 0) // 2
    found: Float64 = np.take_along_axis(ordered, middle[:, None], axis=1)[:, 0]
    return found
