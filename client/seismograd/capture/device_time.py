"""How long the extras keep a CUDA device busy: the training thread only launches them, and its clock sees no kernel."""

from __future__ import annotations

import torch

from seismograd.capture.budget import Extra

# Marks waiting to be read; a device that is further behind than this has other troubles.
_MOST_WAITING = 32


class DeviceTimes:
    """Marks in the stream around each extra, read later, when the device has passed them; nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._open: dict[Extra, torch.cuda.Event] = {}
        self._waiting: list[tuple[Extra, torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self, extra: Extra) -> None:
        """The kernels launched from now on belong to the extra."""
        if len(self._waiting) < _MOST_WAITING:
            self._open[extra] = self._mark()

    def end(self, extra: Extra) -> None:
        """The kernels of the extra are all launched."""
        if (begun := self._open.pop(extra, None)) is not None:
            self._waiting.append((extra, begun, self._mark()))

    def take(self) -> dict[Extra, float]:
        """Seconds by extra of what the device has finished since the last call."""
        found: dict[Extra, float] = {}
        while self._waiting and self._waiting[0][2].query():
            extra, begun, ended = self._waiting.pop(0)
            found[extra] = found.get(extra, 0.0) + begun.elapsed_time(ended) / 1000.0  # it tells milliseconds
        return found

    def _mark(self) -> torch.cuda.Event:
        mark = torch.cuda.Event(enable_timing=True)
        with torch.cuda.device(self._device):
            mark.record()
        return mark
