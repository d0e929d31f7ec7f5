"""The largest element of each gradient by magnitude: what overflows first, and what one bad sample moves most."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from seismograd.capture.norms import dense, foreach_norm, has_foreach, together

_REAL = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
# Types that one call of `_foreach_norm` takes in a list.
_LISTABLE = _REAL | {torch.complex64, torch.complex128}


@torch.no_grad()
def largest_elements(gradients: Sequence[Tensor]) -> Tensor:
    """Largest finite magnitude in each gradient, float32[k] or float64[k], on one device.

    On the host, elements that are not finite are left out; on a device the result is NaN (not known) for a gradient
    that has any. An empty gradient has 0.
    """
    values = [dense(gradient) for gradient in gradients]
    device = values[0].device
    kinds = {(value.device, value.dtype) for value in values}
    alike = len(kinds) == 1 and all(value.numel() for value in values)  # torch knows no largest of nothing
    if alike and device.type == "cpu" and values[0].dtype in _REAL and all(map(is_dense, values)):
        result = _largest_on_host(values)
    elif alike and has_foreach(device) and values[0].dtype in _LISTABLE:
        result = together(list(foreach_norm(values, math.inf)))
    else:
        result = together([_largest(value) for value in values])
    if device.type != "cpu":
        return result + 0.0 * result  # NaN for Inf too; a choice between tensor and number would wait for the device
    for place in torch.isfinite(result).logical_not().nonzero().flatten().tolist():
        result[place] = _largest(torch.nan_to_num(values[place].abs(), nan=0.0, posinf=0.0))
    return result


def in_memory_order(value: Tensor) -> Tensor:
    """The same elements as they lie in memory, as those of `channels_last` do: of other orders torch makes a copy."""
    return value.permute(sorted(range(value.dim()), key=value.stride, reverse=True))


def is_dense(value: Tensor) -> bool:
    """Whether the elements fill a stretch of memory without gaps."""
    return value.is_contiguous() or in_memory_order(value).is_contiguous()


def _largest_on_host(values: Sequence[Tensor]) -> Tensor:
    """The infinity norm is slow here, five times slower than the Euclidean one; this is one pass as well."""
    extremes = [torch.aminmax(in_memory_order(value)) for value in values]
    lowest, highest = together([each.min for each in extremes]), together([each.max for each in extremes])
    return torch.maximum(lowest.abs(), highest.abs())


def _largest(values: Tensor) -> Tensor:
    if values.numel() == 0:
        return torch.zeros((), device=values.device)
    if values.dtype not in _LISTABLE:
        values = values.to(torch.float32)
    largest: Tensor = torch.linalg.vector_norm(values, math.inf)
    return largest
