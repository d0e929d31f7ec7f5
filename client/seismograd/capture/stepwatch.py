"""One optimizer under watch: norms where the clipping takes them or else where the step begins, one record per step.

clip --> harvest --.
                   v
step pre-hook --> draft --> step post-hook --> session
                   ^
loss scaler -------' (a step that it skipped)
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seismograd.capture.budget import Budget
from seismograd.capture.guard import Guard
from seismograd.capture.harvest import Part, make_part, measure
from seismograd.capture.layout import Layout
from seismograd.capture.local_norms import LocalNorms
from seismograd.capture.pending import Draft
from seismograd.capture.readback import capturing
from seismograd.capture.suspicion import Suspicion
from seismograd.capture.weights import Sample, WeightSampler
from seismograd.record import NormSource, Quantity, RecordFlag


@dataclass(slots=True)
class _Clip:
    """What the clipping said: its threshold, and the total norm that it used."""

    threshold: float | None  # None = by value or by another norm
    total: Tensor | float | None


class OptimizerWatch:
    """Implements registry.Watch. `emit` takes each finished draft, `begins` is called before a step is measured.

    Both run on the training thread, inside the guard.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        guard: Guard,
        budget: Budget,
        begins: Callable[[OptimizerWatch], None],
        emit: Callable[[OptimizerWatch, Draft], None],
    ) -> None:
        self.inert = False
        self.layout = Layout(optimizer)
        self.suspicion = Suspicion()
        self.shared_model = False  # other ranks hold the same parameters: local norms are worth taking
        self.hook_seconds = 0.0
        self.hook_calls = 0
        self._optimizer = optimizer
        self._guard = guard
        self._budget = budget
        self._begins = begins
        self._emit = emit
        self._weights = WeightSampler()
        self._local = LocalNorms(guard)
        self._parts: list[Part] = []
        self._clip: _Clip | None = None
        self._tainted = False
        self._draft: Draft | None = None
        self._in_step = False
        self._with_closure = False
        self._sampled = False
        self._scale: Tensor | float | None = None
        self._count = 0
        self._count_at_scaler = -1
        self._before_sample: Sample | None = None
        self._probe: weakref.ref[Tensor] | None = None
        self._last_end: float | None = None
        self._cost = 0.0
        self._extras_cost = 0.0
        self._handles = [
            optimizer.register_step_pre_hook(torch.compiler.disable(self._before_step)),
            optimizer.register_step_post_hook(torch.compiler.disable(self._after_step)),
        ]

    def close(self) -> None:
        """Removes every hook."""
        self.inert = True
        for handle in self._handles:
            handle.remove()
        self._local.disarm()

    def is_of(self, optimizer: object) -> bool:
        """Whether this is the optimizer watched."""
        return optimizer is self._optimizer

    def has_new_gradients(self) -> bool:
        """Whether a backward pass has made new gradients since the last step, as far as one parameter tells."""
        if self._probe is None or not self.layout.parameters:
            return False
        gradient = self.layout.parameters[-1].grad
        return gradient is not None and gradient is not self._probe()

    # ------------------------------------------------------------------------------------ what training calls

    def _before_step(self, _optimizer: object, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not self.inert:
            self._timed(self._begin_step, arguments, keywords)

    def _after_step(self, _optimizer: object, _arguments: tuple[Any, ...], _keywords: dict[str, Any]) -> None:
        if not self.inert:
            self._timed(self._end_step)

    def before_clip(self, parameters: list[Tensor], gradients: list[Tensor], norms: Tensor | None) -> None:
        """Gradients of `parameters` (aligned, none missing) are about to be scaled; `norms` are theirs, if known."""
        self._timed(self._harvest, parameters, gradients, norms)

    def gradients_measured(self, gradients: list[Tensor], norms: Tensor | None) -> None:
        """Somebody asked torch for the norm of these tensors, which may or may not be watched gradients."""
        self._timed(self._harvest_gradients, gradients, norms)

    def after_clip(self, parameters: list[Tensor], threshold: float | None, total: Tensor | None) -> None:
        """The gradients of `parameters` were changed; threshold and total are known for clipping by L2 norm."""
        self._timed(self._note_clip, parameters, threshold, total)

    def scaler_begins(self, scale: Tensor | None) -> None:
        """A loss scaler is about to step the optimizer."""
        self._guard("loss scaler", self._note_scale, scale)

    def scaler_ended(self) -> None:
        """The loss scaler is done with the optimizer, which it may have skipped."""
        self._timed(self._end_scaler)

    def user_skipped(self) -> None:
        """The job decided not to make the step whose gradients are there."""
        self._timed(self._skip, NormSource.OPTIMIZER_STEP, RecordFlag.SKIPPED_BY_USER)

    def _timed(self, function: Callable[..., None], *arguments: Any) -> None:
        began = time.perf_counter()
        self._guard("capture", function, *arguments)
        took = time.perf_counter() - began
        self._cost += took
        self.hook_seconds += took
        self.hook_calls += 1

    # ------------------------------------------------------------------------------------------------ harvest

    @torch.no_grad()
    def _harvest(self, parameters: list[Tensor], gradients: list[Tensor], norms: Tensor | None) -> None:
        if capturing() or (self._in_step and not self._with_closure):
            return
        layout = self.layout
        columns = None
        if not layout.is_exactly(parameters):
            owned = [place for place, parameter in enumerate(parameters) if id(parameter) in layout.column_of]
            if not owned:
                return
            if len(owned) < len(parameters):
                parameters, gradients = [parameters[place] for place in owned], [gradients[place] for place in owned]
                norms = None if norms is None else torch.stack([norms[place] for place in owned])
            columns = [layout.column_of[id(parameter)] for parameter in parameters]
        if self._still_holds(columns):
            return
        self._drop_overlapping(columns)
        if not self._parts:
            self._clip = None  # of gradients that are gone
        if norms is None:
            self._parts += measure(layout, parameters, columns, self.suspicion.columns)
        else:
            self._parts.append(make_part(parameters, gradients, columns, norms, self.suspicion.columns))

    def _harvest_gradients(self, gradients: list[Tensor], norms: Tensor | None) -> None:
        owners = {id(p.grad): p for p in self.layout.parameters if p.grad is not None}
        places = [place for place, gradient in enumerate(gradients) if id(gradient) in owners]
        if not places:
            return
        parameters = [owners[id(gradients[place])] for place in places]
        if len(places) < len(gradients):
            norms = None if norms is None else torch.stack([norms[place] for place in places])
        self._harvest(parameters, [gradients[place] for place in places], norms)

    def _still_holds(self, columns: list[int] | None) -> bool:
        """Whether a norm that was taken before is still that of the gradients: a clip inside a clip, a second clip."""
        for part in self._parts:
            if part.columns is None or (columns is not None and set(columns) <= set(part.columns)):
                return part.stamp.holds()
        return False

    def _drop_overlapping(self, columns: list[int] | None) -> None:
        kept = []
        for part in self._parts:
            if columns is not None and part.columns is not None and not set(columns) & set(part.columns):
                kept.append(part)
            elif columns is not None and part.columns is not None and not set(part.columns) <= set(columns):
                self._tainted = True  # the rest of that part has been scaled already and cannot be measured any more
        self._parts = kept

    def _note_clip(self, parameters: list[Tensor], threshold: float | None, total: Tensor | None) -> None:
        columns = None
        if not self.layout.is_exactly(parameters):
            columns = {self.layout.column_of.get(id(parameter), -1) for parameter in parameters} - {-1}
            if not columns:
                return
        for part in self._parts:
            if columns is None or part.columns is None or columns & set(part.columns):
                part.stamp.renew()
        if capturing() or self._clip is not None:
            return  # a second clip of what the first has scaled
        # The user gets this very tensor and may change it.
        self._clip = _Clip(threshold, None if total is None else _host_number(total.detach().clone()))
        if self._draft is not None and self._in_step:
            self._add_clip(self._draft)

    # ------------------------------------------------------------------------------------------------- the step

    @torch.no_grad()
    def _begin_step(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if capturing():
            return
        self._begins(self)
        self._in_step = True
        closure = arguments[1] if len(arguments) > 1 else keywords.get("closure")
        # With a closure the gradients come into being inside the step: they are measured when it ends.
        self._with_closure = closure is not None
        self._draft = None if self._with_closure else self._make_draft(NormSource.OPTIMIZER_STEP)
        if self._sampled:
            self._guard("weight and update norms", self._sample_before)

    @torch.no_grad()
    def _end_step(self) -> None:
        if not self._in_step:
            return
        draft = self._draft if self._draft is not None else self._make_draft(NormSource.OPTIMIZER_STEP)
        self._in_step, self._draft = False, None
        if self._sampled:
            self._guard("weight and update norms", self._sample_after, draft)
        self._finish(draft)

    def _make_draft(self, source: NormSource) -> Draft:
        if self.layout.outgrown(self._optimizer):
            self._parts, self.layout = [], Layout(self._optimizer)
        parts, self._parts = self._parts, []
        layout = self.layout
        if parts and not self._tainted and all(part.stamp.holds() for part in parts):
            if self._clip is not None:
                source = NormSource.CLIP
            parts += self._measure_rest(parts)
        elif parts:
            source = NormSource.POST_MODIFICATION
            parts = measure(layout, layout.parameters, None, self.suspicion.columns)
        else:
            if self._clip is not None:
                source = NormSource.POST_MODIFICATION
            parts = measure(layout, layout.parameters, None, self.suspicion.columns)
        flags = RecordFlag.INEXACT if layout.sharded else RecordFlag(0)
        draft = Draft(parts, source, flags, time.time())
        self._tainted = False
        self._add_clip(draft)
        self._add_rate_and_scale(draft)
        return draft

    def _measure_rest(self, parts: list[Part]) -> list[Part]:
        """The gradients that no clip has touched."""
        if any(part.columns is None for part in parts):
            return []
        covered = {column for part in parts if part.columns is not None for column in part.columns}
        if len(covered) == len(self.layout):
            return []
        rest = [column for column in range(len(self.layout)) if column not in covered]
        return measure(self.layout, [self.layout.parameters[column] for column in rest], rest, self.suspicion.columns)

    def _add_clip(self, draft: Draft) -> None:
        clip, self._clip = self._clip, None
        if clip is None or clip.threshold is None:
            return
        draft.scalars[Quantity.CLIP_THRESHOLD] = clip.threshold
        if draft.source is NormSource.POST_MODIFICATION:
            return  # what it used is not what the step uses
        if isinstance(clip.total, Tensor):
            draft.device_scalars[Quantity.REPORTED_NORM] = clip.total
        elif clip.total is not None:
            draft.scalars[Quantity.REPORTED_NORM] = clip.total

    def _add_rate_and_scale(self, draft: Draft) -> None:
        groups = self._optimizer.param_groups
        rate = groups[0].get("lr") if groups else None
        if isinstance(rate, Tensor) and rate.device.type != "cpu":
            draft.device_scalars[Quantity.LEARNING_RATE] = rate.detach().clone()
        elif rate is not None:
            draft.scalars[Quantity.LEARNING_RATE] = float(rate)
        if isinstance(self._scale, Tensor):
            draft.device_scalars[Quantity.LOSS_SCALE] = self._scale
        elif self._scale is not None:
            draft.scalars[Quantity.LOSS_SCALE] = self._scale
        # Fused optimizers unscale inside their kernel and decide there whether to skip.
        draft.gradient_scale = _host_number(getattr(self._optimizer, "grad_scale", None))
        draft.found_inf = getattr(self._optimizer, "found_inf", None)
        draft.local_scale = self._scale

    def _finish(self, draft: Draft) -> None:
        now = time.perf_counter()
        if self._last_end is not None:
            seconds = now - self._last_end
            draft.scalars[Quantity.STEP_SECONDS] = seconds
            self._budget.step_took(max(seconds - self._extras_cost, 0.0))
        self._last_end = now
        draft.local_norms = self._guard("local norms", self._collect_local)
        draft.scalars[Quantity.CAPTURE_SECONDS] = self._cost
        if self._extras_cost > 0.0:
            self._budget.sample_took(self._extras_cost)
        self._cost = self._extras_cost = 0.0
        self._count += 1
        self._sampled = self._budget.samples(self._count)
        last = self.layout.parameters[-1].grad if self.layout.parameters else None
        self._probe = None if last is None else weakref.ref(last)
        self._emit(self, draft)
        if self._sampled:
            self._guard("local norms", self.arm_local)

    # ----------------------------------------------------------------------------------------------- loss scaler

    def _note_scale(self, scale: Tensor | None) -> None:
        self._count_at_scaler = self._count
        # The scaler changes its own tensor in place before the value has travelled.
        self._scale = None if scale is None or capturing() else _host_number(scale.detach().clone())

    @torch.no_grad()
    def _end_scaler(self) -> None:
        if self._count == self._count_at_scaler and not self._in_step:
            self._skip(NormSource.SCALER_SKIP, RecordFlag.SKIPPED_BY_SCALER)
        self._scale = None
        self._count_at_scaler = -1

    def _skip(self, source: NormSource, flag: RecordFlag) -> None:
        if capturing():
            return
        self._begins(self)
        if source is NormSource.SCALER_SKIP and not self._parts:
            # The scaler has waited for the device already, and skips are rare: count every kind in every gradient.
            self.suspicion.columns = frozenset(range(len(self.layout)))
        draft = self._make_draft(source)
        if source is NormSource.SCALER_SKIP:
            draft.source = source
        draft.flags |= flag
        self._finish(draft)

    # ----------------------------------------------------------------------------------------------- sampled extras

    def begin_sampling(self) -> None:
        """Decides about the first step; called once, before training."""
        self._sampled = self._budget.samples(0)

    def arm_local(self) -> None:
        """Watches the next backward pass for local gradients, if other ranks will mix them."""
        if self.shared_model and not self.layout.sharded:
            self._charge(self._local.arm, self.layout.parameters)

    def _collect_local(self) -> Tensor | None:
        if not self.shared_model:
            return None
        norms = self._charge(self._local.collect)
        took, self._local.seconds = self._local.seconds, 0.0
        self._extras_cost += took
        self._cost += took
        return norms

    def _sample_before(self) -> None:
        began = time.perf_counter()
        self._before_sample = self._weights.before(self.layout)
        self._extras_cost += time.perf_counter() - began

    def _sample_after(self, draft: Draft) -> None:
        began = time.perf_counter()
        updates = self._weights.after()
        if self._before_sample is not None and updates is not None:
            draft.tensors[Quantity.WEIGHT_NORM] = self._before_sample
            draft.tensors[Quantity.UPDATE_NORM] = updates
        self._extras_cost += time.perf_counter() - began

    def _charge(self, function: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            self._extras_cost += time.perf_counter() - began


def _host_number(value: Any) -> Tensor | float | None:
    """A tensor on the host becomes a number at once; one on a device travels."""
    if isinstance(value, Tensor):
        return float(value) if value.device.type == "cpu" else value
    return value if value is None else float(value)
