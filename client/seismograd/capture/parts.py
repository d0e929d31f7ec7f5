"""Norms taken at one moment, and whether the gradients are still those that were measured."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from seismograd.capture.layout import Layout
from seismograd.capture.norms import (
    Census,
    accumulation,
    census,
    device_census,
    has_foreach,
    host_norms,
    norm_of,
    stacked_norms,
)

# Types that one call of `_foreach_norm` takes in a list; others are measured one by one.
_LISTABLE = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


_version = operator.attrgetter("_version")  # torch documents no other way to see that a tensor was changed


class Stamp:
    """Identity and version of gradients: equal stamps mean that nobody replaced or changed them."""

    __slots__ = ("_anchor", "_identities", "_versions")

    def __init__(self, gradients: list[Tensor]) -> None:
        self._identities = list(map(id, gradients))
        self._versions = list(map(_version, gradients))
        # Keeps one gradient alive, so that its address cannot be reused by the gradients of the next iteration.
        self._anchor = gradients[-1]

    def is_of(self, gradients: list[Tensor | None]) -> bool:
        """Whether these are the same tensors with the same contents."""
        return list(map(id, gradients)) == self._identities and list(map(_version, gradients)) == self._versions


@dataclass(slots=True, eq=False)
class Part:
    """Norms of some columns: `norms` is [k]; `columns` has k entries, None = every column in order."""

    columns: list[int] | None
    norms: Tensor
    parameters: list[Tensor]
    fresh: list[Tensor] | None  # the gradients measured, until they are stamped: held no longer than a clip takes
    stamp: Stamp | None = None
    censuses: Mapping[int, Census] = field(default_factory=dict)  # by column; host tensors only
    counted: list[int] = field(default_factory=list)  # columns behind `counts`
    counts: Tensor | None = None  # [len(counted), 4] on the device
    largest: Tensor | None = None  # [k]: largest finite magnitudes, on sampled steps

    def settle(self) -> None:
        """From now on `holds()` compares with the gradients as they are; only the first call counts."""
        if self.fresh is not None:
            self.stamp, self.fresh = Stamp(self.fresh), None

    def renew(self) -> None:
        """The same, also after the changes that a clip has made."""
        if self.fresh is None:
            self.fresh = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.settle()

    def holds(self) -> bool:
        """Whether nobody has changed or replaced the gradients since."""
        return self.stamp is not None and self.stamp.is_of([parameter.grad for parameter in self.parameters])


def measure(
    layout: Layout, parameters: list[Tensor], columns: list[int] | None, suspects: frozenset[int]
) -> list[Part]:
    """Norms of the gradients of some parameters, which may be missing, sparse, sharded or of several types.

    `columns` are those of the parameters; None = all in order. `suspects` are columns to be looked at more closely on
    an accelerator, because their norms were recently not finite or zero.
    """
    if not parameters:
        return []
    gradients = [parameter.grad for parameter in parameters]
    types = set(map(type, gradients))
    if layout.uniform and types == {Tensor}:
        try:
            return [_measure_uniform(layout, parameters, gradients, columns, suspects)]  # type: ignore[arg-type]  # none is None
        except (NotImplementedError, RuntimeError, TypeError):
            layout.uniform = False  # a sparse gradient, or a model that was moved to another type
    owned = range(len(layout)) if columns is None else columns
    present = [
        (column, parameter, gradient)
        for column, parameter, gradient in zip(owned, parameters, gradients, strict=True)
        if gradient is not None
    ]
    return [_measure_alike(group, suspects) for group in _alike(present)]


def _measure_uniform(
    layout: Layout,
    parameters: list[Tensor],
    gradients: list[Tensor],
    columns: list[int] | None,
    suspects: frozenset[int],
) -> Part:
    if layout.small and columns is None:
        values = host_norms(gradients, layout.small, layout.large)
        part = Part(None, torch.from_numpy(np.array(values)), parameters, gradients)
        _look_closer(part, gradients, values)
        return part
    return make_part(parameters, gradients, columns, stacked_norms(gradients, layout.accumulation), suspects)


_Present = list[tuple[int, Tensor, Tensor]]


def _alike(present: _Present) -> list[_Present]:
    """Groups that one call can measure together; what fits in no group stands together with its device."""
    groups: dict[tuple[object, ...], _Present] = {}
    for entry in present:
        gradient = entry[2]
        plain = type(gradient) is Tensor and gradient.layout is torch.strided and gradient.dtype in _LISTABLE
        groups.setdefault((gradient.device, gradient.dtype if plain else None), []).append(entry)
    return list(groups.values())


def _measure_alike(group: _Present, suspects: frozenset[int]) -> Part:
    columns = [column for column, _, _ in group]
    parameters = [parameter for _, parameter, _ in group]
    gradients = [gradient for _, _, gradient in group]
    device, dtype = gradients[0].device, gradients[0].dtype
    plain = all(type(gradient) is Tensor and gradient.layout is torch.strided for gradient in gradients)
    if plain and dtype in _LISTABLE and has_foreach(device):
        norms = stacked_norms(gradients, accumulation(dtype, device))
    else:
        norms = torch.stack([norm_of(gradient) for gradient in gradients])
    return make_part(parameters, gradients, columns, norms, suspects)


def make_part(
    parameters: list[Tensor],
    gradients: list[Tensor],
    columns: list[int] | None,
    norms: Tensor,
    suspects: frozenset[int],
) -> Part:
    """A part from norms that somebody has computed, with the closer look where it is needed and possible."""
    part = Part(columns, norms, parameters, gradients)
    if norms.device.type == "cpu":
        _look_closer(part, gradients, norms.numpy().tolist())
    elif suspects:
        chosen = [(index, column) for index, column in enumerate(_columns_of(part, gradients)) if column in suspects]
        if chosen:
            part.counted = [column for _, column in chosen]
            part.counts = device_census([gradients[index] for index, _ in chosen])
    return part


def _columns_of(part: Part, gradients: Sequence[Tensor]) -> Sequence[int]:
    return range(len(gradients)) if part.columns is None else part.columns


def _look_closer(part: Part, gradients: list[Tensor], values: list[float]) -> None:
    """A norm of zero may have underflowed, one of Inf overflowed; NaN and Inf are counted by kind."""
    # Inf and NaN in any norm show in the sum.
    if sum(values) < float("inf") and 0.0 not in values:
        return
    columns = _columns_of(part, gradients)
    part.censuses = {
        columns[index]: census(gradients[index]) for index, value in enumerate(values) if not 0.0 < value < float("inf")
    }
