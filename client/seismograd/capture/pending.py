"""A step as the training thread leaves it: numbers still on their way, arithmetic still to be done by the sender."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from seismograd.capture.data import data_ids
from seismograd.capture.draft import Draft, host_values
from seismograd.capture.parts import Part
from seismograd.capture.readback import Array, RingFullError, Transfer
from seismograd.capture.suspicion import Suspicion
from seismograd.outbox.packing import Heading, PackedRecord, pack_step
from seismograd.record import (
    TOTAL_ONLY,
    Float32,
    Float64,
    Nonfinite,
    NormSource,
    Quantity,
    RecordFlag,
    RecordKind,
    StepRecord,
    Travels,
    digest_of,
)

_NO_FLAG = RecordFlag(0)  # combining flags costs as much as the rest of a record; most have none

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


class PendingStep:
    """Implements the sender's PendingRecord."""

    def __init__(
        self,
        heading: Heading,
        draft: Draft,
        transfers: Sequence[tuple[Sequence[object], Transfer]],
        suspicion: Suspicion,
        *,
        on_host: bool,
    ) -> None:
        self._heading = heading
        self._draft = draft
        self._transfers = transfers
        self._suspicion = suspicion
        self._on_host = on_host

    def ready(self) -> bool:
        """Whether every number has arrived; never blocks."""
        return all(transfer.ready() for _, transfer in self._transfers)

    def immediate(self) -> bool:
        """Whether the host has every number already; of a device's, only when something is not finite."""
        if self._on_host and not self._transfers:
            return True
        if not self.ready():
            return False
        if all(transfer.on_host for _, transfer in self._transfers):
            return True
        loss = self._draft.scalars.get(Quantity.LOSS, 0.0)
        return not math.isfinite(loss) or any(
            entry.nonfinite for part in self._draft.parts for entry in part.censuses.values()
        )

    def packed(self) -> PackedRecord | None:
        """What `resolve` gives, packed, for the step that nearly every one is on a host: one list of plain norms.

        Such a step is finished on the training thread, whose caches are cold: what is not looked at costs nothing.
        """
        draft = self._draft
        if not self._on_host or self._transfers or draft.tensors or draft.replica or len(draft.parts) != 1:
            return None
        part = draft.parts[0]
        if part.columns is not None or part.censuses or part.summed or part.largest is not None:
            return None
        if draft.gradient_scale is not None or draft.found_inf is not None or draft.local_norms is not None:
            return None
        if not draft.ships_rows or self._suspicion.columns or isinstance(draft.data, Tensor):
            return None
        row = part.norms.numpy() if part.row is None else part.row
        flags = draft.flags
        scalars = draft.scalars
        if Quantity.CLIP_THRESHOLD in scalars:
            _add_coefficient(scalars)
            if draft.source is not NormSource.SCALER_SKIP and scalars.get(Quantity.CLIP_COEFFICIENT, 1.0) < 1.0:
                flags = RecordFlag.CLIPPED if flags is _NO_FLAG else flags | RecordFlag.CLIPPED
        norms = row if row.dtype == np.float32 else _narrow(row)
        return pack_step(self._heading, draft.source, flags, norms, scalars, data_ids=data_ids(draft.data, None))

    def resolve(self) -> StepRecord:
        """The record, finished. On a device that failed, what has not arrived is recorded as not known.

        Raises RingFullError when its norms could not set out.
        """
        if not self._on_host and not self._transfers:
            raise RingFullError  # whoever asked counts the record as dropped
        arrived: dict[object, Array | None] = {}
        if self._on_host:
            host_names, tensors = host_values(self._draft)
            arrived.update(zip(host_names, (tensor.numpy().reshape(-1) for tensor in tensors), strict=True))
        for names, transfer in self._transfers:
            arrived.update(zip(names, transfer.arrays(), strict=True))
        draft, heading = self._draft, self._heading
        composed = _compose(draft, heading.columns, arrived)
        self._suspicion.observe(composed.unexplained, composed.true_zeros, calm=not composed.found)
        row, flags = composed.row, composed.flags
        scale = _number(arrived, "gradient_scale", draft.gradient_scale)
        if scale is not None and scale > 0.0:
            row = row / scale
        scalars = dict(draft.scalars)
        for quantity in draft.device_scalars:
            if (value := arrived.get(quantity)) is not None:
                scalars[quantity] = float(value[0])
        _add_local_norm(scalars, arrived, draft)
        source = draft.source
        if (_number(arrived, "found_inf", None) or 0.0) != 0.0:
            flags |= RecordFlag.SKIPPED_BY_SCALER
            source = NormSource.SCALER_SKIP
        _add_coefficient(scalars)
        if source is not NormSource.SCALER_SKIP and scalars.get(Quantity.CLIP_COEFFICIENT, 1.0) < 1.0:
            flags |= RecordFlag.CLIPPED
        narrow = _narrow(row)
        total = None if draft.ships_rows else float(np.sqrt(np.nansum(row * row)))
        if draft.by_framework:
            total = _reported_total(scalars, composed)
            flags |= composed.flags
        return StepRecord(
            optimizer=heading.optimizer,
            kind=RecordKind.STEP,
            branch=heading.branch,
            sequence=heading.sequence,
            step=heading.step,
            time_unix_seconds=heading.time_unix_seconds,
            source=source,
            flags=flags,
            catalog_version=heading.catalog_version,
            gradient_norms=None if draft.by_framework else narrow,
            total_norm=total,
            digest=digest_of(narrow) if draft.replica and not draft.by_framework else None,
            nonfinite=_nonfinite(composed.found),
            scalars=scalars,
            tensors=_sampled(draft, heading.columns, arrived, scale),
            data_ids=data_ids(draft.data, arrived.get("data")),
            travels=Travels.ALL if draft.ships_rows else Travels.LOCAL if draft.ships_local else Travels.TOTALS,
        )


