"""What a run became, by its outcome: a label, where it began, and where it failed. Looks into the future, on purpose.

Exploding: the loss becomes non-finite, stays above three times its reference to the end, or falls back to chance after
the model had learnt; and the norm rose tenfold, or the run failed within its first fifty steps. The onset is the
injected fault, or the first step of the sustained rise that led there; the failure is the first non-finite loss, the
tenth step in a row above ten times the reference, or the 25th of the stretch that never ended.

Spike: a fault is followed by a norm of ten times the median before it, which comes back within fifty steps, and the run
goes on: it keeps half of what it had learnt. Vanishing: nothing is learnt, and the first layers' gradient is below a
hundredth of the last ones'. Ambiguous: the loss diverges and the norm does not, or the norm never comes back from a
fault that the loss survives, or a spike costs the run more than half of what it had learnt. So is a run that ends dead,
without a gradient in most of its layers, although its loss is no worse than chance: neither healthy nor recovered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.benchmarks.detection.learning import TASKS
from tests.benchmarks.detection.training import Spec

Array = npt.NDArray[np.float64]

_BEHIND_FAULT = 50  # a spike comes back within so many steps; what comes later is not the fault's
_CALM = 10  # steps that separate a rise from what was before it
_STRETCH = 25  # a stretch at the end of fewer steps than this says nothing yet


@dataclass(frozen=True, slots=True)
class Label:
    """What a run became; -1 = no such step."""

    label: str
    onset_step: int = -1
    failure_step: int = -1


def label_of(spec: Spec, arrays: Mapping[str, Any]) -> Label:
    """Label a run."""
    outcome, norm = np.asarray(arrays["outcome"], np.float64), np.asarray(arrays["global_norm"], np.float64)
    loss = np.asarray(arrays["loss"], np.float64)
    chance = TASKS[spec.task].chance
    faults = [fault.step for fault in spec.faults if fault.step < len(loss)]
    failure = failure_step(outcome, loss, chance)
    if failure >= 0:
        onset = faults[0] if faults and faults[0] <= failure else onset_step(norm, failure)
        if failure < 50 or rise(norm, onset) >= 10.0:
            return Label("exploding", onset, failure)
        return Label("ambiguous")
    if faults and rise(norm[: faults[-1] + _BEHIND_FAULT], faults[0]) >= 10.0:
        came_back = np.median(norm[faults[-1] + _BEHIND_FAULT :]) < 3.0 * usual(norm, faults[0])
        recovered = came_back and keeps_half(outcome, faults[0], chance) and not dead(arrays)
        return Label("spike", faults[0]) if recovered else Label("ambiguous")
    if spec.family.startswith("v") and outcome.min() > 0.75 * chance and vanished(arrays):
        return Label("vanishing")
    return Label("ambiguous" if dead(arrays) else "healthy")


def failure_step(outcome: Array, loss: Array, chance: float) -> int:
    """The step at which a run has failed; -1 = it has not."""
    broken = np.flatnonzero(~np.isfinite(loss) | ~np.isfinite(outcome))
    reference = references(outcome, chance)
    with np.errstate(invalid="ignore"):
        far = _tenth_in_a_row(outcome > 10.0 * reference)
        stays = _last_stretch(outcome > 3.0 * reference)
        relearns = _last_stretch((outcome > 0.9 * chance) & (reference < 0.5 * chance))
    start = min((each for each in (stays, relearns) if each >= 0), default=-1)
    lasts = 0 <= start <= len(outcome) - _STRETCH
    if not len(broken) and not lasts:
        return -1
    found: list[int] = broken[:1].tolist()
    if lasts:
        found += [min(start + _STRETCH, len(outcome) - 1), *([far] if far >= start else [])]
    return min(found)


def references(outcome: Array, chance: float) -> Array:
    """Of each step: the lowest median of nine losses so far, and no less than a twentieth of chance.

    Below that a model has learnt its task, and a threefold loss means nothing.
    """
    padded = np.concatenate([np.full(8, np.nan), np.where(np.isfinite(outcome), outcome, np.inf)])
    padded[:8] = outcome[0]
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, 9), axis=1)
    first = np.maximum(smooth, chance)  # until something is learnt, chance is what is compared with
    return np.maximum(np.minimum.accumulate(np.minimum(first, smooth)), 0.05 * chance)


def onset_step(norm: Array, failure: int) -> int:
    """The first step of the rise that led to a failure: behind the last ten steps in a row that were calm.

    Calm is a norm that is not four times the usual one, nor twice with its neighbours, so that an explosion that swings
    begins with its first swing. What is usual is asked again at the onset found, until that stays, so that a slow rise
    is followed to where it began.
    """
    smooth = np.array([np.median(norm[max(0, step - 2) : step + 3]) for step in range(failure + 1)])
    calm_until = failure - 25
    while True:
        level = usual(norm, max(calm_until, 1))
        high = np.flatnonzero((smooth > 2.0 * level) | (norm[: failure + 1] > 4.0 * level))
        onset = failure
        for step in reversed(high.tolist()):
            if onset - step > _CALM:
                break
            onset = step
        if onset >= calm_until:
            return onset
        calm_until = onset


def keeps_half(outcome: Array, fault: int, chance: float) -> bool:
    """Whether a run ends with no less than half of what it had learnt before a fault."""
    before, end = float(np.median(outcome[max(0, fault - 25) : fault])), float(np.median(outcome[-25:]))
    return end <= max(before, 0.5 * (before + chance))


def dead(arrays: Mapping[str, Any]) -> bool:
    """Whether most layers have usually no gradient at all by the end."""
    return bool(np.mean(np.median(np.asarray(arrays["grad_norms"])[0, -25:], axis=0) == 0.0) > 0.5)


def usual(norm: Array, step: int) -> float:
    """The median of the fifty finite norms before a step."""
    before = norm[max(0, step - 50) : step]
    before = before[np.isfinite(before)]
    return float(np.median(before)) if len(before) else float(norm[0])


def rise(norm: Array, onset: int) -> float:
    """How many times the usual norm the largest one from the onset on is."""
    after = norm[onset:]
    if not len(after):
        return 0.0
    if not np.isfinite(after).all():
        return math.inf
    return float(after.max()) / max(usual(norm, onset), 1e-30)


def vanished(arrays: Mapping[str, Any]) -> bool:
    """Whether the first layers' gradient is a hundredth of the last ones'."""
    matrices = [index for index, name in enumerate(arrays["layer_names"]) if "weight" in str(name)]
    typical = np.median(np.asarray(arrays["grad_norms"], np.float64)[0], axis=0)[matrices]
    third = max(1, len(matrices) // 3)
    return bool(np.median(typical[:third]) < 1e-2 * np.median(typical[-third:]))


def _tenth_in_a_row(wrong: npt.NDArray[np.bool_]) -> int:
    count = 0
    for step, each in enumerate(wrong):
        count = count + 1 if each else 0
        if count == 10:
            return step
    return -1


def _last_stretch(wrong: npt.NDArray[np.bool_]) -> int:
    """Where the stretch begins that lasts to the end; -1 = there is none."""
    right = np.flatnonzero(~wrong)
    start = int(right[-1]) + 1 if len(right) else 0
    return start if start < len(wrong) else -1
