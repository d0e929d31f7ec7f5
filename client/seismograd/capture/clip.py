"""Clipping that tells the watches what it computes anyway: the drop-in, and torch's own functions under interception.

    gradients --norms per tensor--> total --> coefficient --> gradients scaled
                      |                             |
               watch.before_clip             watch.after_clip

Norms are taken before anything is scaled. What the caller gets, and what the gradients become, equals torch's to the
last bit: the same kernels in the same order, or torch's own code wherever the case is unusual.
"""

from __future__ import annotations

import logging
import operator
import threading
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from seismograd.capture import registry
from seismograd.capture.norms import PLAIN, TorchNorm, foreach_multiply, torch_norm
from seismograd.capture.overheard import Overheard, OverheardCoefficient
from seismograd.capture.pieces import is_sharded, local
from seismograd.capture.registry import Clip
from seismograd.capture.seats import Function, Seat, has_expected_shape, original
from seismograd.capture.untraced import untraced

_log = logging.getLogger("seismograd")
_gradient = operator.attrgetter("grad")

Tensors = Tensor | Iterable[Tensor]

# Three operations in single precision round by far less than this: at such a distance from the threshold, on which side
# of one the coefficient lies is known without computing it.
_ROUNDING = 1e-5
_LARGEST = float(np.finfo(np.float32).max)
_PRECISE = frozenset({torch.float32, torch.float64})
# What a coefficient is made of, in both precisions: the type, one, and what torch adds to a total.
_SINGLE = (np.float32, np.float32(1.0), np.float32(1e-6))
_DOUBLE = (np.float64, np.float64(1.0), np.float64(1e-6))


class Listening(threading.local):
    """Whether this thread is inside a clip that is already being listened to: nested hits count once."""

    nested = False

    def __enter__(self) -> None:
        self.nested = True

    def __exit__(self, *_: object) -> None:
        self.nested = False


listening = Listening()


@untraced
def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Drop-in for `torch.nn.utils.clip_grad_norm_`: the same result, and telemetry of the norms it computes.

    Gradients are scaled in place so that their total norm is at most `max_norm`. Returns the total norm before that.
    Raises what torch raises; without a watch it is torch's function.
    """
    with torch.no_grad():
        return _clip_and_tell(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


def _clip_and_tell(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    watches = () if listening.nested else registry.watches()
    if not watches:
        unwatched: Tensor = original("clip_grad_norm_")(parameters, max_norm, norm_type, error_if_nonfinite, foreach)
        return unwatched
    everyone = _listed(parameters)
    owners, gradients, kinds = _with_gradients(everyone)
    if not gradients:
        # torch has a warning for exhausted generators and an answer for no gradients.
        exhausted = (parameter for parameter in everyone)
        nothing: Tensor = original("clip_grad_norm_")(exhausted, max_norm, norm_type, error_if_nonfinite, foreach)
        return nothing
    euclidean = float(norm_type) == 2.0
    alike = next(filter(None, [watch.alike(owners) for watch in watches]), None) if kinds == PLAIN else None
    measured = torch_norm(gradients, foreach, alike) if euclidean else None
    if measured is None and euclidean and any(map(is_sharded, gradients)):
        total, heard = _overheard_total(gradients, error_if_nonfinite, foreach)
        for watch in watches:
            watch.before_clip(owners, gradients, heard)
        said = _scale_by(everyone, max_norm, total, foreach)
        for watch in watches:
            watch.after_clip(owners, said)
        return total
    for watch in watches:
        watch.before_clip(owners, gradients, None if measured is None else measured.norms)
    if measured is None or (error_if_nonfinite and not bool(torch.isfinite(measured.total))):
        with listening:
            total = original("clip_grad_norm_")(everyone, max_norm, norm_type, error_if_nonfinite, foreach)
        value: Tensor | float = total
    else:
        total = measured.total
        value = float(total) if total.is_cpu and total.dtype in _PRECISE else total
        _scale(measured, value, float(max_norm))
    said = Clip(float(max_norm), value) if euclidean else Clip(None, None)
    for watch in watches:
        watch.after_clip(owners, said)
    return total


_clip_grad_norm = untraced(_clip_and_tell)  # for torch's place; behind the drop-in the second wrapper has no use


def _overheard_total(
    gradients: list[Tensor], error_if_nonfinite: bool, foreach: bool | None
) -> tuple[Tensor, list[Tensor | None]]:
    """What torch makes of gradients among which are DTensors, and the norms that it computed on the way."""
    with listening, Overheard(gradients) as overheard:
        total: Tensor = original("_get_total_norm")(gradients, 2.0, error_if_nonfinite, foreach)
    return total, overheard.norms


def _scale_by(parameters: list[Tensor], max_norm: float, total: Tensor, foreach: bool | None) -> Clip:
    """The second half of torch's clip, and what is known of it here."""
    scale, known = original("_clip_grads_with_norm_"), _known(total)
    with listening:
        if known is not None:
            scale(parameters, max_norm, total, foreach)
            return Clip(float(max_norm), known)
        with OverheardCoefficient() as overheard:
            scale(parameters, max_norm, total, foreach)
    coefficient = overheard.coefficient
    return Clip(float(max_norm), None, None if coefficient is None else _known(coefficient))


