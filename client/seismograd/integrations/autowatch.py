"""Watches the optimizers of a program that knows nothing of it.

    seismograd run --project mt --run lstm-7 -- python train.py --epochs 3
    seismograd run --project mt --run lstm-7 -- torchrun --nproc-per-node 2 train.py

An optimizer is noted when it is made. The watch begins with the first thing that happens to it (a clip of its
gradients, a loss scaler, a step), together with all others that were made before; the model is then found by their
parameters. Optimizers made later are another run: its name gets a number. What the program itself watches is left to
it. Losses are not known; to stop on alerts, two lines of code are needed after all (`seismograd.watch`).
"""

from __future__ import annotations

import functools
import logging
import os
import weakref
from collections.abc import Callable
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


class Starter:
    """Implements registry.Watch for optimizers that have none yet, and passes on the event with which theirs begins."""

    def __init__(self) -> None:
        self.inert = True  # nothing is waiting
        self._waiting: list[weakref.ref[torch.optim.Optimizer]] = []
        self._begun: list[registry.Watch] = []  # those to whom the event under way is passed on
        self._runs = 0
        self._process = -1  # where we are registered; a forked child forgets every watch

    def note(self, optimizer: torch.optim.Optimizer) -> None:
        """A new optimizer. Never raises."""
        try:
            if self._process != os.getpid():
                self._process, self._waiting = os.getpid(), []
                registry.add(self, (ClipInterception, ScalerInterception))
            self._waiting.append(weakref.ref(optimizer))
            self.inert = False
        except Exception:  # noqa: BLE001 - somebody else's program
            _log.exception("an optimizer cannot be watched")

    @untraced
    def before_step(self, optimizer: torch.optim.Optimizer, _arguments: object, _keywords: object) -> None:
        """The hook of torch before a step of any optimizer; those of the optimizer itself run after it."""
        if not self.inert:
            self._begin_with(optimizer)

    def is_of(self, optimizer: object) -> bool:
        """Whether a loss scaler's event is for an optimizer that waits; then its watch begins."""
        began = isinstance(optimizer, torch.optim.Optimizer) and self._begin_with(optimizer)
        self._begun = [watch for watch in self._begun if watch.is_of(optimizer)]
        return began

    def alike(self, _parameters: list[Tensor]) -> None:
        """Nothing is known of them yet."""

    def before_clip(self, parameters: list[Tensor], gradients: list[Tensor], norms: registry.Norms) -> None:
        """Gradients are about to be scaled: the last moment to begin."""
        clipped = set(map(id, parameters))
        self._begin_with_owner(lambda parameter: id(parameter) in clipped)
        for begun in self._begun:
            begun.before_clip(parameters, gradients, norms)

    def gradients_measured(self, gradients: list[Tensor], norms: registry.Norms) -> None:
        """The first half of a clip that is made in two."""
        measured = set(map(id, gradients))
        self._begin_with_owner(lambda parameter: parameter.grad is not None and id(parameter.grad) in measured)
        for begun in self._begun:
            begun.gradients_measured(gradients, norms)

    def after_clip(self, parameters: list[Tensor], clip: registry.Clip) -> None:
        """The end of the clip with which a watch has begun."""
        for begun in self._begun:
            begun.after_clip(parameters, clip)

    def scaler_begins(self, scale: Tensor | None) -> None:
        """The loss scaler is about to step the optimizer whose watch has begun in `is_of`."""
        for begun in self._begun:
            begun.scaler_begins(scale)

    def unscaled(self) -> None:
        """The loss scaler has changed gradients of which nothing was measured yet."""

    def scaler_ended(self) -> None:
        """The end of the scaler's step with which a watch has begun."""
        for begun in self._begun:
            begun.scaler_ended()

    def _begin_with_owner(self, owned: Callable[[Tensor], bool]) -> None:
        """Begins if an optimizer that waits has one of these parameters."""
        self._begun = []
        for optimizer in self._live():
            if any(map(owned, _parameters(optimizer))):
                self._begin_with(optimizer)
                return

    def _begin_with(self, optimizer: torch.optim.Optimizer) -> bool:
        """Begins a run of all that wait, this one first, if it is among them. Never raises."""
        self._begun = []
        try:
            waiting = self._live()
            if not any(each is optimizer for each in waiting):
                return False
            self._waiting, self.inert = [], True
            self._begin([optimizer, *(each for each in waiting if each is not optimizer)])
        except Exception:  # noqa: BLE001 - somebody else's program
            _log.exception("this training is not watched, it goes on")
        return bool(self._begun)

    def _begin(self, optimizers: list[torch.optim.Optimizer]) -> None:
        others = registry.watches()
        if any(watch.is_of(optimizer) for watch in others for optimizer in optimizers):
            return  # the program sees to it itself
        self._runs += 1
        name = Options.from_environment().run
        if name is not None and self._runs > 1:
            name = f"{name}-{self._runs}"
        model = model_of([parameter for optimizer in optimizers for parameter in _parameters(optimizer)])
        # Looked up only now, with gRPC behind it: a program that makes no step does not wait for it.
        setattr(optimizers[0], _MONITOR, seismograd.watch(model, optimizers, run=name))
        self._begun = [each for each in registry.watches() if not any(each is other for other in others)]

    def _live(self) -> list[torch.optim.Optimizer]:
        return [optimizer for reference in self._waiting if (optimizer := reference()) is not None]


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
