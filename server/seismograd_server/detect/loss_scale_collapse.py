"""`loss_scale_collapse`: the loss scaler backs off again and again, until there is nothing left to back off to.

A scaler finds its level within the first steps of a run, by a skipped step for every halving, and from then on skips
one step whenever it has tried a higher one: both are harmless.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from seismograd_server.detect.context import Context
from seismograd_server.detect.evidence import finite
from seismograd_server.detect.facts import Step, octaves
from seismograd_server.detect.nonfinite import first_layer, first_rank
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import DetectorStatus, Evidence, Finding, Severity, Signature, Visibility


@dataclass(frozen=True, slots=True)
class LossScaleCollapseConfig:
    """Thresholds of `loss_scale_collapse`."""

    # Finding the level takes 32 halvings at most, from the largest scale that anybody begins with.
    warm_up_steps: int = 64
    # Of so many steps, the scaler of a healthy run skips one (trying every 2,000) or, tuned to be eager, one in ten.
    window_steps: int = 128
    skipped_steps: int = 20
    # Or the scale has fallen so far within the window: gradients a hundred times larger than they were.
    fallen_octaves: float = 6.5
    # At a scale of 1 nothing is gained by scaling: gradients overflow by themselves. Three skips there are no chance.
    floor: float = 1.0
    skipped_at_floor: int = 3


@dataclass(slots=True)
class LossScaleCollapseDetector:
    """Warns of too many skipped steps or a falling scale; critical when steps are skipped at the floor."""

    signature: ClassVar[Signature] = Signature.LOSS_SCALE_COLLAPSE

    config: LossScaleCollapseConfig = field(default=LossScaleCollapseConfig(), metadata=SETTING)
    severity: int = Severity.NONE
    since_step: int = 0
    steps: int = 0
    seen_scale: bool = False
    skips: list[tuple[int, float]] = field(
        default_factory=list
    )  # (how many steps were before it, scale), in the window

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        self.steps += 1
        scale = float(step.block.loss_scale[step.row])
        self.seen_scale = self.seen_scale or not math.isnan(scale)
        if not step.skipped_by_scaler:
            return self._quiet(step) if self.severity != Severity.NONE else None
        oldest = self.steps - self.config.window_steps
        self.skips = [(at, then) for at, then in self.skips if at > oldest]
        self.skips.append((self.steps, scale))
        severity, what = self._judge(scale)
        if severity <= self.severity:
            return None
        if self.severity == Severity.NONE:
            self.since_step = step.step
        self.severity = severity
        evidence = Evidence(
            value=finite(scale),
            baseline=finite(max((then for _, then in self.skips), default=math.nan)),
            threshold=self.config.floor,
            leading_layer=first_layer(step, context),
            leading_rank=first_rank(step, context),
            details={"skipped_steps": len(self.skips), "of_steps": min(self.steps, self.config.window_steps)},
        )
        return Finding(self.signature, severity, "", step.step, self.since_step, evidence, what)

    def _judge(self, scale: float) -> tuple[Severity, str]:
        config = self.config
        at_floor = sum(then <= config.floor for _, then in self.skips)
        if at_floor >= config.skipped_at_floor:
            what = f"the loss scale is {scale:.3g} and gradients still overflow"
            return Severity.CRITICAL, f"{what}: {at_floor} steps skipped there"
        late = [(at, then) for at, then in self.skips if at > config.warm_up_steps]
        if len(late) >= config.skipped_steps:
            return Severity.WARNING, f"the loss scaler skipped {len(late)} of {config.window_steps} steps"
        fallen = octaves(max((then for _, then in late), default=math.nan)) - octaves(scale)
        if fallen >= config.fallen_octaves:
            return Severity.WARNING, f"the loss scale has fallen to {scale:.3g}, by a factor of {2.0**fallen:.0f}"
        return Severity.NONE, ""

    def _quiet(self, step: Step) -> Finding | None:
        if self.skips and self.steps - self.skips[-1][0] < self.config.window_steps:
            return None
        self.severity = Severity.NONE
        reason = f"no step has been skipped for {self.config.window_steps} steps"
        return Finding(self.signature, Severity.NONE, "", step.step, self.since_step, Evidence(), reason)

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """A calm step is not skipped, which is news only after many that were."""
        if self.severity == Severity.NONE:
            return stretch.count
        left = self.config.window_steps - 1 - (self.steps - self.skips[-1][0]) if self.skips else 0
        return max(0, min(stretch.count, left))

    def skip(self, stretch: Stretch) -> None:
        """Steps are counted."""
        self.steps += stretch.count
        if not self.seen_scale and stretch.facts.knows_scales:
            scales = stretch.facts.block.loss_scale[stretch.start : stretch.start + stretch.count]
            self.seen_scale = not np.isnan(scales).all()

    def status(self, context: Context) -> DetectorStatus:
        """Armed from the first step on; blind in a run without a loss scaler."""
        if context.seen and not self.seen_scale:
            return DetectorStatus(self.signature, Visibility.BLIND, "no loss scale is known")
        return DetectorStatus(self.signature, Visibility.ARMED, "")
