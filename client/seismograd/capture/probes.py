"""What is taken on sampled steps only, each kind under a guard of its own, with the time that it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import ParamSpec

from torch import Tensor, nn

from seismograd.capture.budget import Extra
from seismograd.capture.device_time import DeviceTimes
from seismograd.capture.draft import Draft
from seismograd.capture.gains import GainSampler
from seismograd.capture.guard import Guard
from seismograd.capture.largest import largest_elements
from seismograd.capture.layout import Layout
from seismograd.capture.local_norms import LocalNorms
from seismograd.capture.norms import together
from seismograd.capture.parts import Part
from seismograd.capture.weights import Sample, WeightSampler
from seismograd.record import Quantity

P = ParamSpec("P")


class Probes:
    """The probes of one optimizer. `costs` adds up what each took of the host; `take_costs()` sets it back."""

    def __init__(self, guard: Guard, model: nn.Module | None = None) -> None:
        self.costs: dict[Extra, float] = {}  # seconds
        self._guard = guard
        self._device: DeviceTimes | None = None
        self._weights = WeightSampler()
        self._gains = GainSampler(model)
        self._local = LocalNorms(guard)
        self._before: Sample | None = None
        self._gain: Sample | None = None

    def disarm_local(self) -> None:
        """Removes every hook: nobody watches for local gradients."""
        self._local.disarm()

    @property
    def seconds(self) -> float:
        """What the training thread has spent since the costs were taken."""
        return sum(self.costs.values())

    def take_costs(self) -> list[dict[Extra, float]]:
        """Seconds by extra of each step whose extras are done: on a host the latest, on a device some steps later."""
        costs, self.costs = self.costs, {}
        if self._device is None:
            return [costs]
        done = self._guard("device times", self._device.done, costs)
        return [costs] if done is None else done  # what the host has spent is known anyway

    def have_gains(self, layout: Layout) -> bool:
        """Whether any of these parameters is a matrix whose gain is worth knowing."""
        return bool(self._guard(Extra.GAIN.value, self._gains.are_in, layout))

    def forget(self) -> None:
        """The parameters are others now: what was begun for the step is of no use any more."""
        self.disarm_local()
        self._weights.forget()
        self._before = self._gain = None

    def examine(self, parts: list[Part]) -> None:
        """Looks for the largest elements of gradients that have just been measured, before anybody scales them."""
        self._charge(Extra.LARGEST, self._find_largest, parts)

    def before_step(self, layout: Layout, chosen: Collection[Extra]) -> None:
        """Looks at the weights before a sampled step."""
        if self._device is None and layout.device.type == "cuda":
            self._device = DeviceTimes(layout.device)
        if Extra.WEIGHTS in chosen:
            self._charge(Extra.WEIGHTS, self._look_before, layout)
        if Extra.GAIN in chosen:
            self._charge(Extra.GAIN, self._find_gains, layout)

    def after_step(self, draft: Draft) -> None:
        """Looks again, if it did before, and adds what was found to the draft."""
        if self._before is not None:
            self._charge(Extra.WEIGHTS, self._look_after, draft)
        if self._gain is not None:
            draft.tensors[Quantity.SPECTRAL_GAIN], self._gain = self._gain, None

    def arm_local(self, parameters: list[Tensor]) -> None:
        """Watches the next backward pass for gradients before the all-reduce."""
        self._charge(Extra.LOCAL, self._local.arm, parameters)

    def add_local(self, draft: Draft) -> float:
        """Adds what was seen of them, and stops watching. Returns the seconds spent inside the backward pass."""
        if not self._local.armed:
            return 0.0
        self._charge(Extra.LOCAL, self._take_local, draft)
        inside, self._local.seconds = self._local.seconds, 0.0
        self.costs[Extra.LOCAL] += inside
        return inside

    def add_largest(self, draft: Draft) -> None:
        """Adds the largest elements of the gradients, as far as they were looked for."""
        self._charge(Extra.LARGEST, self._take_largest, draft)

    def _find_largest(self, parts: list[Part]) -> None:
        for part in parts:
            if part.fresh:
                part.largest = largest_elements(part.fresh)

    def _take_largest(self, draft: Draft) -> None:
        found = [(part, part.largest) for part in draft.parts if part.largest is not None]
        if not found:
            return
        (first, values), others = found[0], found[1:]
        columns = first.columns
        if others:
            columns = [column for part, owned in found for column in part.columns or range(len(owned))]
            values = together([value for _, owned in found for value in owned])
        draft.tensors[Quantity.MAX_ABS] = columns, values

    def _look_before(self, layout: Layout) -> None:
        self._before = self._weights.before(layout)

    def _look_after(self, draft: Draft) -> None:
        before, self._before = self._before, None
        updates = self._weights.after()
        if before is not None and updates is not None:
            draft.tensors[Quantity.WEIGHT_NORM] = before
            draft.tensors[Quantity.UPDATE_NORM] = updates

    def _find_gains(self, layout: Layout) -> None:
        self._gain = self._gains.measure(layout)

    def _take_local(self, draft: Draft) -> None:
        draft.local_norms = self._local.collect()

    def _charge(self, extra: Extra, function: Callable[P, None], *arguments: P.args, **keywords: P.kwargs) -> None:
        began = time.perf_counter()
        if self._device is not None:
            self._guard("device times", self._device.begin, extra)
        self._guard(extra.value, function, *arguments, **keywords)
        if self._device is not None:
            self._guard("device times", self._device.end, extra)
        self.costs[extra] = self.costs.get(extra, 0.0) + time.perf_counter() - began
