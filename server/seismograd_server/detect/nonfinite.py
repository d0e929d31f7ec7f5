"""`nonfinite`: NaN or Inf in gradients or loss that the loss scaler does not explain."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from seismograd_server.detect.context import Context
from seismograd_server.detect.evidence import finite
from seismograd_server.detect.facts import Step
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import (
    DetectorStatus,
    Evidence,
    Finding,
    Severity,
    Signature,
    Visibility,
)

# Layer names in the evidence: more than a person reads would only bloat the alert.
_LAYERS_NAMED = 8


@dataclass(frozen=True, slots=True)
class NonfiniteConfig:
    """Thresholds of `nonfinite`."""

    # A run that has been finite for this long has got over it; shorter, and a loss that is NaN every few steps would
    # flap.
    recovered_after_steps: int = 20


@dataclass(slots=True)
class NonfiniteDetector:
    """Critical at the first such step; a warning when the job itself skipped it, because the weights are unharmed."""

    signature: ClassVar[Signature] = Signature.NONFINITE

    config: NonfiniteConfig = field(default=NonfiniteConfig(), metadata=SETTING)
    severity: int = Severity.NONE
    since_step: int = 0
    clean_steps: int = 0

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        if step.skipped_by_scaler:
            return None  # the scaler found it, shrank and went on: harmless by design
        if not step.broken:
            return self._clean(step)
        self.clean_steps = 0
        severity = Severity.WARNING if step.skipped_by_user else Severity.CRITICAL
        if severity <= self.severity:
            return None
        if self.severity == Severity.NONE:
            self.since_step = step.step
        self.severity = severity
        return self._finding(step, severity, evidence_of(step, context), reason_of(step, context))

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """A calm step is finite, which is news only after one that was not."""
        return stretch.count if self.severity == Severity.NONE else 0

    def skip(self, stretch: Stretch) -> None:
        """Nothing is counted while all is finite."""

    def _clean(self, step: Step) -> Finding | None:
        if self.severity == Severity.NONE:
            return None
        self.clean_steps += 1
        if self.clean_steps < self.config.recovered_after_steps:
            return None
        self.severity, self.clean_steps = Severity.NONE, 0
        reason = f"gradients and loss have been finite for {self.config.recovered_after_steps} steps"
        return self._finding(step, Severity.NONE, Evidence(), reason)

    def _finding(self, step: Step, severity: Severity, evidence: Evidence, reason: str) -> Finding:
        return Finding(self.signature, severity, "", step.step, self.since_step, evidence, reason)

    def status(self, context: Context) -> DetectorStatus:  # noqa: ARG002 (the protocol's form)
        """Armed from the first step on."""
        return DetectorStatus(self.signature, Visibility.ARMED, "")


def kind_of(step: Step) -> str:
    """Name what is not finite: `nan`, `inf` or `nan and inf`."""
    has_nan = step.nan_count > 0 or (step.loss_known and math.isnan(step.loss))
    has_inf = step.inf_count > 0 or (step.loss_known and math.isinf(step.loss))
    return "nan and inf" if has_nan and has_inf else "nan" if has_nan else "inf"


def evidence_of(step: Step, context: Context) -> Evidence:
    """Collect where it is: layers, ranks, kind and loss scale."""
    names = step.block.layout.names
    layers = sorted({each.layer for each in step.nonfinite_layers if each.layer >= 0})
    scale = float(step.block.loss_scale[step.row])
    details: dict[str, Any] = {
        "kind": kind_of(step),
        "nan_elements": step.nan_count,
        "inf_elements": step.inf_count,
        "layers_affected": len(layers),
        "layers": [names[each] for each in layers[:_LAYERS_NAMED]],
        "ranks": sorted({each.rank for each in step.nonfinite_layers}),
        "loss": _readable(step.loss) if step.loss_known else None,
        "loss_scale": None if math.isnan(scale) else _readable(scale),
    }
    return Evidence(
        baseline=finite(context.baseline()),
        leading_layer=first_layer(step, context),
        leading_rank=first_rank(step, context),
        details=details,
    )


def first_layer(step: Step, context: Context) -> str | None:
    """Name the layer where it began.

    Non-finite values travel backwards through a network, from the loss to the input: where only a part of the layers
    has them, they began in the one nearest the output. Where all have them, whatever rose first before that is named.
    """
    layout = step.block.layout
    layers = sorted({each.layer for each in step.nonfinite_layers if each.layer >= 0})
    if layers and len(layers) < len(layout.names):
        return layout.names[max(layers, key=lambda layer: (layout.depths[layer], layer))]
    return (context.excursion.first_layer or None) if context.excursion.open else None


def first_rank(step: Step, context: Context) -> int | None:
    """Name the one rank that has it: by its own gradient, by its loss, by its shards, or by having stood out before.

    After the all-reduce every replica has it, so that reports of the reduced gradient tell only when a single rank
    other than the lowest (which may speak for all) made one.
    """
    block, row = step.block, step.row
    broken_norms = np.flatnonzero(np.isinf(block.rank_norm[row])).tolist()
    broken_losses = np.flatnonzero(block.rank_loss_known[row] & ~np.isfinite(block.rank_loss[row])).tolist()
    present = np.flatnonzero(block.ranks_present[row]).tolist()
    reporting = sorted({each.rank for each in step.nonfinite_layers})
    if len(present) < 2:
        return None
    if context.ranks.shaken_for:  # all ranks were on their way: which one overflows first is chance
        return context.ranks.leading()
    for ranks in (broken_norms, broken_losses):
        if len(ranks) == 1:
            return int(ranks[0])
    if len(reporting) == 1 and reporting[0] != present[0]:
        return reporting[0]
    return context.ranks.leading()


def reason_of(step: Step, context: Context) -> str:
    """Say it in one line."""
    gradient, loss = step.nan_count + step.inf_count > 0, step.loss_known and not math.isfinite(step.loss)
    where = "gradient and the loss" if gradient and loss else "gradient" if gradient else "loss"
    kind = {"nan": "NaN", "inf": "Inf", "nan and inf": "NaN and Inf"}[kind_of(step)]
    layer, rank = first_layer(step, context), first_rank(step, context)
    names = [f"first in {layer}"] * (layer is not None) + [f"on rank {rank}"] * (rank is not None)
    harm = ", skipped by the job" if step.skipped_by_user else ""
    return f"{kind} in the {where} at step {step.step}{', ' if names else ''}{' '.join(names)}{harm}"


def _readable(value: float) -> float | str:
    """JSON has no NaN: non-finite numbers travel as the strings that the HTTP API uses."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
