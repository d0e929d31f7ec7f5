"""Advice on clipping: a threshold from the run's own norms, and when clipping is not the answer. Pure."""

from __future__ import annotations

import numpy as np

from seismograd_server.display.numbers import figure, share, times
from seismograd_server.display.text import plural
from seismograd_server.model import Float64
from seismograd_server.reading.history import Series
from seismograd_server.report.advice.case import Case
from seismograd_server.report.contents import Advice, Healthy

# Thresholds in use lie between 0.1 and 10; first norms above that say nothing about a good one.
_CUSTOMARY_LIMIT = 10.0


def clip(case: Case) -> Advice | None:
    """A threshold between the usual norms and the first bad ones, with what it would have done."""
    if case.healthy is None or case.focus.onset is None:
        return None
    threshold = clip_threshold(case.healthy)
    in_force = threshold_in_force(case.series, case.onset_row)
    if in_force is not None and in_force <= 1.5 * threshold:
        return None  # it was clipped about as tightly already: clipping did not save it
    before, during = would_have_clipped(case, threshold)
    if not case.healthy.settled and case.healthy.median > _CUSTOMARY_LIMIT:
        return Advice(
            "Clip the gradient norm, starting at 1",
            f"There was no healthy stretch to measure a threshold from: the first norms already were around "
            f"{figure(case.healthy.median)}. 1 is where most start; the norms of a run that learns will tell better.",
        )
    numbers = [
        ("usual norm, median to 90th percentile", f"{figure(case.healthy.median)} to {figure(case.healthy.high)}"),
        ("would have clipped before the onset", share(before)),
        ("would have clipped from the onset on", share(during)),
    ]
    basis = "" if case.healthy.settled else " It rests on few steps: there was hardly a healthy stretch to measure."
    if in_force is not None:
        return Advice(
            f"Lower the clip threshold from {figure(in_force)} to {figure(threshold, 2)}",
            f"The threshold in force stood {times(in_force / case.healthy.median)} above the usual norm, so it could "
            f"not act before the norm had grown that far.{basis}",
            tuple(numbers),
        )
    return Advice(
        f"Clip the gradient norm at {figure(threshold, 2)}",
        f"Nothing limited the norm. This threshold sits at the upper edge of what was usual for this run.{basis}",
        tuple(numbers),
    )


def clip_threshold(healthy: Healthy) -> float:
    """A threshold with two digits at the 90th percentile of the usual norms, never below their median."""
    digits = f"{max(healthy.median, healthy.high):.1e}"
    return float(digits)


def threshold_in_force(series: Series, row: int) -> float | None:
    """The clip threshold at a row, or the last one known before it; None when nobody clipped."""
    known = series.clip_threshold[: row + 1]
    known = known[np.isfinite(known) & (known > 0)]
    return float(known[-1]) if len(known) else None


def would_have_clipped(case: Case, threshold: float) -> tuple[float, float]:
    """Shares of steps above a threshold, before the onset and from it on; broken steps count as above it."""
    over = (case.series.norm > threshold) | case.series.broken
    row = case.onset_row
    before, during = over[:row], over[row:]
    return float(before.mean()) if len(before) else 0.0, float(during.mean()) if len(during) else 0.0


def clip_hides_growth(case: Case) -> Advice | None:
    """Clipping was engaged all the time: it hid the growth instead of preventing it."""
    row = case.onset_row
    threshold = case.series.clip_threshold[: row + 1][-200:]
    norm = case.series.norm[: row + 1][-200:]
    known = np.isfinite(threshold) & np.isfinite(norm)
    if known.sum() < 20 or case.focus.onset is None:
        return None
    engaged = float((norm[known] > threshold[known]).mean())
    if engaged < 0.8:
        return None
    median = float(np.median(norm[known]))
    return Advice(
        "Do not rely on clipping alone: it was already engaged on nearly every step",
        f"In the {plural(int(known.sum()), 'step')} before the onset {share(engaged)} of the steps were clipped, the "
        f"median one by a factor of {figure(median / float(np.median(threshold[known])), 2)}. Clipping so often acts "
        "as a smaller learning rate and hides growth: lower the rate instead, then raise the threshold to where it "
        "acts rarely.",
        (("clipped before the onset", share(engaged)), ("threshold", figure(float(np.median(threshold[known]))))),
    )


def safety_net(case: Case) -> Advice | None:
    """Nothing happened: a threshold that would have cost nothing, for next time."""
    if case.healthy is None or not case.healthy.settled or threshold_in_force(case.series, case.onset_row) is not None:
        return None
    threshold = float(f"{1.5 * case.healthy.top:.1e}")
    over = _share_above(case.series.norm, threshold)
    return Advice(
        f"If you want a safety net: clip at {figure(threshold, 2)}",
        "Nobody clips this run. A threshold half above the 99th percentile of its norms changes next to nothing while "
        "all is well and bounds what one bad batch can do.",
        (("would have clipped", share(over)), ("99th percentile of the norms", figure(case.healthy.top))),
    )


def _share_above(norm: Float64, threshold: float) -> float:
    finite = norm[np.isfinite(norm)]
    return float((finite > threshold).mean()) if len(finite) else 0.0
