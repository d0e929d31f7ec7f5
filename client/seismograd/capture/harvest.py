"""Norms taken at one moment, and whether the gradients are still those that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils import _foreach_utils

from seismograd.capture.layout import Layout
from seismograd.capture.norms import Census, accumulation, census, device_census, norm_of, stacked_norms

# Types that one call of `_foreach_norm` takes in a list; others are measured one by one.
_LISTABLE = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


class Stamp:
    """Identity and version of gradients: equal stamps mean that nobody replaced or changed them."""

    __slots__ = ("_anchor", "_identities", "_parameters", "_versions")

    def __init__(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        self._parameters = parameters
        self._identities = list(map(id, gradients))
        self._versions = [gradient._version for gradient in gradients]  # noqa: SLF001 - torch documents no other way
        # Keeps one gradient alive, so that its address cannot be reused by the gradients of the next iteration.
        self._anchor = gradients[-1]

    def renew(self) -> None:
        """Accepts the changes made so far: they were the clipping's own."""
        self._versions = [parameter.grad._version for parameter in self._parameters if parameter.grad is not None]  # noqa: SLF001 - as above

    def holds(self) -> bool:
        """Whether the gradients are the same tensors with the same contents."""
        gradients = [parameter.grad for parameter in self._parameters]
        return (
            list(map(id, gradients)) == self._identities
            and [
                gradient._version  # noqa: SLF001 - as above
                for gradient in gradients
                if gradient is not None
            ]
            == self._versions
        )


@dataclass(slots=True, eq=False)
class Part:
    """Norms of some columns: `norms` is [k]; `columns` has k entries, None = every column in order."""

    columns: list[int] | None
    norms: Tensor
    stamp: Stamp
    censuses: Mapping[int, Census] = field(default_factory=dict)  # by column; host tensors only
    counted: list[int] = field(default_factory=list)  # columns behind `counts`
    counts: Tensor | None = None  # [len(counted), 4] on the device


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
            norms = stacked_norms(gradients, layout.accumulation)  # type: ignore[arg-type]  # none is None
        except (NotImplementedError, RuntimeError):
            layout.uniform = False  # a sparse gradient, or a model that was moved to another type
        else:
            return [make_part(parameters, gradients, columns, norms, suspects)]  # type: ignore[arg-type]  # none is None
    owned = range(len(layout)) if columns is None else columns
    present = [
        (column, parameter, gradient)
        for column, parameter, gradient in zip(owned, parameters, gradients, strict=True)
        if gradient is not None
    ]
    return [_measure_alike(group, suspects) for group in _alike(present)]


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
    columns, parameters, gradients = ([entry[index] for entry in group] for index in range(3))
    device, dtype = gradients[0].device, gradients[0].dtype
    plain = all(type(gradient) is Tensor and gradient.layout is torch.strided for gradient in gradients)
    if plain and dtype in _LISTABLE and _foreach_utils._device_has_foreach_support(device):
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
    part = Part(columns, norms, Stamp(parameters, gradients))
    if norms.device.type == "cpu":
        _look_closer(part, gradients)
    elif suspects:
        chosen = [(index, column) for index, column in enumerate(_columns_of(part, gradients)) if column in suspects]
        if chosen:
            part.counted = [column for _, column in chosen]
            part.counts = device_census([gradients[index] for index, _ in chosen])
    return part


def _columns_of(part: Part, gradients: Sequence[Tensor]) -> Sequence[int]:
    return range(len(gradients)) if part.columns is None else part.columns


def _look_closer(part: Part, gradients: list[Tensor]) -> None:
    """A norm of zero may have underflowed, one of Inf overflowed; NaN and Inf are counted by kind."""
    values = part.norms.numpy()
    # One dot product and one test tell that all is well; Inf and NaN in any norm show in the sum of squares.
    if float(values @ values) < float("inf") and values.all():
        return
    columns = _columns_of(part, gradients)
    part.censuses = {
        columns[index]: census(gradients[index])
        for index, value in enumerate(values.tolist())
        if not 0.0 < value < float("inf")
    }
