"""The way of device values to the host without the training thread ever waiting for it.

Host tensors are views at once. Device tensors are packed into one float64 vector on the current stream, copied without
blocking into a pinned buffer of a small ring, and followed by an event that the sender's thread polls. Reading the
buffer before the event is done would give garbage, and waiting for the event would stall training: so neither is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_HAS_CUDA = torch.backends.cuda.is_built()  # asked several times a step: a CPU build answers without a call

Array = npt.NDArray[np.float64]

# A slot is busy from the copy until the sender has polled it: a few steps. Sixteen cover a second of 60 ms steps, and
# a slot is as small as the list of parameters (148 parameters: 1.2 kB).
_SLOTS = 16


class RingFullError(Exception):
    """No buffer is free: the device or the sender is behind, and the sample is given up rather than waited for."""


class _Slot:
    """One pinned buffer and the event behind its last copy."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0, dtype=torch.float64)
        self.event: torch.cuda.Event = torch.cuda.Event()

    def fill(self, packed: Tensor) -> None:
        """Starts the copy on the current stream of the tensor's device."""
        if self.buffer.numel() < packed.numel():
            self.buffer = torch.empty(packed.numel(), dtype=torch.float64, pin_memory=True)
        with torch.cuda.device(packed.device):
            self.buffer[: packed.numel()].copy_(packed, non_blocking=True)
            self.event.record()


class Transfer:
    """Values on their way: `ready()` never blocks, `arrays()` gives them in the order they were sent, as float64[k]."""

    __slots__ = ("_arrays", "_places", "_ring", "_slot")

    def __init__(
        self,
        arrays: list[Array | None],
        places: list[tuple[int, int]],
        ring: deque[_Slot] | None = None,
        slot: _Slot | None = None,
    ) -> None:
        self._arrays = arrays
        self._places = places  # (index in arrays, length) of what travels in the slot
        self._ring = ring
        self._slot = slot

    @property
    def on_host(self) -> bool:
        """Whether nothing had to travel."""
        return self._slot is None

    def ready(self) -> bool:
        """Whether the values have arrived. A device that has failed counts as ready: there is nothing to wait for."""
        if self._slot is None:
            return True
        try:
            return bool(self._slot.event.query())
        except RuntimeError:
            return True

    def arrays(self) -> list[Array | None]:
        """The values; None where the device failed before they came. Frees the buffer: call it once."""
        slot, self._slot = self._slot, None
        if slot is not None and self._ring is not None:
            try:
                arrived = bool(slot.event.query())
            except RuntimeError:
                arrived = False
            if arrived:
                begin = 0
                for index, length in self._places:
                    self._arrays[index] = slot.buffer[begin : begin + length].numpy().copy()
                    begin += length
                self._ring.append(slot)
            # A slot whose copy failed is not used again: the device may still write into it.
        return self._arrays

    def __del__(self) -> None:
        """A record that is dropped unread gives its buffer back; a later copy queues behind the one still running."""
        if self._slot is not None and self._ring is not None:
            self._ring.append(self._slot)


class Readback:
    """Sends tensors to the host; one per watched optimizer, used by one thread."""

    def __init__(self) -> None:
        self._ring: deque[_Slot] | None = None

    def send(self, tensors: Sequence[Tensor]) -> Transfer:
        """Starts the journey of tensors of any shape and device. Raises RingFullError when every buffer is busy."""
        arrays: list[Array | None] = [None] * len(tensors)
        moving: list[tuple[int, Tensor]] = []
        for index, tensor in enumerate(tensors):
            if tensor.device.type == "cpu":
                arrays[index] = tensor.numpy().reshape(-1)  # float64 when it is resolved, off the training thread
            else:
                moving.append((index, tensor.reshape(-1)))
        if not moving:
            return Transfer(arrays, [])
        if moving[0][1].device.type != "cuda":
            return Transfer([self._fetch(tensor) for tensor in tensors], [])
        return self._send_from_cuda(arrays, moving)

    def _send_from_cuda(self, arrays: list[Array | None], moving: list[tuple[int, Tensor]]) -> Transfer:
        if self._ring is None:
            self._ring = deque(_Slot() for _ in range(_SLOTS))
        if not self._ring:
            raise RingFullError
        slot = self._ring.popleft()
        device = moving[0][1].device
        packed = torch.cat([tensor.to(device, torch.float64, non_blocking=True) for _, tensor in moving])
        slot.fill(packed)
        return Transfer(arrays, [(index, tensor.numel()) for index, tensor in moving], self._ring, slot)

    @staticmethod
    def _fetch(tensor: Tensor) -> Array:
        """Devices without pinned copies (mps): a plain copy, which waits. Better late than wrong."""
        values: Array = tensor.detach().cpu().to(torch.float64).numpy().reshape(-1)
        return values


def capturing() -> bool:
    """Whether a CUDA graph is being captured: nothing may be launched into somebody's graph."""
    return _HAS_CUDA and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def host_number(value: Any) -> Tensor | float | None:
    """A tensor on the host becomes a number at once; one on a device stays a tensor, to travel; None stays None."""
    if isinstance(value, Tensor):
        return float(value) if value.device.type == "cpu" else value
    return None if value is None else float(value)