@dataclass(slots=True, eq=False)
class _Composed:
    """The norms of one step, put together."""

    row: Float64  # [t]; NaN = not known
    flags: RecordFlag
    found: list[tuple[int, int, int, int]] = field(default_factory=list)  # column, NaN, +Inf, -Inf
    unexplained: set[int] = field(default_factory=set)  # columns to look at more closely from the next step on
    true_zeros: set[int] = field(default_factory=set)


def _compose(draft: Draft, columns: int, arrived: Mapping[object, Array | None]) -> _Composed:
    if len(draft.parts) == 1 and draft.parts[0].columns is None:
        values = arrived.get(("norms", 0))
        # What is ordinary has a short way, because it is walked on the training thread.
        if values is not None and values.size and values.min() > 0.0 and values.max() < np.inf:
            return _Composed(values.astype(np.float64), draft.flags)
    composed = _Composed(np.zeros(columns), draft.flags)  # a parameter without a gradient contributes nothing
    for index, part in enumerate(draft.parts):
        owned = np.arange(columns) if part.columns is None else np.asarray(part.columns)
        values = arrived.get(("norms", index))
        if values is None:
            composed.row[owned] = np.nan
            composed.flags |= RecordFlag.INEXACT
            continue
        composed.row[owned] = values
        odd = owned[~((values > 0.0) & (values < np.inf))]
        if odd.size:
            _explain(composed, odd.tolist(), _censuses(part, arrived.get(("counts", index))))
    return composed


def _reported_total(scalars: dict[Quantity, float], composed: _Composed) -> float:
    """The total that a framework has told; NaN = not known, and then it may be known that it is not finite."""
    total = scalars.get(Quantity.REPORTED_NORM, math.nan)
    if Quantity.REPORTED_NORM in scalars and not math.isfinite(total):
        composed.found.append((TOTAL_ONLY, int(math.isnan(total)), int(math.isinf(total)), 0))
        composed.flags |= RecordFlag.INEXACT
        del scalars[Quantity.REPORTED_NORM]
        return math.nan
    return total


