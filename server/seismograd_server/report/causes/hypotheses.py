"""One function for each cause: what speaks for it, and how much. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

from seismograd_server.display.numbers import figure, share, times
from seismograd_server.model import Signature
from seismograd_server.report.advice.case import Case
from seismograd_server.report.causes.signs import Signs
from seismograd_server.report.contents import Cause, CauseKind
from seismograd_server.report.layers import recurrent_gain

Hypothesis = Callable[[Case, Signs], Cause | None]
Evidence = list[tuple[str, str]]

# Half as much again is no noise of a schedule.
_RATE_RISEN = 1.5
# Updates beyond 4.3 % of the weights: more than any healthy run of the corpus makes once it has warmed up.
_LARGE_UPDATES = 10**-1.37
# Below this share of the weights, updates cannot be what wrecked them (as `detect.context.HARMLESS_RATIO`).
_SMALL_UPDATES = 0.02
_RECURRENT = ("weight_hh", "recurrent")
# Names aside, growth of a fifth per layer multiplies through ten layers to six.
_DEPTH_FACTOR = 1.2
_DEPTH_FIT = 0.4
# Updates that overshoot multiply the norm at every step; what doubles more slowly is fed by something else.
_SLOW_STEPS = 1.0
# First norms of networks that are well initialised stay far below.
_HUGE_NORM = 100.0


def learning_rate(case: Case, signs: Signs) -> Cause | None:
    """The rate was raised before the onset, or the updates were too large for the weights."""
    evidence: Evidence = []
    if not math.isnan(signs.rate_now):
        evidence.append(("rate at the onset", figure(signs.rate_now)))
    if signs.update_ratio is not None:
        evidence.append(("update / weight at the onset", share(signs.update_ratio)))
    if signs.rate_rise >= _RATE_RISEN:
        evidence.insert(1, ("rate before", figure(signs.rate_before)))
        # A rise that was over long before, or a small one, is less of a reason.
        weight = 0.95 if signs.rate_rise >= 2.0 else 0.8
        return Cause(
            CauseKind.LEARNING_RATE, weight, f"The learning rate rose {times(signs.rate_rise)}", tuple(evidence)
        )
    large = signs.update_ratio is not None and signs.update_ratio > _LARGE_UPDATES
    weight = 0.2 if case.blames_rank or signs.abrupt else 0.4
    weight += 0.1 if large and not signs.early else 0.0  # early, that says `missing_warm_up`
    return Cause(CauseKind.LEARNING_RATE, weight, "The learning rate is too high for this model", tuple(evidence))


def missing_warm_up(case: Case, signs: Signs) -> Cause | None:
    """It began within the first steps, at full rate."""
    if not signs.early or case.blames_rank:
        return None
    evidence: Evidence = [("onset", f"step {case.focus.onset:,}")]
    if math.isnan(signs.rate_now):
        return Cause(CauseKind.MISSING_WARM_UP, 0.4, "The run began without a warm-up, perhaps", tuple(evidence))
    if signs.rate_at_first < 0.5 * signs.rate_now:
        return None
    evidence.append(("rate from the first step", figure(signs.rate_at_first)))
    return Cause(CauseKind.MISSING_WARM_UP, 0.7, "The run began at its full rate, without a warm-up", tuple(evidence))


def initialisation(case: Case, signs: Signs) -> Cause | None:
    """It began within the first steps, from norms that were huge or grew through the depth."""
    if not signs.early:
        return None
    evidence: Evidence = [("first norms", figure(signs.first_norm))]
    grows = case.depth is not None and case.depth[0] >= _DEPTH_FACTOR and case.depth[1] >= _DEPTH_FIT
    grows |= any(alert.signature is Signature.DEPTH_GROWTH for alert in case.alerts)
    if grows and case.depth is not None:
        evidence.append(("growth per layer", times(case.depth[0])))
    huge = signs.first_norm > _HUGE_NORM
    if not grows and not huge:
        return None
    weight = 0.85 if grows and huge else 0.65
    return Cause(CauseKind.INITIALISATION, weight, "The initial weights are too large for this depth", tuple(evidence))


def recurrence(case: Case, signs: Signs) -> Cause | None:
    """A matrix that is applied again and again has a gain above one, or led the rise."""
    names = [] if case.layers is None else [each for each in case.layers.names if any(r in each for r in _RECURRENT)]
    if not names:
        return None
    evidence: Evidence = []
    alert = any(each.signature is Signature.RECURRENT_GAIN for each in case.alerts)
    gain = None if case.layers is None else recurrent_gain(case.layers, case.focus.onset)
    rising = gain is not None and gain[2] >= 1.0 and gain[2] >= 1.1 * gain[1]
    if gain is not None:
        evidence.append(("largest recurrent gain", figure(gain[2], 2)))
    led = bool(case.rises) and case.rises[0].name in names
    if led:
        evidence.append(("first layer out of its range", case.rises[0].name))
    if not (alert or rising or led or signs.early):
        return None
    weight = 0.9 if alert or rising else 0.75 if signs.early else 0.45
    name = case.rises[0].name if led else names[0]
    return Cause(CauseKind.RECURRENT_GAIN, weight, f"States grow through {name}, once per time step", tuple(evidence))


def bad_batch(case: Case, signs: Signs) -> Cause | None:
    """It came from one step to the next while nothing else had changed, or from one rank alone."""
    evidence = _abruptness(signs)
    if case.blames_rank and case.ranks is not None:
        ratio = case.ranks.suspect_ratio
        evidence += [] if ratio is None else [(f"{case.ranks.suspect_quantity} against the others", times(ratio))]
        title = f"Rank {case.ranks.suspect}: its batch or shard is bad, or its machine"
        return Cause(CauseKind.BAD_BATCH, 0.9, title, tuple(evidence))
    if not signs.abrupt or signs.certainly_corrupted:
        return None
    weight = 0.8 if signs.loss_jump >= 1.0 else 0.6
    if signs.bias_gap < 1.0:  # inputs enter the gradients of matrices once more than those of biases
        weight -= 0.05
    return Cause(CauseKind.BAD_BATCH, weight, "A batch is bad: its inputs are out of range", tuple(evidence))


def outlier_target(case: Case, signs: Signs) -> Cause | None:
    """As a bad batch, but all gradients rose alike: what was wrong came with the loss."""
    if not signs.abrupt or signs.certainly_corrupted or case.blames_rank:
        return None
    evidence = _abruptness(signs)
    weight = 0.7
    if not math.isnan(signs.bias_gap):
        evidence.append(("matrices rose beyond biases by", f"{figure(signs.bias_gap, 2)} octaves"))
        weight = 0.6 if signs.bias_gap >= 1.0 else 0.78
    return Cause(CauseKind.TARGET_OUTLIER, weight, "A label or target is an outlier", tuple(evidence))


def corrupted_weights(case: Case, signs: Signs) -> Cause | None:  # noqa: ARG001 (one form for all hypotheses)
    """One tensor's norm changed at the onset by more than an update could."""
    if signs.weight_jump is None or (signs.early and not signs.certainly_corrupted):  # fresh weights move far
        return None
    name, octaves, certain = signs.weight_jump
    evidence = [("its norm changed", times(2.0**octaves)), *_abruptness(signs)]
    weight = 0.92 if certain else 0.79  # between samples far apart a bad batch may have done it
    return Cause(
        CauseKind.WEIGHT_CORRUPTION, weight, f"The weights of {name} were changed from outside", tuple(evidence)
    )


