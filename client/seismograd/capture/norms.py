"""Norms of gradients as torch computes them, and the closer look that a norm of zero, Inf or NaN asks for.

Pure functions over tensors; nothing here synchronises a device but `census`, which is for host tensors only.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._foreach_utils import _device_has_foreach_support, _group_tensors_by_device_and_dtype

from seismograd.capture.pieces import local

# What torch's own clipping and optimizers are made of; it has no public names for them.
foreach_norm: Callable[..., tuple[Tensor, ...]] = torch._foreach_norm  # noqa: SLF001 - see above
foreach_multiply: Callable[..., None] = torch._foreach_mul_
group_by_kind: Callable[..., dict[tuple[torch.device, torch.dtype], Any]] = _group_tensors_by_device_and_dtype
has_foreach: Callable[[torch.device], bool] = _device_has_foreach_support

norm_into: Callable[..., Tensor] = torch.linalg.vector_norm  # what `_foreach_norm` calls for each tensor on a host
# Nobody asks for the gradient of a norm: without what torch does for that, each costs a quarter of a microsecond less.
# The public `inference_mode` wraps this one in Python, which costs what ten of them save.
outside_autograd: Callable[[bool], AbstractContextManager[object]] = getattr(
    torch._C,  # noqa: SLF001 - see above
    "_InferenceMode",
    torch.inference_mode,
)

# The types of gradients that need no care: no DTensor, no other subclass.
PLAIN: frozenset[type] = frozenset({Tensor})
_dtype = operator.attrgetter("dtype")

# Squares of half-precision elements leave the type at once, so their norms are taken in float32; a float32 norm of
# float64 elements would round for nothing.
_ACCUMULATE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
NATIVE = frozenset({torch.float32, torch.float64, torch.complex64, torch.complex128})

# The highest byte of a float32, the fourth of it, holds its sign and its exponent but for one bit: it is 0 below
# 2**-125, 127 from 2**127 on and for Inf, 127 or 255 for NaN. They cost half of what the numbers cost.
HIGHEST_BYTES = slice(3, None, 4)
USUAL = bytes(range(1, 127))


class Census(NamedTuple):
    """What one gradient holds: the norm of its finite elements, and how many elements are not finite, by kind."""

    norm: float
    nan: int
    positive_inf: int
    negative_inf: int

    @property
    def nonfinite(self) -> int:
        """Number of elements that are not finite."""
        return self.nan + self.positive_inf + self.negative_inf


MeasuresAlike = Callable[[list[Tensor]], Tensor]
"""L2 norms, float32[k], of certain gradients. Raises RuntimeError unless all are float32, on the host."""


class TorchNorm(NamedTuple):
    """What torch's clipping computes, and the per-tensor norms that it throws away."""

    total: Tensor  # to the last bit what `torch.nn.utils.get_total_norm` gives
    norms: Tensor | None  # [k] in the order of the gradients; None = too coarse for telemetry (float16), measure again
    groups: list[tuple[torch.device, list[Tensor]]]  # the gradients by device and type, as torch groups them


def dense(gradient: Tensor) -> Tensor:
    """The elements that this rank holds as an ordinary tensor: values of a sparse gradient, shard of a DTensor."""
    gradient = local(gradient)
    if gradient.layout is not torch.strided:
        gradient = gradient.coalesce().values()
    return gradient.detach()


def stacked_norms(gradients: Sequence[Tensor], dtype: torch.dtype | None) -> Tensor:
    """L2 norms, float[k], of plain tensors on one device; `dtype` None accumulates in the gradients' own type."""
    with torch.no_grad():  # gradients may have graphs of their own, and others come from inference mode
        return torch.stack(foreach_norm(gradients, 2.0, dtype=dtype))


def widest(device: torch.device) -> torch.dtype:
    """The widest type for sums of squares on a device: MPS has no float64, and raises where one is asked for."""
    return torch.float32 if device.type == "mps" else torch.float64


def together(values: Sequence[Tensor]) -> Tensor:
    """Tensors without dimensions as one, [k], where the first is; float64 if one of them is, else float32."""
    wide = torch.float64 if any(value.dtype is torch.float64 for value in values) else torch.float32
    return torch.stack([value.to(values[0].device, wide, non_blocking=True) for value in values])


def accumulation(dtype: torch.dtype, device: torch.device) -> torch.dtype | None:
    """In which type norms of such gradients are to be accumulated; None = in their own.

    On an accelerator nothing can be rescued afterwards without a synchronisation. float64 costs nothing there, since
    reading the gradients is what takes the time, and neither 1e20 nor 1e-25 leaves it.
    """
    if device.type == "cuda" and not dtype.is_complex:
        return torch.float64
    return _ACCUMULATE.get(dtype)


