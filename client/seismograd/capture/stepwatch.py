"""One optimizer under watch: norms where the clipping takes them or else where the step begins, one record per step.

clip --> harvest --.
                   v
step pre-hook --> draft --> step post-hook --> session        most steps on a host: plain.py
                   ^
loss scaler -------' (a step that it skipped)
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from seismograd.capture.budget import Budget
from seismograd.capture.draft import Draft, draft_of
from seismograd.capture.guard import Guard
from seismograd.capture.harvest import Harvest
from seismograd.capture.layout import Layout
from seismograd.capture.norms import MeasuresAlike
from seismograd.capture.readback import capturing, host_number
from seismograd.capture.registry import Clip, Norms
from seismograd.capture.sampling import Sampling
from seismograd.capture.step_hooks import StepHooks, this_thread
from seismograd.capture.suspicion import Suspicion
from seismograd.capture.untraced import untraced
from seismograd.record import NormSource, Quantity, RecordFlag

if TYPE_CHECKING:
    from seismograd.capture.plain import PlainSteps


class OptimizerWatch(StepHooks):
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
        *,
        model: nn.Module | None = None,
    ) -> None:
        self.layout = Layout(optimizer)
        self.suspicion = Suspicion()
        self.hook_seconds = 0.0
        self.hook_calls = 0
        self._guard = guard
        self.begins = begins
        self._emit = emit
        self.sampling = Sampling(guard, budget, model)
        self.harvest = Harvest(self.layout, self.suspicion, self.sampling)
        self.plain: PlainSteps | None = None  # the next step may be one
        self._draft: Draft | None = None
        self._with_closure = False
        self.scale: Tensor | float | None = None
        self.count = 0
        self._count_at_scaler = -1
        self.probe: weakref.ref[Tensor] | None = None
        self.last_end: float | None = None
        self.cost = self._entered = 0.0  # seconds of the step's hooks; when the one under way began
        super().__init__(optimizer)  # at last: from here on hooks are called

    def close(self) -> None:
        """Removes every hook."""
        super().close()
        self.sampling.probes.disarm_local()

    def has_new_gradients(self) -> bool:
        """Whether a backward pass has made new gradients since the last step, as far as one parameter tells."""
        if self.probe is None or not self.layout.parameters:
            return False
        gradient = self.layout.parameters[-1].grad
        return gradient is not None and gradient is not self.probe()

    # ------------------------------------------------------------------------------------ what training calls

    @untraced
    def _before_step(self, _optimizer: object, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if self.inert or (self.in_step and self._begins_within()):
            return
        self._thread = this_thread()
        if self.plain is None or not self.plain.begins(arguments, keywords):
            self._timed(self._begin, arguments, keywords)

    @untraced
    def _after_step(self, _optimizer: object, _arguments: tuple[Any, ...], _keywords: dict[str, Any]) -> None:
        if self.inert or (self._nested and self._ends_within()):
            return
        if self.plain is None or not self.plain.under_way:
            self._timed(self._end)
            return
        try:
            self.plain.ended()
        except Exception as error:  # noqa: BLE001 - as in _timed
            self.inert = True
            self._guard.failed("capture", error)

    def alike(self, parameters: list[Tensor]) -> MeasuresAlike | None:
        """What measures their gradients, if these are all of its own, and were alike when they were listed."""
        return self.layout.alike(parameters)

    def before_clip(self, parameters: list[Tensor], gradients: list[Tensor], norms: Norms) -> None:
        """Gradients of `parameters` (aligned, none missing) are about to be scaled; `norms` are theirs, if known."""
        if self._takes_norms():
            self._timed(self._harvest, parameters, gradients, norms)

    def gradients_measured(self, gradients: list[Tensor], norms: Norms) -> None:
        """Somebody asked torch for the norm of these tensors, which may or may not be watched gradients."""
        if self._takes_norms():
            self._timed(self._harvest_gradients, gradients, norms)

    def after_clip(self, parameters: list[Tensor], clip: Clip) -> None:
        """The gradients of `parameters` were changed."""
        if not capturing():
            self._timed(self._note_clip, parameters, clip)

    def scaler_begins(self, scale: Tensor | None) -> None:
        """A loss scaler is about to step the optimizer."""
        self._guard("loss scaler", self._note_scale, scale)

    def unscaled(self) -> None:
        """The loss scaler has divided the gradients by its scale."""
        self._guard("loss scaler", self.harvest.gradients_changed)

    def scaler_ended(self) -> None:
        """The loss scaler is done with the optimizer, which it may have skipped."""
        self._timed(self._end_scaler)

    def user_skipped(self) -> None:
        """The job decided not to make the step whose gradients are there."""
        self._timed(self._skip, None, RecordFlag.SKIPPED_BY_USER)

    def _takes_norms(self) -> bool:
        """Inside a step the norms are taken already, unless a closure makes the gradients there."""
        return not capturing() and (not self._goes_on() or self._with_closure)

    def _harvest(self, parameters: list[Tensor], gradients: list[Tensor], norms: Norms) -> None:
        # Who clips what the columns are knows of no others. And in every other case, to look once is enough.
        if not self.layout.is_exactly(parameters) and self.harvest.is_untouched:
            self._follow()
        self.harvest.add(parameters, gradients, norms)

    def _harvest_gradients(self, gradients: list[Tensor], norms: Norms) -> None:
        if self.harvest.is_untouched:
            self._follow()
        self.harvest.add_gradients(gradients, norms)

    def _note_clip(self, parameters: list[Tensor], said: Clip) -> None:
        clip = self.harvest.clipped(parameters, said)
        if self.in_step and self.plain is not None and self.plain.under_way:
            self._draft = self.plain.give_up()
        if self._draft is not None and self.in_step:
            # A clip in somebody's own step hook: the norms of this step were taken just before it.
            self.harvest.forget()
            if clip is not None:
                self._draft.add_clip(clip, modified=False)

    def _timed(self, function: Callable[..., None], *arguments: Any) -> None:
        self._entered = began = time.perf_counter()
        try:  # as the guard does, but this is the one place that runs several times a step
            function(*arguments)
        except Exception as error:  # noqa: BLE001 - training first: no defect of ours may reach it
            self.inert = True
            self._guard.failed("capture", error)
        took = time.perf_counter() - began
        self.cost += took
        self.hook_seconds += took
        self.hook_calls += 1

    # ------------------------------------------------------------------------------------------------- the step

    def _begin(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if capturing():
            return
        self.begins(self)
        self.in_step = True
        closure = arguments[1] if len(arguments) > 1 else keywords.get("closure")
        # With a closure the gradients come into being inside the step: they are measured when it ends.
        self._with_closure = closure is not None
        self._draft = None if self._with_closure else self._make_draft()
        if self.sampling.chosen:
            self.sampling.probes.before_step(self.layout, self.sampling.chosen)

    def _forget_step(self) -> None:
        super()._forget_step()
        self._with_closure, self._draft = False, None
        if self.plain is not None:
            self.plain.under_way = False

    def _end(self) -> None:
        if not self.in_step:
            return
        draft = self._draft if self._draft is not None else self._make_draft()
        self.in_step, self._draft = False, None
        self.sampling.probes.after_step(draft)
        self._finish(draft)

    def remember_gradient(self) -> None:
        """From now on other gradients are new ones."""
        last = self.layout.parameters[-1].grad if self.layout.parameters else None
        self.probe = None if last is None else weakref.ref(last)

    def _make_draft(self, source: NormSource | None = None, flag: RecordFlag | None = None) -> Draft:
        self._follow()
        draft = draft_of(self.harvest.take(), self.layout, self.optimizer, self.scale)
        if source is not None:
            draft.source = source
        if flag is not None:
            draft.flags |= flag
        return draft

    def _follow(self) -> None:
        """Goes on with other columns where the optimizer has other parameters: best before a clip scales gradients."""
        if not self.layout.outgrown(self.optimizer):
            return
        old, self.layout = self.harvest, Layout(self.optimizer)
        self.harvest = Harvest(self.layout, self.suspicion, self.sampling)
        self.harvest.inherit(old)
        self.plain = None
        self.sampling.follow(self.layout)

    def _finish(self, draft: Draft) -> None:
        now = time.perf_counter()
        sampling = self.sampling
        if self.last_end is not None:
            draft.scalars[Quantity.STEP_SECONDS] = seconds = now - self.last_end
            sampling.step_took(seconds)
        self.last_end = now
        if sampling.shared_model:
            inside = sampling.probes.add_local(draft)
            self.cost += inside
            self.hook_seconds += inside
        if sampling.examine is not None:
            sampling.probes.add_largest(draft)
        draft.scalars[Quantity.CAPTURE_SECONDS] = cost = self.cost
        sampled, probing = bool(sampling.chosen), sampling.probes.seconds
        self.cost = 0.0
        self.count += 1
        sampling.choose(self.count)
        self.remember_gradient()
        self._emit(self, draft)
        if sampled:
            here = time.perf_counter() - self._entered
            # What the job's own callback took was taken off both again.
            sampling.account(self.count, self.hook_seconds + here, cost + self.cost + here, probing)
            if self.plain is not None:
                self.plain.until = sampling.next_turn(self.count)
        if not self.inert:  # the job may have ended the run in its callback
            sampling.arm(self.layout)

    # ----------------------------------------------------------------------------------------------- loss scaler

    def _note_scale(self, scale: Tensor | None) -> None:
        self._count_at_scaler = self.count
        # The scaler changes its own tensor in place before the value has travelled.
        self.scale = None if scale is None or capturing() else host_number(scale.detach().clone())

    def _end_scaler(self) -> None:
        if self.count == self._count_at_scaler and not self._goes_on():
            self._skip(NormSource.SCALER_SKIP, RecordFlag.SKIPPED_BY_SCALER)
        self.scale = None
        self._count_at_scaler = -1

    def _skip(self, source: NormSource | None, flag: RecordFlag) -> None:
        if capturing():
            return
        self.begins(self)
        if source is NormSource.SCALER_SKIP and self.harvest.is_empty:
            # The scaler has waited for the device already, and skips are rare: count every kind in every gradient.
            self.suspicion.columns = frozenset(range(len(self.layout)))
        self._finish(self._make_draft(source, flag))

    # ----------------------------------------------------------------------------------------------- sampled extras

    def call_back(self, callback: Callable[[], None]) -> None:
        """Calls what belongs to the job, from within a hook: its time is none of ours."""
        began = time.perf_counter()
        callback()
        took = time.perf_counter() - began
        self.cost, self.hook_seconds = self.cost - took, self.hook_seconds - took

    def begin_sampling(self) -> None:
        """Decides about the first step; called once, before training."""
        self.sampling.choose(self.count)
        self.sampling.arm(self.layout)

    def can_sample(self, *, ships_rows: bool, shared_model: bool) -> None:
        """This process ships norms by parameter (`ships_rows`); others hold the same parameters (`shared_model`)."""
        self.sampling.go_by(self.layout, ships_rows=ships_rows, shared_model=shared_model)

    def sample_next(self) -> None:
        """The next step is to be sampled as whole as it can bear."""
        self.sampling.choose_whole(self.layout)

    def be_plain(self, plain: PlainSteps) -> None:
        """Steps may be plain until something is to be sampled."""
        usual = not self.sampling.chosen and not self.suspicion.columns
        self.plain = plain if usual and self.scale is None else None
        plain.until = self.sampling.next_turn(self.count)

    def look_ahead(self, *, whole: bool) -> None:
        """Behind a plain step: the next one may be to be sampled, by its turn, or as `whole` as it can bear."""
        self.sampling.choose(self.count)
        if whole:
            self.sample_next()
        if self.plain is not None:
            self.be_plain(self.plain)
        self.sampling.arm(self.layout)
