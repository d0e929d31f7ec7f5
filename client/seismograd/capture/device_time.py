"""How long the extras keep a CUDA device busy: the training thread only launches them, and its clock sees no kernel."""

from __future__ import annotations

import torch

from seismograd.capture.budget import Extra

# Sampled steps waiting for the device; one that is further behind than this has other troubles.
_MOST_WAITING = 8

_Marks = tuple[Extra, torch.cuda.Event, torch.cuda.Event]  # what, from, until


class DeviceTimes:
    """Marks in the stream around each extra, read later, when the device has passed them; nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._open: dict[Extra, torch.cuda.Event] = {}
        self._marks: list[_Marks] = []
        self._waiting: list[tuple[dict[Extra, float], list[_Marks]]] = []

    def begin(self, extra: Extra) -> None:
        """The kernels launched from now on belong to the extra."""
        if len(self._waiting) < _MOST_WAITING:
            self._open[extra] = self._mark()

    def end(self, extra: Extra) -> None:
        """The kernels of the extra are all launched."""
        if (begun := self._open.pop(extra, None)) is not None:
            self._marks.append((extra, begun, self._mark()))

    def done(self, host: dict[Extra, float]) -> list[dict[Extra, float]]:
        """A step's extras are all launched, which took the host so many seconds each.

        Returns:
            seconds by extra, on host and device together, of each step whose extras the device has done by now.
        """
        self._waiting.append((host, self._marks))
        self._marks = []
        found: list[dict[Extra, float]] = []
        while self._waiting and all(ended.query() for _, _, ended in self._waiting[0][1]):
            seconds, marks = self._waiting.pop(0)
            for extra, begun, ended in marks:
                seconds[extra] = seconds.get(extra, 0.0) + begun.elapsed_time(ended) / 1000.0  # it tells milliseconds
            found.append(seconds)
        return found

    def _mark(self) -> torch.cuda.Event:
        mark = torch.cuda.Event(enable_timing=True)
        with torch.cuda.device(self._device):
            mark.record()
        return mark
