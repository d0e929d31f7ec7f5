"""The way of device values to the host without the training thread ever waiting for it.

Host tensors are views at once. Device tensors are packed into one float64 vector on the current stream, copied without
blocking into a pinned buffer of a small pool, and followed by an event that the sender's thread polls. Reading the
buffer before the event is done would give garbage, and waiting for the event would stall training: so neither is done.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Sequence
from threading import get_ident
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seismograd.capture.event_queries import allow_event_queries

_log = logging.getLogger("seismograd")

_HAS_CUDA = torch.backends.cuda.is_built()  # asked several times a step: a CPU build answers without a call

Array = npt.NDArray[np.float64]

# A slot is busy until the sender has polled it, which is up to 50 ms, and for as long as the device is behind. They are
# made when they are needed, each as small as the list of parameters (148 parameters: 1.2 kB), but no more than so many,
# and of large models no more than fit into so much pinned memory.
_MOST_SLOTS = 256
_LEAST_SLOTS = 16
_MOST_BYTES = 16 * 1024 * 1024


class RingFullError(Exception):
    """No buffer is free: the device or the sender is behind, and the sample is given up rather than waited for."""


class _Slot:
    """One pinned buffer and the event behind its last copy."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0, dtype=torch.float64)
        self.event: torch.cuda.Event = torch.cuda.Event()
        self.unread = False  # nobody has seen that the last copy has ended

    def fill(self, packed: Tensor) -> None:
        """Starts the copy on the current stream of the tensor's device."""
        with torch.cuda.device(packed.device):
            if self.unread:
                self.event.wait()  # the stream does, not we: the last copy may be under way on another one
            if self.buffer.numel() < packed.numel():
                self.buffer = torch.empty(packed.numel(), dtype=torch.float64, pin_memory=True)
            self.buffer[: packed.numel()].copy_(packed, non_blocking=True)
            self.event.record()
        self.unread = True


class _Pool:
    """The slots of one device, since an event belongs to the device on which it was first recorded."""

    def __init__(self) -> None:
        self._free: deque[_Slot] = deque()
        self._made = 0

    def take(self, elements: int) -> _Slot | None:
        """A slot for so many numbers; None when as many are under way as there may be."""
        try:
            return self._free.pop()
        except IndexError:
            if self._made >= most_slots(elements):
                return None
        self._made += 1
        return _Slot()

    def give_back(self, slot: _Slot) -> None:
        """From any thread."""
        self._free.append(slot)


def most_slots(elements: int) -> int:
    """How many buffers of so many numbers there may be."""
    return min(_MOST_SLOTS, max(_LEAST_SLOTS, _MOST_BYTES // (8 * max(elements, 1))))


class Transfer:
    """Values on their way: `ready()` never blocks, `arrays()` gives them in the order they were sent, as float64[k]."""

    __slots__ = ("_arrays", "_places", "_pool", "_sent_by", "_slot")

    def __init__(
        self,
        arrays: list[Array | None],
        places: list[tuple[int, int]],
        pool: _Pool | None = None,
        slot: _Slot | None = None,
    ) -> None:
        self._arrays = arrays
        self._places = places  # (index in arrays, length) of what travels in the slot
        self._pool = pool
        self._slot = slot
        self._sent_by = get_ident()

    @property
    def on_host(self) -> bool:
        """Whether nothing had to travel."""
        return self._slot is None

    def ready(self) -> bool:
        """Whether the values have arrived. A device that has failed counts as ready: there is nothing to wait for."""
        if self._slot is None:
            return True
        try:
            return self._has_arrived(self._slot)
        except RuntimeError:
            return True

    def arrays(self) -> list[Array | None]:
        """The values; None where the device failed before they came. Frees the buffer: call it once."""
        slot, self._slot = self._slot, None
        if slot is not None and self._pool is not None:
            try:
                arrived = self._has_arrived(slot)
            except RuntimeError:
                arrived = False
            if arrived:
                begin = 0
                for index, length in self._places:
                    self._arrays[index] = slot.buffer[begin : begin + length].numpy().copy()
                    begin += length
                slot.unread = False
                self._pool.give_back(slot)
            # A slot whose copy failed is not used again: the device may still write into it.
        return self._arrays

    def _has_arrived(self, slot: _Slot) -> bool:
        if get_ident() != self._sent_by:
            # The training thread, which has sent it, may have begun to capture a graph since.
            allow_event_queries()
        return bool(slot.event.query())

    def __del__(self) -> None:
        """A record that is dropped unread gives its buffer back; a later copy queues behind the one still running."""
        if self._slot is not None and self._pool is not None:
            self._pool.give_back(self._slot)


class Readback:
    """Sends tensors to the host; one per watched optimizer, used by one thread."""

    def __init__(self) -> None:
        self._pools: defaultdict[torch.device, _Pool] = defaultdict(_Pool)
        self._warned = False

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
        device = moving[0][1].device
        pool = self._pools[device]
        slot = pool.take(sum(tensor.numel() for _, tensor in moving))
        if slot is None:
            self._say_full()
            raise RingFullError
        packed = torch.cat([tensor.to(device, torch.float64, non_blocking=True) for _, tensor in moving])
        slot.fill(packed)
        return Transfer(arrays, [(index, tensor.numel()) for index, tensor in moving], pool, slot)

    def _say_full(self) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("the device is so far behind that a step's numbers were given up; this is said once")

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
