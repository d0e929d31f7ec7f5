"""Who is watching in this process: the one module-level state of the client.

The drop-in clip and the intercepted functions of torch have parameters and no monitor; they ask here. Watches are held
weakly, so that a model that is dropped without `finish()` is freed; a forked child forgets them all.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from seismograd.capture.norms import MeasuresAlike

Norms = Tensor | Sequence[Tensor | None] | None
"""L2 norms of gradients that somebody has computed, aligned with them: a tensor of k plain norms, or k tensors, each
with its own placement among the processes (None = not known), or None, when nobody has."""


class Clip(NamedTuple):
    """What the clipping said: its threshold, and the total norm that it used."""

    threshold: float | None  # None = by value, or by another norm than the Euclidean
    total: Tensor | float | None  # None = not known here, or not without a collective
    coefficient: Tensor | float | None = None  # what gradients were multiplied by, where the total is not known


class Watch(Protocol):
    """What the registry knows of an optimizer's watch. No method raises."""

    inert: bool

    def alike(self, parameters: list[Tensor]) -> MeasuresAlike | None:
        """What measures their gradients, if these are all of its own, and were alike when they were listed."""

    def before_clip(self, parameters: list[Tensor], gradients: list[Tensor], norms: Norms) -> None:
        """Gradients of `parameters` (aligned, none missing) are about to be scaled; `norms` are theirs, if known."""

    def gradients_measured(self, gradients: list[Tensor], norms: Norms) -> None:
        """Somebody asked torch for the norm of these tensors, which may or may not be watched gradients."""

    def after_clip(self, parameters: list[Tensor], clip: Clip) -> None:
        """The gradients of `parameters` were changed."""

    def scaler_begins(self, scale: Tensor | None) -> None:
        """A loss scaler is about to step the optimizer; None = no scale is in force, as after a step that raised."""

    def unscaled(self) -> None:
        """The loss scaler has divided the gradients by its scale."""

    def scaler_ended(self) -> None:
        """The loss scaler is done with the optimizer, which it may have skipped."""

    def is_of(self, optimizer: object) -> bool:
        """Whether this is the optimizer watched."""


class Interception(Protocol):
    """Functions of torch that tell the watches while it lasts."""

    def restore(self) -> None:
        """Lets torch be as it was."""


_watches: list[weakref.ref[Watch]] = []
_interceptions: dict[Callable[[], Interception], Interception] = {}
_monitors_begun = 0


def add(watch: Watch, interceptions: Sequence[Callable[[], Interception]]) -> None:
    """From now on the watch hears of clips and scalers. The first that asks for an interception lets it begin."""
    for begin in interceptions:
        if begin not in _interceptions:
            _interceptions[begin] = begin()
    _watches.append(weakref.ref(watch))


def remove(watch: Watch) -> None:
    """The watch hears nothing any more; unknown ones are ignored. With the last one the interceptions end."""
    _watches[:] = [reference for reference in _watches if reference() not in (None, watch)]
    if not _watches:
        while _interceptions:
            _interceptions.popitem()[1].restore()


def watches() -> Sequence[Watch]:
    """The live watches, in the order they came."""
    return [watch for reference in _watches if (watch := reference()) is not None and not watch.inert]


def next_monitor() -> int:
    """How many monitors began before in this process: the same on all ranks that run the same program."""
    global _monitors_begun  # noqa: PLW0603 - the count is part of the state that this module is for
    _monitors_begun += 1
    return _monitors_begun - 1


def forget_all() -> None:
    """In a forked child: every watch is inert, since the sender's thread did not survive the fork."""
    for reference in _watches:
        if (watch := reference()) is not None:
            watch.inert = True
    _watches.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_all)
