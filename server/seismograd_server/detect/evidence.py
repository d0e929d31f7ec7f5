"""What every finding about the norm carries: the numbers, and who leads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from seismograd_server.detect.context import WARM_UP_STEPS, Context
from seismograd_server.detect.facts import Step, from_octaves
from seismograd_server.model import DetectorStatus, Evidence, Signature, Visibility

# log2 of the largest finite number of each type; types that are not here are taken as float32.
_OVERFLOW_OCTAVES = {"float16": 16.0, "bfloat16": 128.0, "float32": 128.0, "float64": 1024.0}
# Slower than a doubling in this many steps is not growth that anybody could wait for.
_SLOWEST_DOUBLING_STEPS = 10_000.0


def norm_evidence(step: Step, context: Context, details: Mapping[str, Any] | None = None) -> Evidence:
    """Describe the norm of this step in the light of what is usual."""
    slope = context.excursion.octaves_per_step()
    doubling = 1.0 / slope if slope * _SLOWEST_DOUBLING_STEPS > 1.0 else None
    return Evidence(
        value=finite(step.norm),
        baseline=finite(context.baseline()),
        threshold=finite(context.threshold()),
        doubling_time_steps=doubling,
        steps_to_overflow=None if doubling is None else max(0.0, overflow_octaves(step) - step.level) * doubling,
        leading_layer=context.leading_layer(step),
        leading_rank=context.ranks.leading(),
        details={**known_details(step, context), **(details or {})},
    )


def known_details(step: Step, context: Context) -> dict[str, Any]:
    """Further numbers, as far as they are known."""
    reading = context.reading
    leading = context.layers.leading(step)
    first: dict[str, Any] = {"first_layer": context.excursion.first_layer} if context.excursion.open else {}
    if context.weights.suspect:
        first["changed_layer"] = context.weights.suspect
    numbers = {
        "octaves_above_baseline": reading.above,
        "octaves_above_record": reading.excess,
        "loss": step.loss if step.loss_known else math.nan,
        "loss_baseline": context.loss.center(),
        "update_over_weight": from_octaves(reading.ratio),
        "update_over_weight_usual": from_octaves(context.updates.usual.center()),
        "leading_layer_octaves": leading[1] if leading else math.nan,
        "clip_coefficient": step.clip_coefficient,
        "learning_rate": float(step.block.learning_rate[step.row]),
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)} | first


def overflow_octaves(step: Step) -> float:
    """log2 of the largest finite number of the narrowest type among the layers."""
    dtypes = {each.removeprefix("torch.") for each in step.block.layout.dtypes}
    return min((_OVERFLOW_OCTAVES.get(each, 128.0) for each in dtypes), default=128.0)


def finite(value: float) -> float | None:
    """A number that JSON can hold, or None."""
    return value if math.isfinite(value) else None


def leaders(step: Step, context: Context, rank: int | None) -> str:
    """Name who leads, for the reason: `, led by rnn.weight_hh_l0 on rank 3`, or nothing."""
    layer = context.leading_layer(step)
    if layer is None:
        return "" if rank is None else f", led by rank {rank}"
    changed = ", whose weights were changed by no update" if context.weights.suspect else ""
    return f", led by {layer}" + ("" if rank is None else f" on rank {rank}") + changed


def times(octaves: float) -> str:
    """Say a factor as people do: `12.3 x`, `3,400 x`, `3.4e+05 x`."""
    if octaves >= 1000.0:
        return "more than 1e300 x"
    ratio = 2.0**octaves
    if octaves <= 6.7:
        return f"{ratio:.1f} x"
    # Two digits are as much as anybody reads, and a power of ten is quicker read only where there are many zeros.
    return f"{float(f'{ratio:.2g}'):,.0f} x" if ratio < 1e5 else f"{ratio:.2g} x"


def baseline_status(signature: Signature, context: Context) -> DetectorStatus:
    """What a detector can see that judges by the norm's baseline."""
    if context.armed():
        return DetectorStatus(signature, Visibility.ARMED, "")
    if context.seen > 2 * WARM_UP_STEPS:
        return DetectorStatus(signature, Visibility.BLIND, "the gradient norm is zero or not known")
    because = f"{len(context.norm)} of {WARM_UP_STEPS} steps for a first baseline"
    return DetectorStatus(signature, Visibility.WARMING_UP, because)
