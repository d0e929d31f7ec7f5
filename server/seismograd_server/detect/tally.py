"""The gauges and counters of a run, folded over its closed steps. Pure: any cut into blocks gives the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from seismograd_server.detect.replicas import BEYOND_ROUNDING
from seismograd_server.model import Bool, ClosedBlock, Float64, Quantity, RecordFlag, Tally, Transition, is_unknown

# The window of `grad_norm_window`, in whole minutes of the run's own clock. Scrapes are 15 to 60 s apart, so that a
# spike of one step would fall between two of them; a server's clock may be a day away from the run's.
WINDOW_MINUTES = 5

# As plain numbers: an enum takes a microsecond for every `&`.
_SKIPPED_BY_SCALER = np.uint16(RecordFlag.SKIPPED_BY_SCALER)
_SKIPPED_BY_USER = np.uint16(RecordFlag.SKIPPED_BY_USER)
_CLIPPED = np.uint16(RecordFlag.CLIPPED)

_TEXT_OF_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def fold(tally: Tally, block: ClosedBlock, baseline: Float64, opened: Iterable[Transition] = ()) -> Tally:
    """Give the tally after one more block.

    Args:
        tally: of everything before.
        block: consecutive closed steps of the first optimizer, n of them (0 is fine).
        baseline: float64, the norm's baseline before each step, or before the last one alone; NaN = none yet.
        opened: the transitions that the block caused; those that opened an alert are counted.
    """
    signatures = _count_opened(tally.signatures, opened)
    if block.count == 0:
        return replace(tally, signatures=signatures)
    reporting = int(np.count_nonzero(block.ranks_present[-1]))
    # The norm of the finite part of a broken gradient says nothing about the run: often it is 0.
    sound = np.isfinite(block.global_norm)
    broken_steps = 0
    if np.count_nonzero(block.nonfinite):
        nonfinite = block.nonfinite.any(axis=1)
        sound &= ~nonfinite
        broken_steps = int(np.count_nonzero(nonfinite & ((block.flags & _SKIPPED_BY_SCALER) == 0)))
    return replace(
        tally,
        step=int(block.steps[-1]),
        grad_norm=_last(block.global_norm, sound, tally.grad_norm),
        grad_norm_baseline=_last_known(baseline, tally.grad_norm_baseline),
        grad_norm_window=_slide(tally.grad_norm_window, block, sound),
        loss=_last(block.loss, block.loss_known, tally.loss),
        loss_scale=_last_known(block.loss_scale, tally.loss_scale),
        learning_rate=_last_known(block.learning_rate, tally.learning_rate),
        grad_norm_max=_largest(block, tally.grad_norm_max),
        update_ratio=_update_ratio(block, tally.update_ratio),
        steps=tally.steps + block.count,
        nonfinite_steps=tally.nonfinite_steps + broken_steps,
        missing_records=tally.missing_records + block.ranks_present.size - int(np.count_nonzero(block.ranks_present)),
        signatures=signatures,
        rank_spread_ratio=_rank_spread(block, tally.rank_spread_ratio),
        ranks_reporting=reporting,
        lowest_missing_rank=int(block.ranks_present[-1].argmin()) if reporting < block.ranks_present.shape[1] else None,
        **_flagged(block, tally),
        **_disagreement(block, tally),
    )


def window_max(tally: Tally) -> float | None:
    """The largest sound norm of the latest five minutes of the run's own clock; None = there was none."""
    return max((norm for _, norm in tally.grad_norm_window), default=None)


def to_json(tally: Tally) -> str:
    """Write a tally; numbers that JSON cannot hold become "NaN", "Infinity" and "-Infinity"."""
    values = {name: getattr(tally, name) for name in Tally.__dataclass_fields__}
    return json.dumps({name: _writable(value) for name, value in values.items()}, allow_nan=False)


