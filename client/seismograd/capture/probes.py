"""What is taken on sampled steps only, each kind under a guard of its own, with the time that it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec

from torch import Tensor

from seismograd.capture.guard import Guard
from seismograd.capture.layout import Layout
from seismograd.capture.local_norms import LocalNorms
from seismograd.capture.pending import Draft
from seismograd.capture.weights import Sample, WeightSampler
from seismograd.record import Quantity

P = ParamSpec("P")

_WEIGHTS = "weight and update norms"
_LOCAL = "local norms"


class Probes:
    """The probes of one optimizer. `seconds` adds up what they cost the training thread; the reader sets it back."""

    def __init__(self, guard: Guard) -> None:
        self.seconds = 0.0
        self._guard = guard
        self._weights = WeightSampler()
        self._local = LocalNorms(guard)
        self._before: Sample | None = None

    def close(self) -> None:
        """Removes every hook."""
        self._local.disarm()

    def before_step(self, layout: Layout) -> None:
        """Looks at the weights before a sampled step."""
        self._charge(_WEIGHTS, self._look_before, layout)

    def after_step(self, draft: Draft) -> None:
        """Looks again, if it did before, and adds weight and update norms to the draft."""
        if self._before is not None:
            self._charge(_WEIGHTS, self._look_after, draft)

    def arm_local(self, parameters: list[Tensor]) -> None:
        """Watches the next backward pass for gradients before the all-reduce."""
        self._charge(_LOCAL, self._local.arm, parameters)

    def add_local(self, draft: Draft) -> float:
        """Adds what was seen of them, and stops watching. Returns the seconds spent inside the backward pass."""
        if not self._local.armed:
            return 0.0
        self._charge(_LOCAL, self._take_local, draft)
        inside, self._local.seconds = self._local.seconds, 0.0
        self.seconds += inside
        return inside

    def _look_before(self, layout: Layout) -> None:
        self._before = self._weights.before(layout)

    def _look_after(self, draft: Draft) -> None:
        before, self._before = self._before, None
        updates = self._weights.after()
        if before is not None and updates is not None:
            draft.tensors[Quantity.WEIGHT_NORM] = before
            draft.tensors[Quantity.UPDATE_NORM] = updates

    def _take_local(self, draft: Draft) -> None:
        draft.local_norms = self._local.collect()

    def _charge(self, feature: str, function: Callable[P, None], *arguments: P.args, **keywords: P.kwargs) -> None:
        began = time.perf_counter()
        self._guard(feature, function, *arguments, **keywords)
        self.seconds += time.perf_counter() - began
