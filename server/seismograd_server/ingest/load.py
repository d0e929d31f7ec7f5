"""How busy a thread has been lately: what may wait asks before it takes time from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Long enough to look over a tick's work and the wait before it, short enough to notice that a burst is over.
_MEMORY_SECONDS = 1.0


class Load:
    """Measured by one thread, read by any."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._ended = clock()
        self._share = 0.0

    @property
    def share(self) -> float:
        """The share of its time that the thread has worked, 0 to 1, about over the last second."""
        return self._share

    @contextmanager
    def working(self) -> Iterator[None]:
        """What the thread does inside counts as work, what it does between two of these as rest."""
        began = self._clock()
        try:
            yield
        finally:
            now = self._clock()
            total, self._ended = now - self._ended, now
            if total > 0:
                self._share += min(1.0, total / _MEMORY_SECONDS) * ((now - began) / total - self._share)
