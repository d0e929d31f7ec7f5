"""Norms taken at one moment, and whether the gradients are still those that were measured."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seismograd.capture.layout import Layout
from seismograd.capture.norms import (
    HIGHEST_BYTES,
    NATIVE,
    USUAL,
    Census,
    accumulation,
    census,
    device_census,
    has_foreach,
    norm_of,
    stacked_norms,
)
from seismograd.capture.pieces import Piece, all_local

# Types that one call of `_foreach_norm` takes in a list; others are measured one by one.
_LISTABLE = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


_version = operator.attrgetter("_version")  # torch documents no other way to see that a tensor was changed
_gradient = operator.attrgetter("grad")


class Stamp:
    """Identity and version of gradients: equal stamps mean that nobody replaced or changed them.

    A change of a DTensor counts in the version of the DTensor or of what is inside, depending on who makes it; only
    `torch._foreach_*` of DTensors counts nowhere.
    """

    __slots__ = ("_anchor", "_identities", "_versions")

    def __init__(self, gradients: list[Tensor]) -> None:
        self._identities = list(map(id, gradients))
        self._versions = list(map(_version, gradients))
        # Keeps one gradient alive, so that its address cannot be reused by the gradients of the next iteration.
        self._anchor = gradients[-1]

    def is_of(self, gradients: list[Tensor | None]) -> bool:
        """Whether these are the same tensors with the same contents."""
        return list(map(id, gradients)) == self._identities and list(map(_version, gradients)) == self._versions


def pieces_of(layout: Layout, parts: Iterable[Part]) -> Sequence[Piece] | None:
    """What the norms of one step are of, by column; None where every column is whole."""
    if not layout.sharded:
        return None
    found = list(layout.own_pieces)
    for part in parts:
        for place, piece in enumerate(part.pieces or ()):
            found[place if part.columns is None else part.columns[place]] = piece
    return tuple(found)


@dataclass(slots=True, eq=False)
class Part:
    """Norms of some columns: `norms` is [k]; `columns` has k entries, None = every column in order."""

    columns: list[int] | None
    norms: Tensor
    parameters: list[Tensor]
    fresh: list[Tensor] | None  # the gradients measured, until they are stamped: held no longer than a clip takes
    pieces: list[Piece] | None = None  # what each norm is of; None = whole tensors
    summed: frozenset[int] = frozenset()  # columns whose norms are of sums over processes, of which ours is a summand
    rounded: bool = False  # some norm comes from somebody who rounds to half precision
    stamp: Stamp | None = None
    censuses: dict[int, Census] = field(default_factory=dict)  # by column; host tensors only
    counted: list[int] = field(default_factory=list)  # columns behind `counts`
    counts: Tensor | None = None  # [len(counted), 4] on the device
    row: npt.NDArray[Any] | None = None  # `norms` as numpy has them, on a host
    largest: Tensor | None = None  # [k]: largest finite magnitudes, on sampled steps

    @property
    def is_plain(self) -> bool:
        """Whether these are float32 norms of whole tensors, on the host, and nothing else is known or asked of them.

        A norm of zero is as good as any other where the gradient was looked at and is zero indeed.
        """
        return (
            self.row is not None
            and self.row.dtype == np.float32
            and not (self.summed or self.rounded)
            and not (self.censuses and any(each.norm or each.nonfinite for each in self.censuses.values()))
            and self.largest is None
            and self.pieces is None
        )

    def settle(self) -> None:
        """From now on `holds()` compares with the gradients as they are; only the first call counts."""
        if self.fresh is not None:
            self.stamp, self.fresh = Stamp(self._witnesses(self.fresh)), None

    def renew(self) -> None:
        """The same, also after the changes that a clip has made."""
        if self.fresh is None:
            self.fresh = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.settle()

    def holds(self) -> bool:
        """Whether nobody has changed or replaced the gradients since."""
        gradients = list(map(_gradient, self.parameters))
        return self.stamp is not None and self.stamp.is_of(self._witnesses(gradients))

    def move_to(self, layout: Layout) -> bool:
        """Takes the numbers that columns have in another layout. False = it has not all of them; nothing is changed."""
        if any(id(parameter) not in layout.column_of for parameter in self.parameters):
            return False
        own = range(len(self.parameters)) if self.columns is None else self.columns
        there = {mine: layout.column_of[id(each)] for mine, each in zip(own, self.parameters, strict=True)}
        self.columns = [there[mine] for mine in own]
        self.censuses = {there[mine]: found for mine, found in self.censuses.items()}
        self.summed = frozenset(there[mine] for mine in self.summed)
        self.counted = [there[mine] for mine in self.counted]
        return True

    def _witnesses(self, gradients: list[Any]) -> list[Any]:
        """Tensors in which a change shows."""
        return gradients if self.pieces is None else gradients + all_local(gradients)


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
            return [make_part(parameters, gradients, columns, norms, suspects)]  # type: ignore[arg-type]  # as above
        except (NotImplementedError, RuntimeError, TypeError):
            layout.uniform = False  # a sparse gradient, or a model that was moved to another type
    owned = range(len(layout)) if columns is None else columns
    values = all_local(gradients) if layout.sharded else gradients
    present = [
        _Present(column, parameter, gradient, value)
        for column, parameter, gradient, value in zip(owned, parameters, gradients, values, strict=True)
        if gradient is not None
    ]
    return [_measure_alike(layout, group, suspects) for group in _alike(present)]


def take_over(
    layout: Layout,
    parameters: list[Tensor],
    gradients: list[Tensor],
    columns: list[int] | None,
    norms: Sequence[Tensor | None],
    *,
    suspects: frozenset[int],
) -> list[Part]:
    """Parts from norms that torch has computed one by one, each with the placement under which it holds.

    They say more than any local look where a gradient is a summand: torch has added it up before taking the norm.
    What is missing, or too coarse for telemetry, is measured.
    """
    owned = list(range(len(layout))) if columns is None else columns
    summed = [layout.pieces.of(gradient).partial for gradient in gradients]
    taken: list[int] = []
    left: list[int] = []
    for place, norm in enumerate(norms):
        good = norm is not None and (norm.dtype in NATIVE or summed[place])
        (taken if good else left).append(place)
    parts = measure(layout, [parameters[place] for place in left], [owned[place] for place in left], suspects)
    if taken:
        found = [norm for place in taken if (norm := norms[place]) is not None]
        rounded = any(norm.dtype not in NATIVE for norm in found)
        held = all_local(found)
        values = torch.stack([norm.to(torch.float32) for norm in held] if rounded else held).detach()
        chosen = [gradients[place] for place in taken]
        part = Part([owned[place] for place in taken], values, [parameters[place] for place in taken], chosen)
        part.pieces = [layout.pieces.of(norm) for norm in found]
        part.rounded = rounded
        part.summed = frozenset(owned[place] for place in taken if summed[place])
        _examine(part, chosen, suspects)
        parts.append(part)
    return parts


class _Present(NamedTuple):
    """A gradient that is there, and the elements of it that this process holds."""

    column: int
    parameter: Tensor
    gradient: Tensor
    values: Tensor


def _alike(present: list[_Present]) -> list[list[_Present]]:
    """Groups that one call can measure together; what fits in no group stands together with its device."""
    groups: dict[tuple[object, ...], list[_Present]] = {}
    for entry in present:
        values = entry.values
        plain = type(values) is Tensor and values.layout is torch.strided and values.dtype in _LISTABLE
        groups.setdefault((values.device, values.dtype if plain else None), []).append(entry)
    return list(groups.values())


def _measure_alike(layout: Layout, group: list[_Present], suspects: frozenset[int]) -> Part:
    values = [entry.values for entry in group]
    device, dtype = values[0].device, values[0].dtype
    plain = all(type(each) is Tensor and each.layout is torch.strided for each in values)
    if plain and dtype in _LISTABLE and has_foreach(device):
        norms = stacked_norms(values, accumulation(dtype, device))
    else:
        norms = torch.stack([norm_of(each) for each in values])
    gradients = [entry.gradient for entry in group]
    part = Part([entry.column for entry in group], norms, [entry.parameter for entry in group], gradients)
    if layout.sharded:
        part.pieces = [layout.piece_of_gradient(entry.column, entry.gradient) for entry in group]
    _examine(part, gradients, suspects)
    return part


def make_part(
    parameters: list[Tensor],
    gradients: list[Tensor],
    columns: list[int] | None,
    norms: Tensor,
    suspects: frozenset[int],
) -> Part:
    """A part from norms that somebody has computed, with the closer look where it is needed and possible."""
    part = Part(columns, norms, parameters, gradients)
    _examine(part, gradients, suspects)
    return part


def _examine(part: Part, gradients: list[Tensor], suspects: frozenset[int]) -> None:
    if part.norms.is_cpu:
        part.row = part.norms.numpy()
        if part.norms.dtype is torch.float32 and not part.row.tobytes()[HIGHEST_BYTES].translate(None, USUAL):
            return  # neither zero nor Inf nor NaN is among them
        _look_closer(part, gradients, part.row.tolist())
    elif suspects:
        chosen = [
            (index, column)
            for index, column in enumerate(_columns_of(part, gradients))
            if column in suspects and column not in part.summed
        ]
        if chosen:
            part.counted = [column for _, column in chosen]
            part.counts = device_census([gradients[index] for index, _ in chosen])


def _columns_of(part: Part, gradients: Sequence[Tensor]) -> Sequence[int]:
    return range(len(gradients)) if part.columns is None else part.columns


def _look_closer(part: Part, gradients: list[Tensor], values: list[float]) -> None:
    """A norm of zero may have underflowed, one of Inf overflowed; NaN and Inf are counted by kind."""
    # Inf and NaN in any norm show in the sum.
    if sum(values) < float("inf") and 0.0 not in values:
        return
    columns = _columns_of(part, gradients)
    part.censuses = {
        columns[index]: census(gradients[index])
        for index, value in enumerate(values)
        if not 0.0 < value < float("inf") and columns[index] not in part.summed
    }
    for index, value in enumerate(values):
        if columns[index] in part.summed and not value < float("inf"):
            # What is not finite in our summand is not finite in the sum; the norm of the rest of that is not known.
            part.censuses[columns[index]] = census(gradients[index])._replace(norm=float("nan"))
