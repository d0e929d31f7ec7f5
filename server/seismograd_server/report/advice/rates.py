"""Advice on the learning rate: a jump, a missing warm-up, a rate that is too high. Pure."""

from __future__ import annotations

import numpy as np

from seismograd_server.display.numbers import figure, share, times
from seismograd_server.display.text import plural
from seismograd_server.reading.history import LayerWindow
from seismograd_server.report.advice.case import Case
from seismograd_server.report.contents import Advice, Verdict

# Healthy updates of labelled runs stayed below 10 ** -1.37 of the weights' norm (4.3 %); half of it is aimed at.
_UPDATE_RATIO_AIM = 0.02
_UPDATE_RATIO_LIMIT = 10**-1.37
# Warm-ups below a hundred steps did not settle Adam's second moment (beta2 = 0.99 has a memory of 100 steps).
_WARM_UP_STEPS = 100
# A rise this long before the onset may have caused it; before that, the rate was steady for at least so many steps.
_RECENT_STEPS = 50
_STEADY_STEPS = 20
_STEADY = 0.05
# A run that was well for longer than this at its full rate did not fail for want of a warm-up.
_EARLY_STEPS = 60


def undo_rate_jump(case: Case) -> Advice | None:
    """The learning rate had been steady, and was raised shortly before the onset."""
    row = case.onset_row
    rows = np.flatnonzero(np.isfinite(case.series.learning_rate[: row + 1]))
    rate = case.series.learning_rate[rows]
    before, recent = rate[:-_RECENT_STEPS][-_STEADY_STEPS:], rate[-_RECENT_STEPS:]
    if len(before) < _STEADY_STEPS or not before[-1] > 0 or np.ptp(before) > _STEADY * before[-1]:
        return None
    old, new = float(before[-1]), float(recent.max())
    if new < 1.5 * old:
        return None
    steps = case.series.steps[rows[-_RECENT_STEPS:]]
    first = int(steps[int(np.argmax(recent > (1 + _STEADY) * old))])
    last = int(steps[int(np.argmax(recent))])
    onset = int(case.series.steps[row])
    course = f"at step {first:,}" if first == last else f"between steps {first:,} and {last:,}"
    ahead = f"{plural(onset - first, 'step')} before" if onset > first else "at"
    return Advice(
        f"Undo the rise of the learning rate at step {first:,}",
        f"It went from a steady {figure(old)} to {figure(new)} {course}; that began {ahead} the onset. Spread such a "
        "rise over a few hundred steps, or stay at the old value.",
        (("before", figure(old)), ("after", figure(new)), ("factor", times(new / old))),
    )


def warm_up(case: Case) -> Advice | None:
    """It failed while the rate was rising, or at once at full rate: warm up, or warm up longer."""
    row = case.onset_row
    rate = case.series.learning_rate[: row + 1]
    rate = rate[np.isfinite(rate) & (rate > 0)]
    onset = int(case.series.steps[row] - case.series.steps[0])
    if not len(rate) or case.focus.onset is None or case.blames_rank or undo_rate_jump(case) is not None:
        return None
    now, earlier = float(rate[-1]), float(rate[max(0, len(rate) - _STEADY_STEPS)])
    wanted = max(_WARM_UP_STEPS, 2 * _nice_step(onset))
    if now > (1 + _STEADY) * earlier and now >= float(rate.max()):
        return Advice(
            f"Raise the learning rate more slowly: over {wanted:,} steps or more",
            f"The onset came while the learning rate was still rising, at {figure(now)} after "
            f"{plural(onset, 'step')}; the peak the schedule aims at may be too high as well.",
            (("rate at the onset", figure(now)), ("warm-up to try", f"{wanted:,} steps")),
        )
    if onset > _EARLY_STEPS or float(rate[0]) < 0.5 * now:
        return None
    return Advice(
        f"Warm the learning rate up over the first {wanted:,} steps",
        f"The run was at its full rate of {figure(now)} from the first step and its norms left their range after "
        f"{plural(onset, 'step')}. The first updates are the largest that a fresh network sees.",
        (("rate from the first step", figure(now)), ("warm-up to try", f"{wanted:,} steps")),
    )


def _nice_step(steps: int) -> int:
    return max(50, round(steps, -1))


def lower_rate(case: Case) -> Advice | None:
    """The factor by which to lower the learning rate, from the update ratio where sampled, else from the growth."""
    row = case.onset_row
    known = case.series.learning_rate[: row + 1]
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known) or case.focus.onset is None or case.blames_rank or undo_rate_jump(case) is not None:
        # A rate just raised is to be put back, not lowered from there; one rank's data are no matter of the rate.
        return None
    if case.negative_decay is not None:
        return None  # its growth is not the rate's
    rate = float(known[-1])
    ratio = update_ratio_at_onset(case.layers, case.focus.onset)
    if ratio is not None and ratio > _UPDATE_RATIO_LIMIT:
        factor = _round_factor(ratio / _UPDATE_RATIO_AIM)
        return Advice(
            f"Lower the learning rate {times(factor)}: from {figure(rate)} to {figure(rate / factor, 2)}",
            f"At the onset the updates were {share(ratio)} of the weights' own norm in the median layer; healthy runs "
            f"stay below {share(_UPDATE_RATIO_LIMIT)}. The factor brings it to about {share(ratio / factor)}.",
            (("update / weight at the onset", share(ratio)), ("factor", times(factor))),
        )
    if case.doubling is None or case.doubling <= 0:
        return None
    growth = min(2 ** (1 / case.doubling), 100.0)
    if case.verdict is Verdict.ALERTED or growth < 1.02:
        return None
    factor = _round_factor(1 + growth)
    return Advice(
        f"Lower the learning rate {times(factor)}: from {figure(rate)} to {figure(rate / factor, 2)}",
        f"The norm grew by a factor of {figure(growth)} a step. Where a quadratic valley sets the limit, that rate is "
        f"{figure((1 + growth) / 2)} times the stable one for plain gradient descent; the factor leaves as much room "
        "again.",
        (("growth per step", times(growth)), ("factor", times(factor))),
    )


def update_ratio_at_onset(layers: LayerWindow | None, onset: int) -> float | None:
    """Median over layers of update norm over weight norm at the onset: in the first sample from there on.

    Later ones only show how far it went. A run that samples every tenth step has one within the next ten.
    """
    if layers is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = layers.update_norms.astype(np.float64) / layers.weight_norms.astype(np.float64)
    ratios = np.where(np.isfinite(ratios) & (ratios > 0), ratios, np.nan)
    near = (layers.steps >= onset) & (layers.steps <= onset + 10) & ~np.isnan(ratios).all(axis=1)
    rows = np.flatnonzero(near)
    if not len(rows):
        return None
    first = ratios[rows[0]]
    return float(np.median(first[~np.isnan(first)]))


def _round_factor(factor: float) -> float:
    """The next round factor; tenfold at most, because what diverges faster than that says little about the rate."""
    return next((nice for nice in (1.5, 2.0, 3.0, 5.0) if factor <= nice), 10.0)
