"""Advice on where to look and where to go back to: rank, layer, depth, precision, checkpoint. Pure."""

from __future__ import annotations

import numpy as np

from seismograd_server.display.numbers import figure, octaves, share, times
from seismograd_server.display.text import plural
from seismograd_server.model import Signature
from seismograd_server.report.advice.case import Case
from seismograd_server.report.contents import Advice, Verdict

# Names that torch and people give to hidden-to-hidden matrices.
_RECURRENT = ("weight_hh", "recurrent")
# A fit of log RMS against depth below this explains less than two thirds of the spread: no statement.
_DEPTH_FIT = 0.65
_DEPTH_FACTOR = 1.3


def resume(case: Case) -> Advice | None:
    """Go back to the last checkpoint before the onset."""
    if case.checkpoint is None or case.focus.onset is None or case.verdict is Verdict.ALERTED:
        return None
    before = case.focus.onset - case.checkpoint.step
    return Advice(
        f"Resume from the checkpoint of step {case.checkpoint.step:,}",
        f"It was saved {plural(before, 'step')} before the onset. Later checkpoints hold weights that were already "
        "being damaged; resuming alone repeats the failure unless one of the changes below goes with it.",
        (("checkpoint", case.checkpoint.path or "path not given"), ("steps lost", f"{_steps_lost(case):,}")),
    )


def _steps_lost(case: Case) -> int:
    checkpoint_step = case.checkpoint.step if case.checkpoint else 0
    return max(0, int(case.series.steps[-1]) - checkpoint_step)


def suspect_rank(case: Case) -> Advice | None:
    """One rank was apart from the others: look at its data and its hardware first."""
    ranks = case.ranks
    if ranks is None or ranks.suspect is None or not case.blames_rank:
        return None
    host = ranks.hostnames[ranks.suspect] if ranks.suspect < len(ranks.hostnames) else ""
    numbers: list[tuple[str, str]] = []
    if ranks.suspect_ratio is not None and ranks.suspect_step is not None:
        numbers.append(
            (f"{ranks.suspect_quantity} against the others, step {ranks.suspect_step:,}", times(ranks.suspect_ratio))
        )
    numbers.extend([("host", host)] if host else [])
    return Advice(
        f"Inspect rank {ranks.suspect}: its data shard first, then its machine",
        "Its numbers left those of the other ranks before the run as a whole did. One rank alone points at the data it "
        "read (corrupt or mislabelled samples, a wrong normalisation) or at its hardware; the learning rate and the "
        "initialisation are the same on all ranks and would move them together.",
        tuple(numbers),
    )


def recurrent_layer(case: Case) -> Advice | None:
    """A recurrent matrix led the rise."""
    leading = [rise for rise in case.rises[:3] if any(part in rise.name for part in _RECURRENT)]
    if not leading:
        return None
    first = leading[0]
    return Advice(
        f"Start {first.name} from an orthogonal matrix, and shorten the unrolled sequence",
        f"The hidden-to-hidden matrix was number {first.order} to leave its range, at step {first.step:,}. Gradients "
        "pass through it once per time step, so that a largest singular value above 1 multiplies them at each.",
        (("first out of range", f"step {first.step:,}"), ("peak", f"{octaves(first.peak_octaves)} octaves")),
    )


def depth(case: Case) -> Advice | None:
    """Gradients grew from layer to layer on the way back."""
    if case.depth is None:
        return None
    factor, fit, layers = case.depth
    if fit < _DEPTH_FIT or factor < _DEPTH_FACTOR:
        return None
    return Advice(
        "Tame the growth through the depth: normalisation, residual branches, or a smaller initial gain",
        f"At the onset the gradient grew {times(factor)} per layer on its way back to the input, over {layers} weight "
        f"matrices (fit {figure(fit, 2)}). Dividing the initial gain by that factor makes it level.",
        (("growth per layer", times(factor)), ("over the whole depth", times(factor ** (layers - 1)))),
    )


def vanishing(case: Case) -> Advice | None:
    """Gradients were too small: let them reach the early layers."""
    lead = case.focus.lead
    if lead is None or lead.signature is not Signature.VANISHING:
        return None
    reason = "The early layers hardly receive a gradient, so that they hardly learn, whatever the learning rate."
    numbers: list[tuple[str, str]] = []
    if case.depth is not None and case.depth[0] < 1 and case.depth[1] >= _DEPTH_FIT:
        factor, fit, layers = case.depth
        reason += f" On its way back the gradient shrank {times(1 / factor)} per layer (fit {figure(fit, 2)})."
        numbers = [("shrinks per layer", times(1 / factor)), ("over the depth", times(factor ** (1 - layers)))]
    return Advice(
        "Let the gradient reach the early layers: residual branches, normalisation, or a larger initial gain",
        reason,
        tuple(numbers),
    )


def first_layer(case: Case) -> Advice | None:
    """One layer led clearly: look at what feeds it."""
    if len(case.rises) < 2 or recurrent_layer(case) is not None:
        return None
    first, second = case.rises[0], case.rises[1]
    ahead = second.step - first.step
    if ahead < 2:
        return None
    return Advice(
        f"Look at {first.name} first",
        f"It left its range at step {first.step:,}, {plural(ahead, 'step')} before the next layer ({second.name}). "
        "A single layer ahead of all others points at its own weights, its inputs or its part of the loss.",
        (("ahead of the next layer", plural(ahead, "step")), ("peak", f"{octaves(first.peak_octaves)} octaves")),
    )


def loss_scale(case: Case) -> Advice | None:
    """The loss scaler backed off again and again, or overflow came at a large scale."""
    scale = case.series.loss_scale
    known = np.flatnonzero(np.isfinite(scale) & (scale > 0))
    skipped = float(case.series.skipped.mean()) if case.series.count else 0.0
    collapsed = any(alert.signature is Signature.LOSS_SCALE_COLLAPSE for alert in case.alerts)
    if not len(known) or not (collapsed or skipped > 0.02):
        return None
    first, last = float(scale[known[0]]), float(scale[known[-1]])
    return Advice(
        "Train in bfloat16, or keep the first and last layers in float32",
        f"The loss scaler skipped {share(skipped)} of the steps and went from {figure(first)} to {figure(last)}. "
        "One overflow in some thousand steps is how it works; this many mean that float16 cannot hold these gradients.",
        (("skipped steps", share(skipped)), ("loss scale", f"{figure(first)} → {figure(last)}")),
    )
