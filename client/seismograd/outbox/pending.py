"""A record whose numbers are still on their way from the device."""

from __future__ import annotations

from typing import Protocol

from seismograd.record import StepRecord


class PendingRecord(Protocol):
    """What capture hands over when the numbers are not on the host yet, or still need work off the training thread."""

    def ready(self) -> bool:
        """Whether resolve() would return without waiting. Never blocks; True at once on a CPU."""
        ...

    def resolve(self) -> StepRecord:
        """The finished record. Called once, on the sender's thread, after ready() said True."""
        ...
