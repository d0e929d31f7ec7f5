"""What data a step saw, in words short enough to travel with every record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from seismograd.capture.readback import Array

# Enough sample indexes to find the batch again; token ids of a whole batch would be the data itself.
_MOST_IDS = 256
# As much of the identity as the wire takes, and that counted in characters of at most 4 bytes.
_BYTES = 4096
_CHARACTERS = _BYTES // 4


def identify_data(batch: object) -> str | Tensor | None:
    """Text as it is, indexes one by one, other tensors by shape. A device tensor stays one until it has travelled."""
    if batch is None or isinstance(batch, str):
        return batch
    if isinstance(batch, Tensor):
        return _identify_tensor(batch)
    if isinstance(batch, Mapping):
        return " ".join(f"{key}={_short(value)}" for key, value in list(batch.items())[:_MOST_IDS])
    if isinstance(batch, Iterable):
        return " ".join(_short(value) for value, _ in zip(batch, range(_MOST_IDS), strict=False))
    return str(batch)


def _identify_tensor(batch: Tensor) -> str | Tensor:
    if batch.dim() > 1 or batch.is_floating_point() or batch.is_complex():
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    ids = batch.detach().reshape(-1)[:_MOST_IDS]
    if ids.device.type == "cpu":
        return " ".join(map(str, ids.tolist()))
    return ids.to(torch.int64, copy=True)


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        found = _identify_tensor(value)
        return found if isinstance(found, str) else f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return str(value)


def data_ids(data: str | Tensor | None, values: Array | None) -> str | None:
    """The identity as text; `values` are those of a tensor of indexes, once they have arrived."""
    if values is not None and isinstance(data, Tensor):
        data = " ".join(str(int(value)) for value in values.tolist())
    if not isinstance(data, str):
        return None
    text = data[:_CHARACTERS]
    if text.isascii():
        return text
    # Names of files need not be UTF-8; Python reads what is not as lone surrogates, which the wire does not take.
    return text.encode("utf-8", "backslashreplace")[:_BYTES].decode("utf-8", "ignore")
