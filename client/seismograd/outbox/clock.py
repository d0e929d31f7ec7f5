"""The clock of the sender, so that tests can hold it still."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: durations come from the first, time stamps from the second."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def unix_seconds(self) -> float:
        """Wall clock, Unix seconds."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def unix_seconds(self) -> float:
        """Wall clock, Unix seconds."""
        return time.time()
