"""The rules of our peers, expressed again over a trace: each gives the steps at which it would alarm.

Re-expressions, not their code: what each looks at, its window and its threshold are theirs, as their sources or papers
say; where they say nothing (a short warm-up, what becomes of NaN) the kinder reading is taken. They see the global norm
of every step as logged (Inf where the loss scaler skipped) and the loss.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from statistics import median

import numpy as np

from seismograd_server.model import Float64
from seismograd_server.transfer.traces import Trace

Steps = Iterator[int]
Rule = Callable[[Float64, Float64], Steps]
"""(norm[n], loss[n]) -> steps, rising."""


def static(limit: float) -> Rule:
    """A fixed threshold, as small monitors and most home-made rules have it (FIELD: 100 or 1000)."""

    def rule(norm: Float64, loss: Float64) -> Steps:
        yield from np.flatnonzero(~(norm <= limit)).tolist()

    return rule


def nonfinite(norm: Float64, loss: Float64) -> Steps:
    """SageMaker Debugger's ExplodingTensor, and every `isnan` in a training loop."""
    yield from np.flatnonzero(~np.isfinite(norm) | ~np.isfinite(loss)).tolist()


def zclip(threshold: float) -> Rule:
    """ZClip (arXiv 2504.02507): z-score against moving mean and variance with alpha 0.97, warm-up of 25 steps.

    A value beyond the threshold is clipped before it moves the mean, as the paper's reciprocal clipping does.
    """

    def rule(norm: Float64, loss: Float64) -> Steps:
        first: list[float] = []
        mean = variance = 0.0
        for step, value in enumerate(norm.tolist()):
            if not math.isfinite(value):
                yield step
                continue
            if len(first) < 25:
                first.append(value)
                mean, variance = float(np.mean(first)), float(np.var(first))
                continue
            spread = math.sqrt(variance) + 1e-6
            z = (value - mean) / spread
            if z > threshold:
                yield step
                value = mean + threshold * threshold / z * spread  # noqa: PLW2901 (clipped)
            mean = 0.97 * mean + 0.03 * value
            variance = 0.97 * variance + 0.03 * (value - mean) ** 2

    return rule


def running_median(factor: float, window: int = 50) -> Rule:
    """So many times the median of the last fifty: the usual home-made rule, and gradscope's."""

    def rule(norm: Float64, loss: Float64) -> Steps:
        last: deque[float] = deque(maxlen=window)
        for step, value in enumerate(norm.tolist()):
            if not math.isfinite(value) or (len(last) >= 10 and value > factor * median(last)):
                yield step
            if math.isfinite(value):
                last.append(value)

    return rule


def olmo(of: str, deviations: float = 7.0, window: int = 1000, least: int = 100) -> Rule:
    """OLMo 2's spike score (arXiv 2501.00656): seven standard deviations from the mean of the last thousand."""

    def rule(norm: Float64, loss: Float64) -> Steps:
        last: deque[float] = deque(maxlen=window)
        for step, value in enumerate((norm if of == "norm" else loss).tolist()):
            if not math.isfinite(value):
                yield step
                continue
            if len(last) >= least and abs(value - float(np.mean(last))) >= deviations * float(np.std(last)) > 0.0:
                yield step
            last.append(value)

    return rule


def megatron(norm: Float64, loss: Float64) -> Steps:
    """Megatron-LM's rerun state machine: NaN, Inf, or ten times the largest of the first hundred finite losses."""
    largest, seen = 0.0, 0
    for step, value in enumerate(loss.tolist()):
        if not math.isfinite(value):
            yield step
        elif seen < 100:
            largest, seen = max(largest, abs(value)), seen + 1
        elif abs(value) > 10.0 * largest:
            yield step


RULES: Mapping[str, Rule] = {
    "static norm > 100": static(100.0),
    "non-finite only; SageMaker ExplodingTensor": nonfinite,
    "ZClip z = 2.5": zclip(2.5),
    "ZClip z = 10": zclip(10.0),
    "10x running median of 50": running_median(10.0),
    "100x running median of 50": running_median(100.0),
    "OLMo 7 sd over 1000, norm": olmo("norm"),
    "OLMo 7 sd over 1000, loss": olmo("loss"),
    "Megatron loss x10 (+ NaN)": megatron,
}


def seen_by_peers(trace: Trace) -> tuple[Float64, Float64]:
    """The global norm and the loss of a trace as a training loop logs them."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt(np.square(trace.layer_norms).sum(1)), trace.loss
