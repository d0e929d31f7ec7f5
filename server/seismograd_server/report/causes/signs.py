"""What the hypotheses look at, measured once. Pure. Octaves: 1 is a factor of two; NaN = cannot be told."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from seismograd_server.model import Float64
from seismograd_server.reading.history import LayerWindow, WeightSamples
from seismograd_server.report.advice.case import Case
from seismograd_server.report.advice.rates import update_ratio_at_onset

# Beside the onset: the step that a detector dates it to may be the one before or after.
_NEAR = 2
# What a step is compared with: the median of so many before it.
_BEFORE = 12
# A rate is compared with what it was so long before the onset (`advice.rates` looks back as far).
_RECENT = 50
# The first steps of a run.
_EARLY_STEPS = 60
# Weights are sampled every tenth step by default; a jump is looked for between the samples around the onset.
_SAMPLED_WITHIN = 10
# A norm that is half as large again is no update of a healthy run; in an explosion others move nearly as far.
_JUMP_OCTAVES = 0.6
_APART_OCTAVES = 0.5
# Fewer steps than this are no level that a step could jump from.
_LEAST_BEFORE = 5
# Weights that grow by half a percent a step double within 140 steps: no training does that before it explodes. By more
# than a tenth they are overwritten by updates, and those of Adam at far too high a rate are alike for all layers too.
_LEAST_GROWTH, _MOST_GROWTH = 0.005, 0.1
# Rates of growth that scatter by less than a third are one rate, with what training itself does on top.
_ALIKE = 1 / 3
_LEAST_SAMPLES, _LEAST_SPAN, _LEAST_MATRICES = 3, 8, 3
# The largest number of float16; a norm of many elements may be well below or above it when the first one overflows.
_HALF_OCTAVES = math.log2(65504.0)
_HALF_BELOW, _HALF_ABOVE = 3.0, 4.0


@dataclass(frozen=True, slots=True)
class Signs:
    """Of one incident.

    Attributes:
        early: whether it began within the first steps of the run.
        rate_now, rate_before: the learning rate at the onset, and what it was before: fifty steps ago, or at first.
        rate_at_first: the largest of the first few steps.
        norm_jump: octaves by which the norm rose from one step to the next at the onset.
        loss_jump: the same of the loss.
        weight_jump: (tensor, octaves, certain) whose norm changed at the onset by more than updates explain; None =
            none did, or nobody sampled.
        update_ratio: median update norm over weight norm at the onset.
        bias_gap: octaves by which the gradients of matrices rose further than those of biases at the onset.
        first_norm: the norm of the first steps.
        clip: the threshold in force; None = nobody clipped.
        precision: the share of steps that a loss scaler skipped; NaN = there is none.
        weight_growth: share by which the norms of all weight matrices grew alike at every step before the onset; None =
            they did not, or not enough was sampled.
        came_broken: whether non-finite gradients came from an ordinary norm, or from one as large as float16 holds.
    """

    early: bool
    rate_now: float
    rate_before: float
    rate_at_first: float
    norm_jump: float
    loss_jump: float
    weight_jump: tuple[str, float, bool] | None
    update_ratio: float | None
    bias_gap: float
    first_norm: float
    clip: float | None
    precision: float
    weight_growth: float | None
    came_broken: bool

    @property
    def rate_rise(self) -> float:
        """How many times the rate before it the rate at the onset is."""
        return self.rate_now / self.rate_before if self.rate_before > 0 else math.nan

    @property
    def certainly_corrupted(self) -> bool:
        """Whether weights were changed by something else than updates."""
        return self.weight_jump is not None and self.weight_jump[2]

    @property
    def abrupt(self) -> bool:
        """Whether it came from one step to the next: an eightfold norm."""
        return self.norm_jump >= 3.0


def read_signs(case: Case) -> Signs:
    """Measure a case that has an onset."""
    row, series = case.onset_row, case.series
    rate = series.learning_rate
    now = _largest(rate[max(0, row - _NEAR) : row + _NEAR + 1])
    scaled = np.isfinite(series.loss_scale) & (series.loss_scale > 0)
    layers = case.layers
    onset = int(series.steps[row])
    return Signs(
        early=onset - int(series.steps[0]) <= _EARLY_STEPS,
        rate_now=now,
        rate_before=_before(rate, row),
        rate_at_first=_largest(rate[:5]),
        norm_jump=_jump(series.norm, row),
        loss_jump=_jump(np.where(series.loss_known, series.loss, np.nan), row),
        weight_jump=None if layers is None else _weight_jump(layers, onset),
        update_ratio=update_ratio_at_onset(layers, onset),
        bias_gap=math.nan if layers is None else _bias_gap(layers, onset),
        first_norm=_median(series.norm[:3]),
        clip=case.clip.in_force,
        precision=float(series.skipped.mean()) if scaled.any() else math.nan,
        weight_growth=None if case.weights is None else _weight_growth(case.weights, onset),
        came_broken=_came_broken(case, row),
    )


def _before(rate: Float64, row: int) -> float:
    """The rate before the onset: the lower of what it was fifty steps ago and of its median until then."""
    ago = rate[max(0, row - _RECENT - _NEAR) : max(1, row - _RECENT)]
    return min(
        (each for each in (_median(ago), _median(rate[: max(1, row)])) if not math.isnan(each)), default=math.nan
    )


def _jump(values: Float64, row: int) -> float:
    """The largest rise of a step over the median of those before it, around a row; Inf where it stops being finite."""
    best = math.nan
    for here in range(max(_LEAST_BEFORE, row - _NEAR), min(len(values), row + _NEAR + 1)):
        before, value = values[max(0, here - _BEFORE) : here], float(values[here])
        last = float(values[here - 1])
        level = max(_median(before[before > 0]), last if math.isfinite(last) else 0.0)
        if not level > 0 or math.isnan(value) or value <= 0:
            continue
        best = max(value / level, 0.0 if math.isnan(best) else best)
    return math.log2(best) if best > 0 and math.isfinite(best) else best


def _weight_jump(window: LayerWindow, onset: int) -> tuple[str, float, bool] | None:
    """The tensor whose norm changed around the onset by more than updates can explain.

    Weights are those before the update of their step. Between neighbouring steps that is the triangle inequality: a
    norm moves by no more than the update's norm. Between samples that lie further apart the updates are not known;
    there, it must have moved much further than the others, and is not certain.
    """
    norms, updates = window.weight_norms.astype(np.float64), window.update_norms.astype(np.float64)
    rows = np.flatnonzero(np.isfinite(norms).any(axis=1))
    near = (window.steps[rows] >= onset - 1) & (window.steps[rows] <= onset + _SAMPLED_WITHIN)
    for place in np.flatnonzero(near).tolist():
        if not place:
            continue
        before, row = int(rows[place - 1]), int(rows[place])
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = np.abs(np.log2(norms[row]) - np.log2(norms[before]))
            explained = np.abs(norms[row] - norms[before]) <= 2.0 * updates[before]
        moved = np.where(np.isfinite(moved), moved, 0.0)
        leader, *others = np.argsort(-moved).tolist()
        if moved[leader] < _JUMP_OCTAVES:
            continue
        if window.steps[row] - window.steps[before] == 1:
            if not explained[leader]:
                return window.names[leader], float(moved[leader]), True
        elif not others or moved[leader] - moved[others[0]] >= _APART_OCTAVES:
            return window.names[leader], float(moved[leader]), False
        return None  # that is the explosion itself
    return None


def _weight_growth(weights: WeightSamples, onset: int) -> float | None:
    """Growth that all matrices share is no learning: gradients of different layers never agree so well.

    Between the latest samples before the onset, because a schedule may have turned the growth on.
    """
    steps = weights.steps[weights.steps <= onset]
    far_enough = np.flatnonzero(steps[-1:] - steps >= _LEAST_SPAN)
    if len(steps) < _LEAST_SAMPLES or not len(far_enough):
        return None
    begin, end = int(far_enough[-1]), len(steps) - 1
    matrices = ["bias" not in name and "norm" not in name for name in weights.names]
    first, last = (weights.norms[row][matrices].astype(np.float64) for row in (begin, end))
    usable = np.isfinite(first) & np.isfinite(last) & (first > 0) & (last > 0)
    if usable.sum() < _LEAST_MATRICES:
        return None
    growth = np.log(last[usable] / first[usable]) / float(steps[end] - steps[begin])
    usual, apart = float(np.median(growth)), float(np.ptp(np.percentile(growth, [10, 90])))
    return math.expm1(usual) if _LEAST_GROWTH <= usual <= _MOST_GROWTH and apart <= _ALIKE * usual else None


def _bias_gap(window: LayerWindow, onset: int) -> float:
    """Of the first captured step at which the norms stand two octaves above their medians before the onset."""
    before = window.norms[window.steps < onset - 1].astype(np.float64)
    matrices = np.array([name.endswith("weight") or ".weight_" in name for name in window.names])
    biases = np.array(["bias" in name for name in window.names])
    if len(before) < 3 or not matrices.any() or not biases.any():
        return math.nan
    with np.errstate(all="ignore"):
        usual = np.log2(np.array([_median(column) for column in before.T]))
        for row in np.flatnonzero(window.steps >= onset - 1)[: _NEAR + 3].tolist():
            rise = np.log2(window.norms[row].astype(np.float64)) - usual
            usable = np.isfinite(rise)
            if not (usable & matrices).any() or not (usable & biases).any():
                continue
            if np.median(rise[usable & matrices]) >= 2.0:
                return float(np.median(rise[usable & matrices]) - np.median(rise[usable & biases]))
    return math.nan


def _came_broken(case: Case, row: int) -> bool:
    """Whether the first non-finite gradient came from an ordinary norm, or with a finite loss from where half ends."""
    series = case.series
    broken = np.flatnonzero(series.broken)
    if not len(broken) or case.healthy is None or not case.healthy.settled:
        return False
    first = int(broken[0])
    last = _largest(series.norm[max(0, first - 3) : first])
    if first <= row + _NEAR + 1 and last <= 4.0 * max(case.healthy.top, 1e-30):
        return True
    if not (series.loss_known[first] and math.isfinite(series.loss[first]) and last > 0):
        return False
    scale = float(series.loss_scale[max(0, first - 1)])
    level = math.log2(last * (scale if math.isfinite(scale) and scale > 0 else 1.0))
    return -_HALF_BELOW <= level - _HALF_OCTAVES <= _HALF_ABOVE


def _median(values: Float64) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else math.nan


def _largest(values: Float64) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else math.nan
