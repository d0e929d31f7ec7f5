"""Optimizers that each hold a few parameters and step inside the backward pass: one step of them all is one record.

    backward reaches a parameter -> its gradient is complete -> its optimizer steps -> the gradient is freed

Norms are taken parameter by parameter, each just before its optimizer steps. The step is complete when all have stepped
that did so the last time, or when one of them steps again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from seismograd.capture.budget import Budget
from seismograd.capture.draft import Draft, draft_of
from seismograd.capture.guard import Guard
from seismograd.capture.harvest import Harvest, Taken, chosen_norms
from seismograd.capture.layout import Layout
from seismograd.capture.parts import Part
from seismograd.capture.readback import capturing
from seismograd.capture.registry import Clip, Norms
from seismograd.capture.step_hooks import this_thread
from seismograd.capture.stepwatch import OptimizerWatch
from seismograd.capture.suspicion import Suspicion
from seismograd.capture.untraced import untraced
from seismograd.record import NormSource

_held = operator.itemgetter("params")

# Nobody steps more optimizers than this by hand, one parameter each; whoever has more lets the backward pass do it.
_MOST_BY_HAND = 4


def step_together(optimizers: Sequence[torch.optim.Optimizer]) -> bool:
    """Whether these are optimizers of one parameter each, as they are made to step inside the backward pass."""
    return len(optimizers) > _MOST_BY_HAND and all(
        sum(len(group["params"]) for group in optimizer.param_groups) == 1 for optimizer in optimizers
    )


class _All:
    """Several optimizers in the place of one."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = members

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of all of them."""
        return [group for member in self.members for group in member.param_groups]

    def register_step_pre_hook(self, hook: Any) -> _Handles:
        """On each of them."""
        return _Handles([member.register_step_pre_hook(hook) for member in self.members])

    def register_step_post_hook(self, hook: Any) -> _Handles:
        """On each of them."""
        return _Handles([member.register_step_post_hook(hook) for member in self.members])


@dataclass(frozen=True)
class _Handles:
    handles: list[Any]

    def remove(self) -> None:
        """Removes all."""
        for handle in self.handles:
            handle.remove()


class JointWatch(OptimizerWatch):
    """The watch of optimizers that step together, one after the other."""

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        guard: Guard,
        budget: Budget,
        begins: Callable[[OptimizerWatch], None],
        emit: Callable[[OptimizerWatch, Draft], None],
        *,
        model: nn.Module | None = None,
    ) -> None:
        self._members = optimizers
        everyone = cast("torch.optim.Optimizer", _All(optimizers))
        super().__init__(everyone, guard, budget, begins, emit, model=model)
        self._layouts: dict[int, Layout] = {}
        self._harvests: dict[int, Harvest] = {}
        self._sort_out()
        self._expected = frozenset(self._harvests)
        self._stepped: set[int] = set()
        self._parts: list[Part] = []
        self._sources: set[NormSource] = set()
        self._clip: Clip | None = None

    def close(self) -> None:
        """Removes every hook; a step of which not all have been made is recorded as far as it went."""
        self._timed(self._complete)
        super().close()

    def _sort_out(self) -> None:
        """Which parameter is whose; harvests of those that have others now begin anew."""
        for each in self._members:
            layout = self._layouts.get(id(each))
            if layout is None or layout.outgrown(each):
                self._layouts[id(each)] = layout = Layout(each)
                # Suspects are columns of the whole; what steps in a backward pass is not looked at a second time.
                self._harvests[id(each)] = Harvest(layout, Suspicion(), self.sampling)
        self._owners = {id(p): id(each) for each in self._members for group in each.param_groups for p in _held(group)}

    @property
    def under_way(self) -> bool:
        """Whether some of them have stepped, and others may follow in the same step."""
        return bool(self._stepped)

    def is_of(self, optimizer: object) -> bool:
        """Whether this is one of those watched."""
        return any(optimizer is member for member in self._members)

    def alike(self, parameters: list[Tensor]) -> None:
        """Never: a clip between backward and step sees a part of them."""

    def before_clip(self, parameters: list[Tensor], gradients: list[Tensor], norms: Norms) -> None:
        """Gradients of `parameters` (aligned, none missing) are about to be scaled; `norms` are theirs, if known."""
        if self._takes_norms():
            self._timed(self._harvest_each, parameters, gradients, norms)

    def gradients_measured(self, gradients: list[Tensor], norms: Norms) -> None:
        """Somebody asked torch for norms: who steps in between is measured anyway."""

    def after_clip(self, parameters: list[Tensor], clip: Clip) -> None:
        """The gradients of `parameters` were changed."""
        if not capturing():
            self._timed(self._note_clips, parameters, clip.threshold)  # total and coefficient are those of a part

    def scaler_ended(self) -> None:
        """No loss scaler can skip what has been stepped already."""

    @untraced
    def _before_step(self, optimizer: object, _arguments: tuple[Any, ...], _keywords: dict[str, Any]) -> None:
        if self.inert or capturing() or (self.in_step and self._begins_within()):
            return
        self.in_step, self._thread = True, this_thread()
        self._timed(self._begin_member, id(optimizer))

    @untraced
    def _after_step(self, _optimizer: object, _arguments: tuple[Any, ...], _keywords: dict[str, Any]) -> None:
        if self.inert or (self._nested and self._ends_within()):
            return
        self.in_step = False
        if self._stepped >= self._expected:
            self._timed(self._complete)

    def _harvest_each(self, parameters: list[Tensor], gradients: list[Tensor], norms: Norms) -> None:
        if not self._stepped and any(id(parameter) not in self._owners for parameter in parameters):
            self._follow()
        for place, parameter in enumerate(parameters):
            if (owner := self._owners.get(id(parameter))) is not None:
                self._harvests[owner].add([parameter], [gradients[place]], chosen_norms(norms, [place]))

    def _note_clips(self, parameters: list[Tensor], threshold: float | None) -> None:
        for parameter in parameters:
            if (owner := self._owners.get(id(parameter))) is not None:
                self._harvests[owner].clipped([parameter], Clip(threshold, None))

    def _begin_member(self, member: int) -> None:
        if member in self._stepped:
            self._complete()
        if not self._stepped:
            self.begins(self)
            self._follow()
            if self.sampling.chosen:
                self.sampling.probes.before_step(self.layout, self.sampling.chosen)
        self._stepped.add(member)
        taken = self._harvests[member].take()
        for part in taken.parts:
            part.move_to(self.layout)
            part.parameters, part.fresh, part.stamp = [], None, None  # gradients are freed in a moment
        self._parts += taken.parts
        self._sources.add(taken.source)
        self._clip = taken.clip or self._clip

    def _follow(self) -> None:
        layout = self.layout
        super()._follow()
        if self.layout is not layout:
            self._sort_out()

    def _complete(self) -> None:
        if not self._stepped:
            return
        taken = Taken(self._parts, max(self._sources, key=_DOUBTS.index), self._clip)
        draft = draft_of(taken, self.layout, self.optimizer, self.scale)
        self._expected = frozenset(self._stepped)
        self._stepped, self._parts, self._sources, self._clip = set(), [], set(), None
        self.sampling.probes.after_step(draft)
        self._finish(draft)


# The source that says least about all norms of a step is that of the step.
_DOUBTS = (NormSource.CLIP, NormSource.OPTIMIZER_STEP, NormSource.POST_MODIFICATION)
