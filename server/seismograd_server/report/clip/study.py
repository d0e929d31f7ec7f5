"""From the norms of a run to what clipping did, would have done and should do. Pure, vectorised over steps.

    series -> which steps are judged -> their distribution -> a threshold -> what each threshold would have done

Every number is one pass over arrays of float64[n]; a million steps take some tenths of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seismograd_server.model import Bool, Float64, Int64, NormSource
from seismograd_server.reading.history import Series
from seismograd_server.report.clip.limits import limits_of
from seismograd_server.report.clip.threshold import DRIFT_OCTAVES, Basis, recommend, two_digits
from seismograd_server.report.clip.types import ClipStudy, Counterfactual, Effect, LeftOut, Quantile, Tenth

# torch's own, so that a coefficient computed here is the one that training applied.
_EPSILON = 1e-6
_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
# Thresholds that are looked at when nobody names any, beside the recommended one and the one in force.
_OFFERED = (0.5, 0.75, 0.9, 0.99)
# Start-up steps left out when enough others remain: norms fall fast at first in most runs.
_START_UP = 20
_TENTHS = 10
# Where the norm has drifted, a threshold for what comes next is measured on the last so many tenths.
_RECENT_TENTHS = 3
# A quarter of an octave is as wide as the noise of a calm norm.
_BINS_PER_OCTAVE = 4
# Bins at the most: norms from 2^-32 to 2^32 and whatever lies beyond at the edges.
_MOST_BINS = 256


@dataclass(frozen=True, slots=True)
class _Judged:
    """The steps that the distribution is of, in columns of n."""

    steps: Int64
    norm: Float64  # finite, positive
    path: Float64  # log2 of learning rate times norm, whose product can leave the range of float64
    coefficient: Float64  # of the clipping in force; NaN = nobody clipped

    def part(self, chosen: Bool) -> _Judged:
        return _Judged(self.steps[chosen], self.norm[chosen], self.path[chosen], self.coefficient[chosen])


def study(
    series: Series, onset: int | None, *, thresholds: Sequence[float] = (), closed: int | None = None
) -> ClipStudy:
    """What the norms of a run say on clipping.

    Args:
        series: the run, or a sample of it.
        onset: first step of an incident, from which on norms tell of the explosion and not of the run; None = none.
        thresholds: finite and positive, to be looked at instead of those that the run's own norms suggest.
        closed: how many steps there are, when `series` is a sample.
    """
    judged, left_out = _judged(series, onset)
    in_force = threshold_in_force(series, onset)
    tenths, tenth_of = _tenths(judged)
    drift = _drift(tenths)
    now = _effect(judged, judged.coefficient) if np.isfinite(judged.coefficient).any() else None
    late = judged.norm[tenth_of >= _TENTHS - _RECENT_TENTHS]
    if drift is not None and abs(drift) >= DRIFT_OCTAVES and len(late) >= Basis.SETTLED:
        basis = Basis.of(late, settled=True, recent=True)
    elif len(judged.norm) >= Basis.SETTLED:
        basis = Basis.of(judged.norm, settled=True)
    else:
        basis = Basis.of(_earliest(series, len(judged.norm)), settled=False)
    recommendation = recommend(basis, in_force, now, exploded=onset is not None)
    wanted = list(thresholds) or _offered(judged.norm, recommendation.threshold, in_force)
    exploding = _exploding(series, onset)
    median = float(np.median(judged.norm)) if len(judged.norm) else float("nan")
    start, histogram = _histogram(judged.norm)
    return ClipStudy(
        steps=len(judged.norm),
        looked_at=series.count,
        closed=series.count if closed is None else max(closed, series.count),
        first_step=int(judged.steps[0]) if len(judged.steps) else None,
        last_step=int(judged.steps[-1]) if len(judged.steps) else None,
        onset=onset,
        left_out=left_out,
        quantiles=_quantiles(judged.norm, median),
        histogram_start=start,
        histogram=histogram,
        in_force=in_force,
        now=now,
        recommendation=recommendation,
        counterfactuals=tuple(
            Counterfactual(each, _at(judged, each), _share_over(exploding, each)) for each in sorted(set(wanted))
        )
        if len(judged.norm)
        else (),
        tenths=tenths,
        drift_octaves=drift,
        limits=limits_of(series, judged.norm, left_out, recommendation, len(exploding), closed=closed or 0),
    )


def _earliest(series: Series, count: int) -> Float64:
    """The first norms there are, three at least: all there is to go by where an incident began at once."""
    return series.norm[_sound(series) & _before_any_clip(series)][: max(3, count)]


def threshold_in_force(series: Series, onset: int | None) -> float | None:
    """The last clip threshold known up to the onset; None = nobody clipped."""
    known = series.clip_threshold if onset is None else series.clip_threshold[series.steps <= onset]
    known = known[np.isfinite(known) & (known > 0)]
    return float(known[-1]) if len(known) else None


def _judged(series: Series, onset: int | None) -> tuple[_Judged, LeftOut]:
    before = np.ones(series.count, np.bool_) if onset is None else series.steps < onset
    sound = _sound(series)
    true_norm = _before_any_clip(series)
    rows = np.flatnonzero(before & sound & true_norm)
    start_up = _START_UP if len(rows) >= 3 * _START_UP else 0
    rows = rows[start_up:]
    norm = series.norm[rows]
    rate = series.learning_rate[rows]
    # A rate that is not known, or negative by some schedule, weighs nothing more or less than any other step.
    usable = np.isfinite(rate) & (rate > 0)
    rate = np.where(usable, rate, float(np.median(rate[usable])) if usable.any() else 1.0)
    path = np.log2(norm) + np.log2(rate)
    judged = _Judged(series.steps[rows], norm, path, _coefficients(series)[rows])
    left_out = LeftOut(
        exploding=int(np.count_nonzero(~before)),
        unknown=int(np.count_nonzero(before & ~sound)),
        after_clip=int(np.count_nonzero(before & sound & ~true_norm)),
        start_up=start_up,
    )
    return judged, left_out


def _sound(series: Series) -> Bool:
    return np.isfinite(series.norm) & (series.norm > 0) & ~series.broken & ~series.skipped


def _before_any_clip(series: Series) -> Bool:
    return np.asarray(series.sources != int(NormSource.POST_MODIFICATION), np.bool_)


def _coefficients(series: Series) -> Float64:
    """What clipping multiplied each gradient by: as told, else from its threshold; 1 where others clipped, else NaN."""
    with np.errstate(invalid="ignore"):
        computed = np.minimum(1.0, series.clip_threshold / (series.norm + _EPSILON))
    found = np.where(np.isfinite(series.clip_coefficient), series.clip_coefficient, computed)
    known = np.isfinite(found)
    return np.where(known, found, 1.0 if known.any() else np.nan)


def _effect(judged: _Judged, coefficient: Float64) -> Effect:
    weight = np.exp2(judged.path - judged.path.max())
    return Effect(
        clipped=float(np.mean(coefficient < 1.0)),
        mean=float(np.mean(coefficient)),
        weighted=float(np.sum(weight * coefficient) / np.sum(weight)),
    )


def _at(judged: _Judged, threshold: float) -> Effect:
    return _effect(judged, np.minimum(1.0, threshold / (judged.norm + _EPSILON)))


def _exploding(series: Series, onset: int | None) -> Float64:
    """Norms from the onset on; what is broken counts as infinite, for any threshold meets it."""
    if onset is None:
        return np.zeros(0)
    chosen = (series.steps >= onset) & ~series.skipped
    return np.where(series.broken, np.inf, series.norm)[chosen]


def _share_over(norm: Float64, threshold: float) -> float | None:
    known = norm[~np.isnan(norm)]
    return float(np.mean(known + _EPSILON > threshold)) if len(known) else None


def _offered(norm: Float64, *others: float | None) -> list[float]:
    suggested = [two_digits(value) for value in np.quantile(norm, _OFFERED).tolist()] if len(norm) else []
    return [*suggested, *(value for value in others if value is not None)]


def _quantiles(norm: Float64, median: float) -> tuple[Quantile, ...]:
    if not len(norm):
        return ()
    values = np.quantile(norm, _QUANTILES).tolist()
    return tuple(
        Quantile(share, value, float(np.log2(value) - np.log2(median)))
        for share, value in zip(_QUANTILES, values, strict=True)
    )


def _histogram(norm: Float64) -> tuple[float, tuple[int, ...]]:
    if not len(norm):
        return 0.0, ()
    places = np.floor(np.log2(norm) * _BINS_PER_OCTAVE).astype(np.int64)
    middle = int(np.median(places))
    low = max(int(places.min()), middle - _MOST_BINS // 2)
    places = np.clip(places - low, 0, _MOST_BINS - 1)
    return low / _BINS_PER_OCTAVE, tuple(np.bincount(places).tolist())


def _tenths(judged: _Judged) -> tuple[tuple[Tenth, ...], Int64]:
    """Equal parts of the range of steps, and in which one each judged step lies."""
    if not len(judged.steps):
        return (), np.zeros(0, np.int64)
    first, last = int(judged.steps[0]), int(judged.steps[-1])
    # Edges in whole numbers of any size: a step may be near the end of int64.
    edges = [first + (last + 1 - first) * part // _TENTHS for part in range(_TENTHS + 1)]
    place = np.searchsorted(np.array(edges[1:-1], np.int64), judged.steps, side="right")
    overall = float(np.log2(np.median(judged.norm)))
    found = []
    for tenth in range(_TENTHS):
        own = judged.part(place == tenth)
        if not len(own.norm):
            found.append(Tenth(edges[tenth], max(edges[tenth], edges[tenth + 1] - 1), 0, None, None, None, None))
            continue
        median, high = np.quantile(own.norm, (0.5, 0.9)).tolist()
        effect = _effect(own, own.coefficient) if np.isfinite(own.coefficient).any() else None
        above = float(np.log2(median)) - overall
        found.append(Tenth(edges[tenth], edges[tenth + 1] - 1, len(own.norm), median, high, above, effect))
    return tuple(found), place


def _drift(tenths: Sequence[Tenth]) -> float | None:
    levels = [tenth.octaves for tenth in tenths if tenth.octaves is not None]
    return levels[-1] - levels[0] if len(levels) >= 2 else None