def from_json(text: str) -> Tally:
    """Read what `to_json` wrote. Fields that this program does not know are left out; missing ones start afresh.

    Raises:
        ValueError: not a tally.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        # A ValueError like that of json.loads: to a caller a damaged tally is one thing.
        raise ValueError(  # noqa: TRY004 (the type of a stored value is its content)
            f"tally: expected a JSON object, found {type(values).__name__}"
        )
    known: dict[str, Any] = {
        name: _TEXT_OF_NONFINITE.get(value, value) if isinstance(value, str) else value
        for name, value in values.items()
        if name in Tally.__dataclass_fields__
    }
    window = known.get("grad_norm_window", ())
    known["grad_norm_window"] = tuple((int(minute), float(norm)) for minute, norm in window)
    return Tally(**known)


def _writable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _count_opened(counts: Mapping[str, int], transitions: Iterable[Transition]) -> Mapping[str, int]:
    result = dict(counts)
    for transition in transitions:
        if transition.before is None:
            name = transition.alert.signature.value
            result[name] = result.get(name, 0) + 1
    return result


def _last(values: Float64, known: Bool, before: float | None) -> float | None:
    if known[-1]:
        return float(values[-1])
    return float(values[np.flatnonzero(known)[-1]]) if np.count_nonzero(known) else before


def _last_known(values: Float64, before: float | None) -> float | None:
    """The last value that is not NaN."""
    last = float(values[-1])
    if not math.isnan(last):
        return last
    return before if is_unknown(values) else _last(values, ~np.isnan(values), before)


def _flagged(block: ClosedBlock, tally: Tally) -> dict[str, int]:
    """How many steps were skipped or clipped."""
    if not np.count_nonzero(block.flags):  # the usual case
        return {}
    return {
        "skipped_found_inf": tally.skipped_found_inf + int(np.count_nonzero(block.flags & _SKIPPED_BY_SCALER)),
        "skipped_user": tally.skipped_user + int(np.count_nonzero(block.flags & _SKIPPED_BY_USER)),
        "clipped_steps": tally.clipped_steps + int(np.count_nonzero(block.flags & _CLIPPED)),
    }


def _slide(window: tuple[tuple[int, float], ...], block: ClosedBlock, sound: Bool) -> tuple[tuple[int, float], ...]:
    """Move the window of per-minute maxima over the block.

    Minutes are those of the run's clock. A clock that steps back a little keeps its maxima; one that steps back far
    forgets them, instead of holding them until it has caught up.
    """
    usable = sound & np.isfinite(block.times)
    if not np.count_nonzero(usable):
        return window
    maxima = dict(window)
    if np.count_nonzero(usable) == block.count:  # most blocks lie within one minute
        minute = math.floor(block.times.min() / 60.0)
        if minute == math.floor(block.times.max() / 60.0):
            peak = float(block.global_norm.max())
            maxima[minute] = max(peak, maxima.get(minute, peak))
            return _latest(maxima, minute)
    rows = np.flatnonzero(usable)
    minutes = np.floor(block.times[rows] / 60.0).astype(np.int64)
    norms = block.global_norm[rows]
    starts = np.flatnonzero(np.concatenate(([True], minutes[1:] != minutes[:-1])))
    peaks = np.maximum.reduceat(norms, starts)
    for minute, peak in zip(minutes[starts].tolist(), peaks.tolist(), strict=True):
        maxima[minute] = max(peak, maxima.get(minute, peak))
        maxima = dict(_latest(maxima, minute))
    return tuple(sorted(maxima.items()))


def _latest(maxima: Mapping[int, float], minute: int) -> tuple[tuple[int, float], ...]:
    """Those within the window around a minute, in order."""
    return tuple(sorted(each for each in maxima.items() if abs(minute - each[0]) < WINDOW_MINUTES))


def _disagreement(block: ClosedBlock, tally: Tally) -> dict[str, Any]:
    """Steps in which replicas were apart, and by how much in the last of them."""
    apart = [each for each in block.replica_gaps if each.gap > BEYOND_ROUNDING]
    if not apart:  # the usual case
        return {}
    return {
        "disagreeing_steps": tally.disagreeing_steps + len({each.row for each in apart}),
        "replica_gap": max(each.gap for each in apart if each.row == apart[-1].row),
    }


def _largest(block: ClosedBlock, before: float | None) -> float | None:
    """Largest finite element of the last step where it was sampled."""
    column = block.sampled.get(Quantity.MAX_ABS)
    if column is None:
        return before
    rows = np.flatnonzero(~np.isnan(column).all(axis=1))
    return float(np.nanmax(column[rows[-1]])) if len(rows) else before


def _update_ratio(block: ClosedBlock, before: float | None) -> float | None:
    """Norm of the last sampled update over the norm of the weights, over the layers that have both."""
    if is_unknown(block.update_norms):  # most blocks are short and have no sample
        return before
    both = ~np.isnan(block.update_norms)
    both &= ~np.isnan(block.weight_norms)
    rows = np.flatnonzero(both.any(axis=1))
    if len(rows) == 0:
        return before
    row, layers = rows[-1], both[rows[-1]]
    # float64, because the square of a float32 overflows from 2e19 on.
    update = float(np.linalg.norm(block.update_norms[row][layers].astype(np.float64)))
    weight = float(np.linalg.norm(block.weight_norms[row][layers].astype(np.float64)))
    return update / weight if weight > 0 else before


def _rank_spread(block: ClosedBlock, before: float | None) -> float | None:
    """Largest over median of the ranks' own norms at the last step where at least two were sampled."""
    if block.rank_norm.shape[1] < 2:
        return before
    known = ~np.isnan(block.rank_norm)
    rows = np.flatnonzero(known.sum(axis=1) >= 2)
    if len(rows) == 0:
        return before
    norms = block.rank_norm[rows[-1]][known[rows[-1]]]
    median = float(np.median(norms))
    return float(norms.max()) / median if 0 < median < math.inf else before
