"""`dead_layer`: the gradient of a tensor is exactly zero for long: nothing will ever change it again.

An information: dead units are common, and a tensor that some batches do not use (an expert, a rare embedding) is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

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
    Float32,
    Int64,
    Severity,
    Signature,
    Visibility,
)

# Names in the evidence: more than a person reads would only bloat the alert.
_LAYERS_NAMED = 8


@dataclass(frozen=True, slots=True)
class DeadLayerConfig:
    """Thresholds of `dead_layer`."""

    # Longer than any unit of a healthy model that is used at all goes without a gradient by chance.
    dead_after_steps: int = 256


@dataclass(slots=True)
class DeadLayerDetector:
    """Tells once of the layers that are dead, again when they have doubled in number, and when all are alive."""

    signature: ClassVar[Signature] = Signature.DEAD_LAYER

    config: DeadLayerConfig = field(default=DeadLayerConfig(), metadata=SETTING)
    since_step: int = 0
    told: int = 0  # dead layers at the last finding
    zero_for: Int64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # [l] steps in a row; empty = all 0

    def observe(self, step: Step, context: Context) -> Finding | None:  # noqa: ARG002 (the protocol's form)
        """Look at the next step."""
        if step.skipped or step.broken:
            return None
        self._count(step.layer_norms[None, :])
        dead = np.flatnonzero(self.zero_for >= self.config.dead_after_steps)
        if len(dead) == 0 and self.told:
            self.told = 0
            reason = "every layer receives gradients again"
            return Finding(self.signature, Severity.NONE, "", step.step, self.since_step, Evidence(), reason)
        if len(dead) == 0 or len(dead) < 2 * self.told:
            return None
        if not self.told:
            self.since_step = step.step
        self.told = len(dead)
        names = [step.block.layout.names[layer] for layer in dead[:_LAYERS_NAMED]]
        more = f" and {len(dead) - len(names)} more" if len(dead) > len(names) else ""
        reason = f"no gradient at all for {self.config.dead_after_steps} steps: {', '.join(names)}{more}"
        evidence = Evidence(
            value=float(self.zero_for[dead].max()),
            baseline=finite(0.0),
            threshold=float(self.config.dead_after_steps),
            leading_layer=names[0],
            details={"layers": names, "dead_layers": len(dead)},
        )
        return Finding(self.signature, Severity.INFO, "", step.step, self.since_step, evidence, reason)

    def _count(self, norms: Float32) -> None:
        """Take in layer norms float32[k, l] of steps in a row; what is not known (NaN) is not zero."""
        layers = norms.shape[1]
        zero = norms == 0.0
        if len(self.zero_for) != layers:  # none was zero, or another model from here on
            if not np.count_nonzero(zero):
                self.zero_for = np.zeros(0, dtype=np.int64)
                return
            self.zero_for = np.zeros(layers, dtype=np.int64)
        # Behind the last row that is not zero, counted from the end; all of them if there is none.
        alive = ~zero[::-1]
        run = np.where(alive.any(axis=0), alive.argmax(axis=0), len(norms))
        self.zero_for = np.where(run == len(norms), self.zero_for + run, run)
        if not self.zero_for.any():
            self.zero_for = np.zeros(0, dtype=np.int64)

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """Until a layer may have been zero for long enough."""
        after, longest, norms = self.config.dead_after_steps, 0, stretch.layer_norms
        if len(self.zero_for):
            dead = self.zero_for >= after
            if self.told and (norms.shape[1] != len(dead) or np.count_nonzero(norms[:, dead])):
                return 0
            longest = int(self.zero_for[~dead].max(initial=0))
        elif stretch.count >= after and not np.count_nonzero(norms == 0.0):
            return stretch.count  # no layer is zero at any step of it
        return max(0, min(stretch.count, after - 1 - longest))

    def skip(self, stretch: Stretch) -> None:
        """Zeros are counted."""
        if len(self.zero_for) or not stretch.facts.least_norm > 0.0:  # NaN, too, is looked at
            self._count(stretch.layer_norms)

    def status(self, context: Context) -> DetectorStatus:
        """Armed from the first step on; blind without layer norms."""
        if context.seen and not context.layers.filled:
            return DetectorStatus(self.signature, Visibility.BLIND, "no layer norms are captured")
        return DetectorStatus(self.signature, Visibility.ARMED, "")