def _censuses(part: Part, counts: Array | None) -> dict[int, tuple[float, ...]]:
    known: dict[int, tuple[float, ...]] = dict(part.censuses)
    if counts is not None:
        known.update(zip(part.counted, map(tuple, counts.reshape(-1, 4).tolist()), strict=True))
    return known


def _explain(composed: _Composed, odd: list[int], known: Mapping[int, tuple[float, ...]]) -> None:
    """Replaces norms that are zero, Inf or NaN by what was found in the gradients, where somebody looked."""
    for column in odd:
        if column in known:
            norm, nan, positive, negative = known[column]
            composed.row[column] = norm
            if nan or positive or negative:
                composed.found.append((column, int(nan), int(positive), int(negative)))
            elif norm == 0.0:
                composed.true_zeros.add(column)
            continue
        composed.unexplained.add(column)
        value = composed.row[column]
        if value != 0.0:
            # The gradient is gone: at least one element was NaN or Inf, and the norm of the rest is not known.
            composed.found.append((column, int(np.isnan(value)), int(np.isposinf(value)), 0))
            composed.row[column] = np.nan
            composed.flags |= RecordFlag.INEXACT


def _nonfinite(found: list[tuple[int, int, int, int]]) -> Nonfinite | None:
    if not found:
        return None
    columns, nan, positive, negative = zip(*sorted(found), strict=True)
    counts = (np.array(kind, dtype=np.uint64) for kind in (nan, positive, negative))
    return Nonfinite(np.array(columns, dtype=np.uint32), *counts)


def _narrow(row: Float64) -> Float32:
    """float32, where a norm beyond its range stays the largest finite one, and one below it the smallest above zero.

    Inf and 0 would say what is not so: that something is broken, or dead.
    """
    narrow = np.minimum(row, _LARGEST).astype("<f4")
    if np.count_nonzero(narrow) < np.count_nonzero(row):
        narrow[(narrow == 0.0) & (row > 0.0)] = _SMALLEST
    return narrow


def _number(arrived: Mapping[object, Array | None], name: object, otherwise: Tensor | float | None) -> float | None:
    if isinstance(otherwise, (int, float)):
        return float(otherwise)
    values = arrived.get(name)
    return None if values is None else float(values[0])


def _add_local_norm(scalars: dict[Quantity, float], arrived: Mapping[object, Array | None], draft: Draft) -> None:
    norms = arrived.get("local_norms")
    if norms is None:
        return
    wide = norms.astype(np.float64)
    scale = _number(arrived, "local_scale", draft.local_scale) or 1.0
    scalars[Quantity.LOCAL_NORM] = float(np.sqrt(np.dot(wide, wide))) / scale


def _add_coefficient(scalars: dict[Quantity, float]) -> None:
    """What torch's clip applies, given its threshold and the total norm that it used."""
    threshold, total = scalars.get(Quantity.CLIP_THRESHOLD), scalars.get(Quantity.REPORTED_NORM)
    if threshold is not None and total is not None:
        coefficient = threshold / (total + 1e-6)
        scalars[Quantity.CLIP_COEFFICIENT] = min(coefficient, 1.0)


def _sampled(
    draft: Draft, columns: int, arrived: Mapping[object, Array | None], scale: float | None
) -> dict[Quantity, Float32]:
    """Sampled columns, float32[t]; NaN = this parameter was not sampled."""
    found = {}
    for quantity, (places, _) in draft.tensors.items():
        divisor = scale if quantity is Quantity.MAX_ABS else None
        found[quantity] = places, arrived.get(("tensor", quantity)), divisor
    if draft.local_norms is not None:
        local_scale = _number(arrived, "local_scale", draft.local_scale)
        found[Quantity.LOCAL_GRADIENT_NORM] = draft.local_norms[0], arrived.get("local_norms"), local_scale
    sampled = {}
    for quantity, (places, values, divisor) in found.items():
        if values is None:
            continue
        row = np.full(columns, np.nan)
        row[slice(None) if places is None else places] = values if not divisor else values / divisor
        sampled[quantity] = _narrow(row)
        sampled[quantity][np.isposinf(row)] = np.inf  # a local gradient that is not finite
    return sampled
