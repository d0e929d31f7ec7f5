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


def undo_rate_jump(case: Case) -> Advice | None:
    """The learning rate was raised shortly before the onset."""
    row = case.onset_row
    rate = case.series.learning_rate[max(0, row - 50) : row + 1]
    steps = case.series.steps[max(0, row - 50) : row + 1]
    known = np.isfinite(rate) & (rate > 0)
    if known.sum() < 2:
        return None
    rate, steps = rate[known], steps[known]
    ratios = rate[1:] / rate[:-1]
    jump = int(np.argmax(ratios))
    if ratios[jump] < 1.5 or row < 20:
        return None
    before, after, step = float(rate[jump]), float(rate[jump + 1]), int(steps[jump + 1])
    return Advice(
        f"Undo the jump of the learning rate at step {step:,}",
        f"It went from {figure(before)} to {figure(after)} in one step, "
        f"{plural(max(0, int(case.series.steps[row]) - step), 'step')} before the onset, while the run had been "
        "steady. Spread the rise over a few hundred steps, or stay at the old value.",
        (("before", figure(before)), ("after", figure(after)), ("factor", times(after / before))),
    )


def warm_up(case: Case) -> Advice | None:
    """It failed early at full learning rate: warm up, or warm up longer."""
    row = case.onset_row
    rate = case.series.learning_rate
    early = rate[: row + 1]
    known = early[np.isfinite(early) & (early > 0)]
    onset = int(case.series.steps[row] - case.series.steps[0])
    if not len(known) or onset > 5 * _WARM_UP_STEPS or undo_rate_jump(case) is not None:
        return None
    peak = float(known.max())
    rising = float(known[0]) < 0.5 * peak
    wanted = max(_WARM_UP_STEPS, 2 * _nice_step(onset))
    if rising:
        return Advice(
            f"Warm up more slowly: over {wanted:,} steps or more",
            f"The onset came while the learning rate was still rising, at {figure(float(known[-1]))} after "
            f"{plural(onset, 'step')}; the peak the schedule aims at may be too high as well.",
            (("rate at the onset", figure(float(known[-1]))), ("warm-up to try", f"{wanted:,} steps")),
        )
    return Advice(
        f"Warm the learning rate up over the first {wanted:,} steps",
        f"The run was at its full rate of {figure(peak)} from the first step and its norms left their range after "
        f"{plural(onset, 'step')}. The first updates are the largest that a fresh network sees.",
        (("rate from the first step", figure(peak)), ("warm-up to try", f"{wanted:,} steps")),
    )


def _nice_step(steps: int) -> int:
    return max(50, round(steps, -1))


def lower_rate(case: Case) -> Advice | None:
    """The factor by which to lower the learning rate, from the update ratio where sampled, else from the growth."""
    row = case.onset_row
    known = case.series.learning_rate[: row + 1]
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known) or case.focus.onset is None:
        return None
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