def _known(number: Tensor) -> Tensor | None:
    """A number as a plain tensor; None where every process holds a part of it, and reading it is a collective."""
    if not is_sharded(number):
        return number
    return local(number) if all(each.is_replicate() for each in number.placements) else None  # type: ignore[attr-defined]  # a DTensor


def _scale(measured: TorchNorm, total: Tensor | float, max_norm: float) -> None:
    """The second half of torch's clip, with the same bits. `total` is a number where the host has it, and precisely."""
    if isinstance(total, float) and total + 1e-6 < (1.0 - _ROUNDING) * max_norm:
        return  # multiplying by one changes no bit; on a device, asking would mean waiting
    if isinstance(total, float) and 0.0 < (1.0 + _ROUNDING) * max_norm < total < _LARGEST:
        coefficient = _host_coefficient(total, max_norm, measured.total.dtype)
    else:
        coefficient = torch.clamp(max_norm / (measured.total + 1e-6), max=1.0)
    for device, gradients in measured.groups:
        foreach_multiply(gradients, coefficient.to(device))


def _host_coefficient(total: float, max_norm: float, dtype: torch.dtype) -> Tensor:
    """`max_norm / (total + 1e-6)` with the bits of torch, which multiplies by a reciprocal, at a fifth of its cost."""
    number, one, least = _SINGLE if dtype is torch.float32 else _DOUBLE
    return torch.from_numpy(np.asarray(number(max_norm) * (one / (number(total) + least))))


@untraced
def _get_total_norm(
    tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Tensor:
    watches = () if listening.nested else registry.watches()
    torch_total = original("_get_total_norm")
    if not watches:
        unwatched: Tensor = torch_total(tensors, norm_type, error_if_nonfinite, foreach)
        return unwatched
    gradients = _listed(tensors)
    euclidean = float(norm_type) == 2.0
    measured = torch_norm(gradients, foreach) if euclidean and gradients else None
    if measured is None and euclidean and any(map(is_sharded, gradients)):
        total, heard = _overheard_total(gradients, error_if_nonfinite, foreach)
        for watch in watches:
            watch.gradients_measured(gradients, heard)
        return total
    for watch in watches:
        watch.gradients_measured(gradients, None if measured is None else measured.norms)
    if measured is not None and not error_if_nonfinite:
        return measured.total
    by_torch: Tensor = torch_total(gradients, norm_type, error_if_nonfinite, foreach)
    return by_torch


@untraced
def _clip_grads_with_norm(
    parameters: Tensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    everyone = _listed(parameters)
    watches = () if listening.nested else registry.watches()
    if not watches:
        original("_clip_grads_with_norm_")(everyone, max_norm, total_norm, foreach)
        return
    owners, gradients, _ = _with_gradients(everyone)
    for watch in watches:
        watch.before_clip(owners, gradients, None)
    said = _scale_by(everyone, max_norm, total_norm, foreach)
    for watch in watches:
        watch.after_clip(owners, said)


@untraced
def _clip_grad_value(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    everyone = _listed(parameters)
    watches = () if listening.nested else registry.watches()
    owners, gradients, _ = _with_gradients(everyone) if watches else ([], [], None)
    for watch in watches:
        watch.before_clip(owners, gradients, None)
    original("clip_grad_value_")(everyone, clip_value, foreach)
    for watch in watches:
        watch.after_clip(owners, Clip(None, None))


def _listed(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _with_gradients(parameters: list[Tensor]) -> tuple[list[Tensor], list[Tensor], set[type]]:
    """Those that have a gradient, their gradients, and the types of these."""
    gradients: list[Tensor | None] = list(map(_gradient, parameters))
    kinds: set[type] = set(map(type, gradients))
    if type(None) in kinds:
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
        kinds.remove(type(None))
    return parameters, gradients, kinds  # type: ignore[return-value]  # none is None any more


class ClipInterception:
    """torch's own clip functions tell the watches, from construction to `restore()`."""

    def __init__(self) -> None:
        replacements: dict[str, Function] = {
            "clip_grad_norm_": _clip_grad_norm,
            "_get_total_norm": _get_total_norm,
            "_clip_grads_with_norm_": _clip_grads_with_norm,
            "clip_grad_value_": _clip_grad_value,
        }
        known = [name for name in replacements if has_expected_shape(name)]
        self._seats = [Seat(name, replacements[name]) for name in known]
        if unknown := sorted(replacements.keys() - set(known)):
            _log.warning(
                "torch %s has other functions than are known here (%s): gradients that they clip are recorded as they"
                " are behind the clip; clip with seismograd.clip_grad_norm_ instead",
                torch.__version__,
                ", ".join(unknown),
            )

    def restore(self) -> None:
        """Lets torch be as it was."""
        for seat in self._seats:
            seat.restore()