def precision(case: Case, signs: Signs) -> Cause | None:
    """Numbers stopped fitting: overflow from an ordinary norm, or a loss scaler that backs off again and again."""
    collapsed = any(alert.signature is Signature.LOSS_SCALE_COLLAPSE for alert in case.alerts)
    often = signs.precision > 0.02
    if not (collapsed or often or signs.came_broken):
        return None
    evidence: Evidence = []
    if not math.isnan(signs.precision):
        evidence.append(("steps that the loss scaler skipped", share(signs.precision)))
    if signs.came_broken:
        evidence.append(("usual norm before NaN or Inf came", figure(case.healthy.median) if case.healthy else "–"))
    weight = 0.85 if collapsed or signs.came_broken else 0.5
    return Cause(CauseKind.PRECISION_OVERFLOW, weight, "Numbers did not fit into their format", tuple(evidence))


def weight_growth(case: Case, signs: Signs) -> Cause | None:
    """Something other than the gradient makes the weights larger at every step."""
    given, growth = case.negative_decay, signs.weight_growth
    if given is None and growth is None:
        return None
    evidence: Evidence = []
    if given is not None:
        evidence.append((given[0], figure(given[1])))
    if growth is not None:
        evidence.append(("all weight matrices grew alike, by", f"{share(growth)} a step"))
    title = "The weight decay is below zero, so that the weights grow at every step"
    if given is None:
        title = "All weights grow at the same rate, as under a weight decay below zero"
    return Cause(CauseKind.WEIGHT_GROWTH, 0.94 if given is not None else 0.91, title, tuple(evidence))


