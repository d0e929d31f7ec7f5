"""Advice on clipping: what the study of the run's norms recommends, and when clipping is not the answer. Pure."""

from __future__ import annotations

import numpy as np

from seismograd_server.display.numbers import figure, share
from seismograd_server.display.text import plural
from seismograd_server.report.advice.case import Case
from seismograd_server.report.contents import Advice


def clip(case: Case) -> Advice | None:
    """A threshold between the usual norms and the first bad ones, with what it would have done."""
    found = case.clip
    threshold = found.recommendation.threshold
    if case.healthy is None or case.focus.onset is None or threshold is None or found.recommendation.keep:
        return None  # when it was clipped about as tightly already, clipping did not save it
    reason = found.recommendation.reason
    would = found.at(threshold)
    usual = f"{figure(case.healthy.median)} to {figure(case.healthy.high)}"
    numbers = [("usual norm, median to 90th percentile", usual)]
    if would is not None:
        numbers.append(("would have clipped before the onset", share(would.effect.clipped)))
        numbers.extend([("would have clipped from the onset on", share(would.exploding))] if would.exploding else [])
    shown = figure(threshold, 2)
    if found.in_force is not None:
        title = f"Lower the clip threshold from {figure(found.in_force)} to {shown}"
    else:
        title = f"Clip the gradient norm at {shown}"
    return Advice(title, reason, tuple(numbers))


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
    found = case.clip
    threshold = found.recommendation.threshold
    would = None if threshold is None else found.at(threshold)
    if threshold is None or would is None or found.in_force is not None or not found.recommendation.settled:
        return None
    top = next(each.norm for each in found.quantiles if each.share == 0.99)
    return Advice(
        f"If you want a safety net: clip at {figure(threshold, 2)}",
        found.recommendation.reason,
        (("would have clipped", share(would.effect.clipped)), ("99th percentile of the norms", figure(top))),
    )
