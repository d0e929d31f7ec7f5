"""What flight recorders have handed over: each rank's own rows, as it recorded them. Blocks.

Details belong to one rank and are never composed: whoever asks for them wants to see this rank and no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from seismograd_server.model import Bool, Catalog, Float32, Float64, Int64, Quantity, Rank, RecordKind, Run, StepBatch
from seismograd_server.reading.encoding import Json, column
from seismograd_server.reading.history import Recorded
from seismograd_server.store.database import Database

# Sampled columns that a detail may have beside the norms.
SAMPLED = (
    Quantity.WEIGHT_NORM,
    Quantity.UPDATE_NORM,
    Quantity.MAX_ABS,
    Quantity.SPECTRAL_GAIN,
    Quantity.LOCAL_GRADIENT_NORM,
)
# Values of one quantity that are read: 16 MiB of float32.
_MOST_VALUES = 4 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class RankDetail:
    """The recorded steps of one rank: t parameters in the order of its catalog, w steps."""

    rank: int
    hostname: str
    names: tuple[str, ...]  # [t]
    steps: Int64  # [w], rising
    norms: Float32  # [w, t], of the finite part of the gradients that this rank holds; NaN = not captured
    total: Float64  # [w], over all parameters; NaN = not captured
    nonfinite: Bool  # [w]: whether anything in the gradient was not finite
    sampled: Mapping[Quantity, Float32]  # [w, t] each; NaN = not sampled


def read_details(
    database: Database,
    run: Run,
    optimizer: int,
    *,
    rank: int | None = None,
    first_step: int | None = None,
    last_step: int | None = None,
) -> list[RankDetail]:
    """The details of the latest launch, by rank; of a range of steps, or of all that was handed over.

    Where a step was made twice (a rewind), the last time counts. Of more steps than memory should hold, the latest.
    """
    with database.read() as transaction:
        launches = transaction.runs.launches(run.run_id)
        if not launches:
            return []
        ranks = transaction.runs.ranks(launches[-1].launch_row)
        wanted = {each.handle: each for each in ranks if rank is None or each.rank == rank}
        batches: dict[int, list[StepBatch]] = {}
        for _, batch in transaction.segments.read(
            launches[-1].launch_row,
            optimizer,
            RecordKind.DETAIL,
            first_step=first_step,
            last_step=last_step,
            on_damage=transaction.damage.noting(run.run_id),
        ):
            if batch.rank_handle in wanted:
                batches.setdefault(batch.rank_handle, []).append(batch)
        catalogs = transaction.runs.catalogs(launches[-1].launch_row, optimizer) if batches else {}
    found = []
    for handle, own in sorted(batches.items(), key=lambda entry: wanted[entry[0]].rank):
        detail = _detail(wanted[handle], own, catalogs, first_step, last_step)
        if detail is not None:
            found.append(detail)
    return found


def read_recorded(database: Database, run: Run, optimizer: int) -> tuple[Recorded, ...]:
    """What every rank of the latest launch has handed over, by rank, in a few numbers each."""
    found: dict[int, Recorded] = {}
    with database.read() as transaction:
        launches = transaction.runs.launches(run.run_id)
        if not launches:
            return ()
        launch_row = launches[-1].launch_row
        ranks = {each.handle: each for each in transaction.runs.ranks(launch_row)}
        catalogs: Mapping[tuple[int, int], Catalog] | None = None
        for _, batch in transaction.segments.read(
            launch_row, optimizer, RecordKind.DETAIL, on_damage=transaction.damage.noting(run.run_id)
        ):
            if batch.rank_handle not in ranks:
                continue
            if catalogs is None:
                catalogs = transaction.runs.catalogs(launch_row, optimizer)
            new = _recorded(ranks[batch.rank_handle], batch, catalogs)
            known = found.get(batch.rank_handle)
            found[batch.rank_handle] = new if known is None else _together(known, new)
    return tuple(sorted(found.values(), key=lambda each: each.rank))


def _recorded(rank: Rank, batch: StepBatch, catalogs: Mapping[tuple[int, int], Catalog]) -> Recorded:
    totals = np.array([_total(batch, row) for row in range(batch.count)])
    top = int(np.argmax(np.where(np.isnan(totals), -np.inf, totals)))
    catalog = catalogs.get((rank.handle, batch.catalog_version))
    layer = ""
    if catalog is not None and batch.gradient_norms is not None and np.isfinite(batch.gradient_norms[top]).any():
        layer = catalog.parameters[int(np.nanargmax(batch.gradient_norms[top]))].name
    broken = [int(batch.steps[row]) for row in range(batch.count) if _broken(batch, row)]
    return Recorded(
        rank=rank.rank,
        hostname=rank.hostname,
        first_step=int(batch.steps[0]),
        last_step=int(batch.steps[-1]),
        steps=batch.count,
        largest=float(totals[top]),
        largest_step=int(batch.steps[top]),
        layer=layer,
        nonfinite_step=min(broken, default=None),
    )


def _together(one: Recorded, other: Recorded) -> Recorded:
    larger = other if not one.largest >= other.largest else one  # NaN gives way
    broken = [each.nonfinite_step for each in (one, other) if each.nonfinite_step is not None]
    return replace(
        larger,
        first_step=min(one.first_step, other.first_step),
        last_step=max(one.last_step, other.last_step),
        steps=one.steps + other.steps,
        nonfinite_step=min(broken, default=None),
    )


def _detail(
    rank: Rank,
    batches: Sequence[StepBatch],
    catalogs: Mapping[tuple[int, int], Catalog],
    first_step: int | None,
    last_step: int | None,
) -> RankDetail | None:
    # Of several versions of the catalog the last one is shown: columns of different parameters do not compare.
    ordered = sorted(batches, key=lambda batch: batch.first_sequence)
    version = ordered[-1].catalog_version
    ordered = [batch for batch in ordered if batch.catalog_version == version]
    catalog = catalogs.get((rank.handle, version))
    if catalog is None:
        return None
    names = tuple(each.name for each in catalog.parameters)
    places: dict[int, tuple[StepBatch, int]] = {}
    for batch in ordered:
        for row, step in enumerate(batch.steps.tolist()):
            if (first_step is None or step >= first_step) and (last_step is None or step <= last_step):
                places[step] = batch, row
    steps = sorted(places)[-max(1, _MOST_VALUES // max(1, len(names))) :]
    if not steps:
        return None
    rows = [places[step] for step in steps]
    norms = np.stack([_norms(batch, row, len(names)) for batch, row in rows])
    return RankDetail(
        rank=rank.rank,
        hostname=rank.hostname,
        names=names,
        steps=np.array(steps, np.int64),
        norms=norms,
        total=np.array([_total(batch, row) for batch, row in rows]),
        nonfinite=np.array([_broken(batch, row) for batch, row in rows], np.bool_),
        sampled=_sampled(rows, len(names)),
    )


def _norms(batch: StepBatch, row: int, columns: int) -> Float32:
    if batch.gradient_norms is None:
        return np.full(columns, np.nan, np.float32)
    norms: Float32 = batch.gradient_norms[row]
    return norms


def _total(batch: StepBatch, row: int) -> float:
    if batch.gradient_norms is not None:
        wide = batch.gradient_norms[row].astype(np.float64)
        return float(np.sqrt(np.nansum(wide * wide)))
    return float(batch.total_norms[row]) if batch.total_norms is not None else float("nan")


def _broken(batch: StepBatch, row: int) -> bool:
    return batch.nonfinite is not None and bool((batch.nonfinite.rows == row).any())


def _sampled(rows: Sequence[tuple[StepBatch, int]], columns: int) -> dict[Quantity, Float32]:
    found: dict[Quantity, Float32] = {}
    for place, (batch, row) in enumerate(rows):
        for quantity in SAMPLED:
            column = batch.tensors.get(quantity)
            if column is None:
                continue
            at = np.flatnonzero(column.rows == row)
            if len(at):
                values = found.setdefault(quantity, np.full((len(rows), columns), np.nan, np.float32))
                values[place, column.parameters] = column.values[at[0]]
    return found


def detail_json(details: Sequence[RankDetail], most_values: int) -> Json:
    """The details of one rank as JSON, one list a step; the latest steps when there are more values than may be."""
    quantities = ["grad_norm", *(quantity.name.lower() for quantity in SAMPLED)]
    if not details:
        return {"layers": [], "steps": [], "nonfinite": [], **{name: [] for name in quantities}}
    (detail,) = details
    shown = slice(-max(1, most_values // max(1, len(detail.names) * (1 + len(detail.sampled)))), None)
    values: Json = {"grad_norm": _columns(detail.norms[shown])}
    for quantity in SAMPLED:
        values[quantity.name.lower()] = _columns(detail.sampled[quantity][shown]) if quantity in detail.sampled else []
    return {
        "layers": list(detail.names),
        "steps": detail.steps[shown].tolist(),
        "nonfinite": detail.nonfinite[shown].tolist(),
        **values,
    }


def _columns(rows: Float32) -> list[list[object]]:
    return [column(row) for row in rows]
