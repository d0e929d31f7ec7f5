"""Steps of an optimizer whose gradients only its framework can see: one total, as the framework tells it, no layers.

The framework's adapter gives `ReportedSteps` to `watch()` in the place of the optimizer, and calls `step_begins()` and
`step_ended()` around what may or may not be a step.
"""

from __future__ import annotations

import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from seismograd.capture.draft import Draft
from seismograd.capture.readback import capturing, host_number
from seismograd.capture.stepwatch import OptimizerWatch
from seismograd.record import NormSource, Quantity, RecordFlag


@dataclass(frozen=True, slots=True)
class Reading:
    """What a framework says at one moment; `steps` and `skipped` are running totals, the latter part of the former."""

    steps: int
    skipped: int
    norm: Tensor | float | None  # of the whole gradient of the latest step, unscaled, before clipping; None = not told
    learning_rate: float | None
    loss_scale: float | None
    clip_threshold: float | None = None


class ReportedSteps:
    """Looks like an optimizer without parameters. `read` may fail: then its failure is said once, and nothing more."""

    def __init__(self, read: Callable[[], Reading], strategy: str, **settings: object) -> None:
        self.read = read
        self.strategy = strategy
        self.param_groups: list[dict[str, Any]] = [{"params": [], **settings}]
        self.watch: weakref.ref[ReportedWatch] | None = None

    def register_step_pre_hook(self, _hook: object) -> RemovableHandle:
        """Nobody but the adapter says when a step begins."""
        return RemovableHandle(OrderedDict())

    register_step_post_hook = register_step_pre_hook

    def step_begins(self) -> None:
        """The framework may be about to make a step. Never raises."""
        if (watch := self._live_watch()) is not None:
            watch.framework_begins()

    def step_ended(self) -> None:
        """The framework has made a step, has skipped one, or has only accumulated. Never raises."""
        if (watch := self._live_watch()) is not None:
            watch.framework_ended()

    def _live_watch(self) -> ReportedWatch | None:
        watch = None if self.watch is None else self.watch()
        return None if watch is None or watch.inert else watch


class ReportedWatch(OptimizerWatch):
    """Makes records of what a framework reports."""

    def __init__(self, steps: ReportedSteps, *arguments: Any, **keywords: Any) -> None:
        super().__init__(steps, *arguments, **keywords)  # type: ignore[arg-type]  # as much of an optimizer as is asked for
        self._read = steps.read
        self._before: Reading | None = None
        steps.watch = weakref.ref(self)

    def framework_begins(self) -> None:
        """Reads what the step will change: learning rate, loss scale, the counters."""
        self._timed(self._look)

    def framework_ended(self) -> None:
        """Makes a record, if there was a step."""
        self._timed(self._report)

    def _look(self) -> None:
        self._before = self._read()

    def _report(self) -> None:
        before, self._before = self._before, None
        after = self._read()
        if before is None or after.steps == before.steps or capturing():
            return
        self.begins(self)
        if after.skipped > before.skipped:
            draft = Draft([], NormSource.SCALER_SKIP, RecordFlag.SKIPPED_BY_SCALER, time.time(), by_framework=True)
        else:
            draft = Draft([], NormSource.FRAMEWORK, RecordFlag(0), time.time(), by_framework=True)
            norm = host_number(after.norm)
            if isinstance(norm, Tensor):
                draft.device_scalars[Quantity.REPORTED_NORM] = norm.detach().clone()
            elif norm is not None:
                draft.scalars[Quantity.REPORTED_NORM] = norm
        for quantity, value in (
            (Quantity.LEARNING_RATE, before.learning_rate),
            (Quantity.LOSS_SCALE, before.loss_scale),
            (Quantity.CLIP_THRESHOLD, before.clip_threshold),
        ):
            if value is not None:
                draft.scalars[quantity] = value
        self._finish(draft)