def norm_of(gradient: Tensor) -> Tensor:
    """The norm of any gradient, as a tensor without dimensions on the gradient's device."""
    values = dense(gradient)
    if values.numel() == 0:
        return torch.zeros((), device=values.device)
    if values.dtype not in NATIVE and values.dtype not in _ACCUMULATE:
        values = values.to(torch.float32)
    norm: Tensor = torch.linalg.vector_norm(values, 2.0, dtype=accumulation(values.dtype, values.device))
    return norm


def torch_norm(gradients: list[Tensor], foreach: bool | None, alike: MeasuresAlike | None = None) -> TorchNorm | None:
    """The total L2 norm, computed exactly as torch does; None where torch had better do it by itself.

    That is: nothing to measure, subclasses of Tensor (DTensor), devices without `foreach`, or `foreach=False`. `alike`
    is given for plain tensors of parameters that were alike in device and type: grouping them, which costs as much as a
    third of the norms, is then left out.
    """
    if foreach is False or not (alike or set(map(type, gradients)) == PLAIN):
        return None
    device, dtype = gradients[0].device, gradients[0].dtype
    if alike and device.type == "cpu" and dtype is torch.float32:
        try:
            norms = alike(gradients)
            return TorchNorm(torch.linalg.vector_norm(norms, 2.0), norms, [(device, gradients)])
        except Exception:  # noqa: BLE001, S110 - whatever has become of them: below is torch's own way
            pass
    elif alike and _all_alike(list(map(_dtype, gradients))) and has_foreach(device):
        try:
            return _torch_norm_of_group(device, gradients)
        except RuntimeError:
            pass  # part of the model was moved to another device: grouped below
    grouped = group_by_kind([gradients])
    if not all(has_foreach(device) for device, _ in grouped):
        return None
    groups: list[tuple[torch.device, list[Tensor]]] = [
        (device, tensors) for (device, _), ([tensors], _) in grouped.items()
    ]
    if len(groups) > 1:
        return TorchNorm(_total_of_groups(groups, gradients[0].device), None, groups)
    return _torch_norm_of_group(*groups[0])


def _all_alike(dtypes: list[torch.dtype]) -> bool:
    return dtypes.count(dtypes[0]) == len(dtypes)  # compares by identity first; a set would ask each for its hash


def _torch_norm_of_group(device: torch.device, gradients: list[Tensor]) -> TorchNorm:
    dtype, groups = gradients[0].dtype, [(device, gradients)]
    if dtype is torch.bfloat16:
        # Rounding a float32 norm gives the bits that torch gets in bfloat16; for float16 that is not so.
        norms = stacked_norms(gradients, torch.float32)
        return TorchNorm(torch.linalg.vector_norm(norms.to(dtype), 2.0), norms, groups)
    norms = stacked_norms(gradients, None)
    total = torch.linalg.vector_norm(norms, 2.0)
    return TorchNorm(total, norms if dtype in NATIVE else None, groups)


def _total_of_groups(groups: list[tuple[torch.device, list[Tensor]]], device: torch.device) -> Tensor:
    norms = [norm for _, tensors in groups for norm in foreach_norm(tensors, 2.0)]
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(device) for norm in norms]), 2.0)
    return total


def census(gradient: Tensor) -> Census:
    """Norm of the finite elements in float64, and counts of the others. Reads the result: for host tensors."""
    values = dense(gradient)
    if values.is_complex():
        values = torch.view_as_real(values)
    finite = torch.isfinite(values)
    bad = values.numel() - int(torch.count_nonzero(finite))
    if bad == 0:
        return Census(_scaled_norm(values.to(torch.float64)), 0, 0, 0)
    if bad == values.numel():
        # A dead run has nothing else: it must not be slowed down by our counting.
        odd, norm = values, 0.0
    else:
        odd, norm = values[~finite], _scaled_norm(values[finite].to(torch.float64))
    nan = int(torch.count_nonzero(torch.isnan(odd)))
    positive = 0 if nan == bad else int(torch.count_nonzero(odd > 0))
    return Census(norm, nan, positive, bad - nan - positive)


def device_census(gradients: Sequence[Tensor]) -> Tensor:
    """The same as `census` for several gradients, left there: float64[k, 4] (float32 on MPS), as in Census."""
    rows = []
    for gradient in gradients:
        values = dense(gradient)
        if values.is_complex():
            values = torch.view_as_real(values)
        finite = torch.where(torch.isfinite(values), values, torch.zeros_like(values))
        wide = widest(values.device)
        norm = torch.linalg.vector_norm(finite.to(wide))
        counts = [test(values).sum() for test in (torch.isnan, torch.isposinf, torch.isneginf)]
        rows.append(torch.stack([norm, *(count.to(wide) for count in counts)]))
    return torch.stack(rows)


def _scaled_norm(values: Tensor) -> float:
    """A norm whose squares leave even float64 (elements of 1e200) is taken after division by the largest element."""
    norm = float(torch.linalg.vector_norm(values))
    if 0.0 < norm < float("inf") or values.numel() == 0:
        return norm
    largest = float(values.abs().max())
    return 0.0 if largest == 0.0 else largest * float(torch.linalg.vector_norm(values / largest))
