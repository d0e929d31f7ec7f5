"""Weight norms and true update norms of one step: a copy of the weights before, the difference after.

lr x gradient would not tell what Adam, weight decay or a clamp really did; the difference does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import starmap

import torch
from torch import Tensor

from seismograd.capture.layout import Layout
from seismograd.capture.norms import accumulation, census, norm_of, stacked_norms
from seismograd.capture.pieces import local

# The copy is kept between samples, since fresh pages cost more than the copying. Models beyond this size are sampled in
# turns, a part of the parameters each time: the guest must not take the memory that the job was sized for.
COPY_LIMIT_BYTES = 32 * 1024 * 1024

Sample = tuple[list[int] | None, Tensor]  # columns (None = all in order) and their values, [k]


class WeightSampler:
    """One optimizer's weights around one step: `before()`, the step, `after()`."""

    def __init__(self, limit_bytes: int = COPY_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._next = 0  # the column that the next turn begins with
        self._columns: list[int] = []
        self._parameters: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._whole = False
        self._armed = False

    @torch.no_grad()
    def before(self, layout: Layout) -> Sample | None:
        """Copies the weights; their norms. None when there is nothing that can be sampled."""
        self._choose(layout)
        if not self._parameters:
            return None
        torch._foreach_copy_(self._copies, self._parameters)
        self._armed = True
        return (None if self._whole else self._columns), _norms(self._copies)

    @torch.no_grad()
    def after(self) -> Sample | None:
        """Norms of what the step did to them; None without a `before()`."""
        if not self._armed:
            return None
        self._armed = False
        torch._foreach_sub_(self._copies, self._parameters)
        return (None if self._whole else self._columns), _norms(self._copies)

    def forget(self) -> None:
        """The step did not happen."""
        self._armed = False

    def _choose(self, layout: Layout) -> None:
        columns = list(range(len(layout)))
        held = list(map(local, layout.parameters)) if layout.sharded else layout.parameters
        sizes = {column: _bytes(held[column]) for column in columns}
        turn = columns
        if sum(sizes.values()) > self._limit:
            begin = next((place for place, column in enumerate(columns) if column >= self._next), 0)
            turn, size = [], 0
            for column in columns[begin:] + columns[:begin]:
                # A parameter larger than the whole limit is never copied; one that does not fit now comes next time.
                if sizes[column] <= self._limit - size:
                    turn.append(column)
                    size += sizes[column]
                elif sizes[column] <= self._limit:
                    break
            self._next = (turn[-1] + 1) if turn else 0
            turn.sort()
        parameters = [held[column] for column in turn]
        if not _fits(self._copies, parameters):
            self._copies = [torch.empty_like(parameter, requires_grad=False) for parameter in parameters]
        self._columns, self._parameters, self._whole = turn, parameters, len(turn) == len(layout)


def _bytes(parameter: Tensor) -> int:
    return parameter.numel() * parameter.element_size()


def _fits(copies: Sequence[Tensor], parameters: Sequence[Tensor]) -> bool:
    def alike(copy: Tensor, parameter: Tensor) -> bool:
        return copy.shape == parameter.shape and copy.dtype == parameter.dtype and copy.device == parameter.device

    return len(copies) == len(parameters) and all(starmap(alike, zip(copies, parameters, strict=True)))


def _norms(tensors: list[Tensor]) -> Tensor:
    kinds = {(tensor.device, tensor.dtype) for tensor in tensors}
    if len(kinds) > 1:
        device = tensors[0].device
        norms = torch.stack([norm_of(tensor).to(device, non_blocking=True) for tensor in tensors])
    else:
        ((device, dtype),) = kinds
        norms = stacked_norms(tensors, accumulation(dtype, device))
    if norms.device.type == "cpu" and not math.isfinite(float(norms.sum())):
        # An overflow of the squares, or weights that are not finite: those count as not known (NaN).
        found = map(census, tensors)
        norms = torch.tensor([entry.norm if not entry.nonfinite else math.nan for entry in found], dtype=torch.float64)
    return norms
