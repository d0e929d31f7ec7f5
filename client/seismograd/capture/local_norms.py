"""Norms of this rank's own gradients, before an all-reduce mixes them: from hooks that are there on sampled steps only.

A post-accumulate hook sees the local gradient, reads it and leaves training identical to the last bit. It fires for
every micro-batch with the sum so far; the last one counts.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from seismograd.capture.guard import Guard
from seismograd.capture.norms import norm_of
from seismograd.capture.readback import capturing


class LocalNorms:
    """Hooks on some parameters, installed by `arm()` and removed by `collect()`; autograd calls them."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._handles: list[RemovableHandle] = []
        self._norms: dict[int, Tensor] = {}
        self.seconds = 0.0  # spent in the hooks; whoever reads it sets it back

    @property
    def armed(self) -> bool:
        """Whether the hooks are there."""
        return bool(self._handles)

    def arm(self, parameters: list[Tensor]) -> None:
        """From now on every gradient that is accumulated is measured."""
        self.disarm()
        for parameter in parameters:
            if parameter.is_leaf and parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._note))

    def collect(self) -> Tensor | None:
        """The norms of the latest gradients, [k] on one device, in no order; None without any. Removes the hooks."""
        norms = list(self._norms.values())
        self.disarm()
        if not norms:
            return None
        device = norms[0].device
        return torch.stack([norm.to(device, non_blocking=True) for norm in norms])

    def disarm(self) -> None:
        """Removes the hooks and forgets what they saw."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._norms = {}

    def _note(self, parameter: Tensor) -> None:
        began = time.perf_counter()
        self._guard("local norms", self._measure, parameter)
        self.seconds += time.perf_counter() - began

    @torch.no_grad()
    def _measure(self, parameter: Tensor) -> None:
        if parameter.grad is not None and not capturing():
            self._norms[id(parameter)] = norm_of(parameter.grad)
