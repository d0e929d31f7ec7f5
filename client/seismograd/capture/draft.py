"""A step in the making: what is measured on the training thread, and how what lies on a device sets out.

`pending.py` makes the record of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seismograd.capture.layout import Layout
from seismograd.capture.local_norms import LocalSample
from seismograd.capture.parts import Part, pieces_of
from seismograd.capture.pieces import Piece
from seismograd.capture.readback import Readback, Transfer, host_number
from seismograd.capture.registry import Clip
from seismograd.record import NormSource, Quantity, RecordFlag

if TYPE_CHECKING:
    from seismograd.capture.harvest import Taken

# Combining flags costs microseconds; most records have none.
_NO_FLAG = RecordFlag(0)


@dataclass(slots=True, eq=False)
class Draft:
    """A step in the making, on the training thread."""

    parts: list[Part]
    source: NormSource
    flags: RecordFlag
    time_unix_seconds: float
    pieces: Sequence[Piece] | None = None  # what the norms are of, by column; None = whole tensors
    scalars: dict[Quantity, float] = field(default_factory=dict)
    tensors: dict[Quantity, tuple[list[int] | None, Tensor]] = field(default_factory=dict)  # columns, values
    device_scalars: dict[Quantity, Tensor] = field(default_factory=dict)
    gradient_scale: Tensor | float | None = None  # the gradients measured are this many times too large
    found_inf: Tensor | None = None  # the loss scaler's verdict, where the optimizer itself decides (fused)
    local_norms: LocalSample | None = None  # of the gradients before the all-reduce, as scaled as the loss
    local_scale: Tensor | float | None = None
    data: str | Tensor | None = None
    logged: bool = False
    ships_rows: bool = True
    ships_local: bool = True  # every rank does, replicas too
    replica: bool = False
    by_framework: bool = False  # no gradient was seen: the reported norm is the total

    def on_host(self) -> bool:
        """Whether every number is on the host already, so that nothing has to travel."""
        return not self.device_scalars and False not in [part.norms.is_cpu for part in self.parts]

    def add_clip(self, clip: Clip, *, modified: bool) -> None:
        """What the clip of this step did; with `modified`, what it used is not what the step uses."""
        if clip.threshold is None:
            return
        self.scalars[Quantity.CLIP_THRESHOLD] = clip.threshold
        if modified:
            return
        quantity, value = Quantity.REPORTED_NORM, clip.total
        if value is None:
            quantity, value = Quantity.CLIP_COEFFICIENT, host_number(clip.coefficient)
        if isinstance(value, Tensor):
            self.device_scalars[quantity] = value
        elif value is not None:
            self.scalars[quantity] = value

    def add_rate_and_scale(self, optimizer: torch.optim.Optimizer, scale: Tensor | float | None) -> None:
        """The learning rate, and what a loss scaler does; `scale` is the one in force."""
        groups = optimizer.param_groups
        rate = single_number(groups[0].get("lr") if groups else None)
        if isinstance(rate, Tensor):
            self.device_scalars[Quantity.LEARNING_RATE] = rate.clone()
        elif rate is not None:
            self.scalars[Quantity.LEARNING_RATE] = rate
        if isinstance(scale, Tensor):
            self.device_scalars[Quantity.LOSS_SCALE] = scale
        elif scale is not None:
            self.scalars[Quantity.LOSS_SCALE] = scale
        # Fused optimizers unscale inside their kernel and decide there whether to skip.
        self.gradient_scale = host_number(getattr(optimizer, "grad_scale", None))
        self.found_inf = getattr(optimizer, "found_inf", None)
        self.local_scale = scale


def draft_of(taken: Taken, layout: Layout, optimizer: torch.optim.Optimizer, scale: Tensor | float | None) -> Draft:
    """A step of which these norms are known, before it is made."""
    flags = _NO_FLAG
    pieces = pieces_of(layout, taken.parts)
    if pieces is not None and (any(piece.partial for piece in pieces) or any(part.rounded for part in taken.parts)):
        flags |= RecordFlag.INEXACT
    draft = Draft(taken.parts, taken.source, flags, time.time(), pieces=pieces)
    if taken.clip is not None:
        draft.add_clip(taken.clip, modified=taken.source is NormSource.POST_MODIFICATION)
    draft.add_rate_and_scale(optimizer, scale)
    return draft


def single_number(value: object) -> Tensor | float | None:
    """The value as a number, as a tensor where a device has it; None = it is no number, or more than one."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            return None
        return value.detach() if value.device.type != "cpu" else float(value)
    try:
        return None if value is None else float(value)  # type: ignore[arg-type]  # what cannot be one is caught
    except (TypeError, ValueError, OverflowError):
        return None


def send(readback: Readback, draft: Draft) -> tuple[list[object], Transfer]:
    """Starts the way of everything that is a tensor, and names it."""
    names, tensors = host_values(draft)
    for index, part in enumerate(draft.parts):
        if part.counts is not None:
            names.append(("counts", index))
            tensors.append(part.counts)
    names += draft.device_scalars
    tensors += draft.device_scalars.values()
    for name, value in (
        ("gradient_scale", draft.gradient_scale),
        ("local_scale", draft.local_scale),
        ("data", draft.data),
    ):
        if isinstance(value, Tensor):
            names.append(name)
            tensors.append(value)
    return names, readback.send(tensors)


def host_values(draft: Draft) -> tuple[list[object], list[Tensor]]:
    """What is a tensor wherever the model is, with a name for each."""
    names: list[object] = [("norms", index) for index in range(len(draft.parts))]
    tensors = [part.norms for part in draft.parts]
    for quantity, (_, values) in draft.tensors.items():
        names.append(("tensor", quantity))
        tensors.append(values)
    local_norms = None if draft.local_norms is None else draft.local_norms[1]
    for name, value in (("found_inf", draft.found_inf), ("local_norms", local_norms)):
        if value is not None:
            names.append(name)
            tensors.append(value)
    return names, tensors
