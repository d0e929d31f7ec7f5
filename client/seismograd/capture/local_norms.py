"""Norms of this rank's own gradients, before an all-reduce mixes them: from hooks that are there on sampled steps only.

A post-accumulate hook sees the local gradient, reads it and leaves training identical to the last bit. It fires for
every micro-batch with the sum so far; the last one counts.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from seismograd.capture.guard import Guard
from seismograd.capture.norms import census, norm_of, together
from seismograd.capture.readback import capturing
from seismograd.capture.untraced import untraced

LocalSample = tuple[list[int], Tensor]  # columns, and their norms [k] on one device


class LocalNorms:
    """Hooks on some parameters, installed by `arm()` and removed by `collect()`; autograd calls them."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._handles: list[RemovableHandle] = []
        self._columns: dict[int, int] = {}
        self._norms: dict[int, Tensor] = {}  # by column
        self.seconds = 0.0  # spent in the hooks; whoever reads it sets it back

    @property
    def armed(self) -> bool:
        """Whether the hooks are there."""
        return bool(self._handles)

    def arm(self, parameters: list[Tensor]) -> None:
        """From now on every gradient that is accumulated is measured; columns are places in `parameters`."""
        self.disarm()
        for column, parameter in enumerate(parameters):
            if parameter.is_leaf and parameter.requires_grad:
                self._columns[id(parameter)] = column
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._note))

    def collect(self) -> LocalSample | None:
        """The norms of the latest gradients; Inf = not finite. None without any. Removes the hooks."""
        norms = dict(sorted(self._norms.items()))
        self.disarm()
        if not norms:
            return None
        # NaN would say that nobody looked.
        return list(norms), torch.nan_to_num(together(list(norms.values())), nan=math.inf, posinf=math.inf)

    def disarm(self) -> None:
        """Removes the hooks and forgets what they saw."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._columns, self._norms = {}, {}

    @untraced
    def _note(self, parameter: Tensor) -> None:
        began = time.perf_counter()
        self._guard("local norms", self._measure, parameter)
        self.seconds += time.perf_counter() - began

    @torch.no_grad()
    def _measure(self, parameter: Tensor) -> None:
        if parameter.grad is None or capturing():
            return
        norm = norm_of(parameter.grad)
        if norm.device.type == "cpu" and not 0.0 < float(norm) < math.inf:
            found = census(parameter.grad)  # squares that left float32
            norm = torch.tensor(math.inf if found.nonfinite else found.norm, dtype=torch.float64)
        self._norms[self._columns[id(parameter)]] = norm