def changed_setting(case: Case, signs: Signs) -> Cause | None:  # noqa: ARG001 (one form for all hypotheses)
    """A healthy run of the project was given otherwise, and in little else."""
    if case.nearest is None or not case.nearest.settings or case.blames_rank:
        return None
    evidence = [
        (each.key, f"{each.values[1] or '–'} (healthy: {each.values[0] or '–'})") for each in case.nearest.settings
    ]
    title = f"A setting in which the healthy run {case.nearest.key.run} differs"
    return Cause(CauseKind.CHANGED_SETTING, 0.6, title, tuple(evidence))


def loose_clipping(case: Case, signs: Signs) -> Cause | None:
    """Nothing bounded the update: not a cause by itself, but what would have held it."""
    if case.healthy is None or (signs.clip is not None and signs.clip <= 3.0 * case.healthy.high):
        return None
    if signs.clip is None:
        return Cause(CauseKind.LOOSE_CLIPPING, 0.3, "Nothing clipped the gradient", (("threshold", "none"),))
    numbers = (("threshold", figure(signs.clip)), ("usual norm", figure(case.healthy.median)))
    title = f"The clip threshold is {times(signs.clip / case.healthy.median)} the usual norm"
    return Cause(CauseKind.LOOSE_CLIPPING, 0.65 if signs.abrupt else 0.4, title, numbers)


def bootstrapped_targets(case: Case, signs: Signs) -> Cause | None:
    """Norm and loss fed each other, step by step, at a steady rate: targets that the model makes itself do that."""
    if signs.abrupt or case.blames_rank or signs.rate_rise >= _RATE_RISEN or signs.weight_jump is not None:
        return None
    evidence: Evidence = []
    if case.doubling is not None and case.doubling > 0:
        evidence.append(("the norm doubled every", f"{figure(case.doubling, 2)} steps"))
    small = signs.update_ratio is not None and signs.update_ratio < _SMALL_UPDATES
    if small and signs.update_ratio is not None:
        evidence.append(("update / weight at the onset", share(signs.update_ratio)))
    if not evidence:
        return None
    slow = case.doubling is not None and case.doubling >= _SLOW_STEPS
    weight = 0.72 if small else 0.55 if slow else 0.5
    title = "The loss feeds on itself, as where a model makes its own targets (bootstrapping)"
    return Cause(CauseKind.BOOTSTRAPPED_TARGETS, weight, title, tuple(evidence))


def _abruptness(signs: Signs) -> Evidence:
    found: Evidence = []
    for label, octaves in (("norm from one step to the next", signs.norm_jump), ("loss likewise", signs.loss_jump)):
        if math.isfinite(octaves):
            found.append((label, times(2.0**octaves)))
        elif octaves == math.inf:
            found.append((label, "no longer finite"))
    return found


HYPOTHESES: tuple[Hypothesis, ...] = (
    learning_rate,
    missing_warm_up,
    initialisation,
    recurrence,
    bad_batch,
    outlier_target,
    corrupted_weights,
    precision,
    weight_growth,
    changed_setting,
    loose_clipping,
    bootstrapped_targets,
)
