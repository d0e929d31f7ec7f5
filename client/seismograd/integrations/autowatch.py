"""Watches the optimizers of a program that knows nothing of it.

    seismograd run --project mt --run lstm-7 -- python train.py --epochs 3
    seismograd run --project mt --run lstm-7 -- torchrun --nproc-per-node 2 train.py

An optimizer is noted when it is made. When it has made a few steps, which tells a training from the inner loop of
another one, the watch begins with the next thing that happens to it (a clip of its gradients, a loss scaler, a step),
together with all others that were made before its first step; the model is then found by their parameters. Optimizers
made later are another run: its name gets a number. The run of an optimizer that is freed ends; only so many are begun.
What the program itself watches is left to it. Losses are not known; to stop on alerts, two lines of code are needed
after all (`seismograd.watch`).
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

import seismograd
from seismograd.capture import registry
from seismograd.capture.clip import ClipInterception
from seismograd.capture.scaler import ScalerInterception
from seismograd.capture.untraced import untraced
from seismograd.integrations.modules import model_of
from seismograd.options import Options

_log = logging.getLogger("seismograd")

# Meta-learning makes an optimizer for each of a hundred thousand tasks, and up to five steps with it. Those of a
# training that are not recorded for that are a moment of it, and keep their numbers.
STEPS_BEFORE = 5
# Each has a thread, three open files and a ring of at least four megabytes.
MOST_AT_ONCE = 8
# A sweep of more needs names that say which is which: it is worth a line of code. And to find a model takes a tenth of
# a second, which is too much for each of a thousand short trainings.
MOST_RUNS = 64

# Where an optimizer keeps its monitor, so that both are freed together; neither copied nor saved with it.
_MONITOR = "seismograd_monitor"


def begin() -> None:
    """From now on every optimizer that is made in this process is watched, unless the program does it itself."""
    starter = Starter()
    make = torch.optim.Optimizer.__init__

    @functools.wraps(make)
    def make_and_note(self: torch.optim.Optimizer, *arguments: Any, **keywords: Any) -> None:
        make(self, *arguments, **keywords)
        starter.note(self)

    torch.optim.Optimizer.__init__ = make_and_note  # type: ignore[method-assign]  # that is the point
    register_optimizer_step_pre_hook(starter.before_step)


@dataclass
class _Waiting:
    """An optimizer that has made few steps, or none."""

    reference: weakref.ref[torch.optim.Optimizer]
    ordinal: int  # among all that were made
    steps: int = 0
    made_before: int = 0  # how many optimizers there were before its first step

    @property
    def is_ripe(self) -> bool:
        """Whether the next thing that happens to it begins the watch."""
        return self.steps >= STEPS_BEFORE


class Starter:
    """Implements registry.Watch for optimizers that have none yet, and passes on the event with which theirs begins."""

    def __init__(self) -> None:
        self.inert = True  # nothing is waiting
        self._waiting: dict[int, _Waiting] = {}  # by identity of the optimizer
        self._made = 0
        # Those to whom the event under way is passed on; weakly, since the next one may be long in coming.
        self._begun: list[weakref.ref[registry.Watch]] = []
        self._leaders: list[weakref.ref[torch.optim.Optimizer]] = []  # the first optimizer of each run
        self._full = False
        self._process = -1  # where we are registered; a forked child forgets every watch

    def note(self, optimizer: torch.optim.Optimizer) -> None:
        """A new optimizer. Never raises."""
        if self._full:
            return
        try:
            if self._process != os.getpid():
                self._process, self._waiting = os.getpid(), {}
                registry.add(self, (ClipInterception, ScalerInterception))
            self._waiting = {key: each for key, each in self._waiting.items() if each.reference() is not None}
            self._waiting[id(optimizer)] = _Waiting(weakref.ref(optimizer), self._made)
            self._made += 1
            self.inert = False
        except Exception:  # noqa: BLE001 - somebody else's program
            _log.exception("an optimizer cannot be watched")

    @untraced
    def before_step(self, optimizer: torch.optim.Optimizer, _arguments: object, _keywords: object) -> None:
        """The hook of torch before a step of any optimizer; those of the optimizer itself run after it."""
        if self.inert or (waiting := self._waiting.get(id(optimizer))) is None:
            return
        if waiting.is_ripe:
            self._begin_with(optimizer)
            return
        if waiting.steps == 0:
            waiting.made_before = self._made
        waiting.steps += 1

    def is_of(self, optimizer: object) -> bool:
        """Whether a loss scaler's event is for an optimizer that waits; then its watch begins."""
        began = isinstance(optimizer, torch.optim.Optimizer) and self._begin_with(optimizer)
        self._begun = [weakref.ref(watch) for watch in self._just_begun() if watch.is_of(optimizer)]
        return began

    def alike(self, _parameters: list[Tensor]) -> None:
        """Nothing is known of them yet."""

    def before_clip(self, parameters: list[Tensor], gradients: list[Tensor], norms: registry.Norms) -> None:
        """Gradients are about to be scaled: the last moment to begin."""
        clipped = set(map(id, parameters))
        self._begin_with_owner(lambda parameter: id(parameter) in clipped)
        for begun in self._just_begun():
            begun.before_clip(parameters, gradients, norms)

    def gradients_measured(self, gradients: list[Tensor], norms: registry.Norms) -> None:
        """The first half of a clip that is made in two."""
        measured = set(map(id, gradients))
        self._begin_with_owner(lambda parameter: parameter.grad is not None and id(parameter.grad) in measured)
        for begun in self._just_begun():
            begun.gradients_measured(gradients, norms)

    def after_clip(self, parameters: list[Tensor], clip: registry.Clip) -> None:
        """The end of the clip with which a watch has begun."""
        for begun in self._just_begun():
            begun.after_clip(parameters, clip)

    def scaler_begins(self, scale: Tensor | None) -> None:
        """The loss scaler is about to step the optimizer whose watch has begun in `is_of`."""
        for begun in self._just_begun():
            begun.scaler_begins(scale)

    def unscaled(self) -> None:
        """The loss scaler has changed gradients of which nothing was measured yet."""

    def scaler_ended(self) -> None:
        """The end of the scaler's step with which a watch has begun."""
        for begun in self._just_begun():
            begun.scaler_ended()

    def _begin_with_owner(self, owned: Callable[[Tensor], bool]) -> None:
        """Begins if an optimizer that is ripe has one of these parameters."""
        self._begun = []
        for waiting in self._waiting.values():
            optimizer = waiting.reference() if waiting.is_ripe else None
            if optimizer is not None and any(map(owned, _parameters(optimizer))):
                self._begin_with(optimizer)
                return

    def _begin_with(self, optimizer: torch.optim.Optimizer) -> bool:
        """Begins a run, if the optimizer is ripe: this one first, and all that were there before it. Never raises."""
        self._begun = []
        try:
            leader = self._waiting.get(id(optimizer))
            if leader is None or not leader.is_ripe or leader.reference() is not optimizer:
                return False
            crew = [each for each in self._waiting.values() if each.ordinal < leader.made_before and each is not leader]
            others = [found for each in crew if (found := each.reference()) is not None]
            for each in (optimizer, *others):
                del self._waiting[id(each)]
            if not self._has_room():
                self._waiting.clear()
            else:
                self._begin([optimizer, *others], leader.steps)
            self.inert = not self._waiting
        except Exception:  # noqa: BLE001 - somebody else's program
            _log.exception("this training is not watched, it goes on")
        return bool(self._begun)

    def _has_room(self) -> bool:
        """Whether one more run may begin; if not, none does any more, and that is said."""
        if sum(leader() is not None for leader in self._leaders) >= MOST_AT_ONCE:
            gc.collect()  # an optimizer and its watch hold each other: those that are over may be here still
        at_once = sum(leader() is not None for leader in self._leaders)
        self._full = at_once >= MOST_AT_ONCE or len(self._leaders) >= MOST_RUNS
        if self._full:
            _log.warning(
                "this optimizer and all that come later are not watched: `seismograd run` has begun %d runs for this"
                " program, %d of which go on; call seismograd.watch() for those that matter",
                len(self._leaders),
                at_once,
            )
        return not self._full

    def _begin(self, optimizers: list[torch.optim.Optimizer], step: int) -> None:
        others = registry.watches()
        if any(watch.is_of(optimizer) for watch in others for optimizer in optimizers):
            return  # the program sees to it itself
        self._leaders.append(weakref.ref(optimizers[0]))
        name = Options.from_environment().run
        if name is not None and len(self._leaders) > 1:
            name = f"{name}-{len(self._leaders)}"
        model = model_of([parameter for optimizer in optimizers for parameter in _parameters(optimizer)])
        # Looked up only now, with gRPC behind it: a program that makes no step does not wait for it.
        setattr(optimizers[0], _MONITOR, seismograd.watch(model, optimizers, run=name, step=step))
        begun = [each for each in registry.watches() if not any(each is other for other in others)]
        self._begun = [weakref.ref(each) for each in begun]

    def _just_begun(self) -> list[registry.Watch]:
        return [watch for reference in self._begun if (watch := reference()) is not None]


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
