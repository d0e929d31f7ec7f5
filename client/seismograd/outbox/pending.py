"""What the training thread hands over: a record, one whose numbers are still on their way, or the bytes of one."""

from __future__ import annotations

from typing import Protocol

from seismograd.outbox.packing import PackedRecord, unpack
from seismograd.record import StepRecord


class PendingRecord(Protocol):
    """What capture hands over when the numbers are not on the host yet, or still need work off the training thread."""

    def ready(self) -> bool:
        """Whether resolve() would return without waiting. Never blocks; True at once on a CPU."""
        ...

    def immediate(self) -> bool:
        """Whether resolve() should be called at once, on the training thread: it costs microseconds, or cannot wait."""
        ...

    def packed(self) -> PackedRecord | None:
        """The finished record, packed, if that can be had at once without making it first; else None."""
        ...

    def resolve(self) -> StepRecord:
        """The finished record. Called after ready() said True; on the sender's thread unless `immediate()`."""
        ...


Arrival = StepRecord | PendingRecord | bytes
"""Bytes are those of a packed record that is in its ring already."""


def is_ready(arrival: Arrival) -> bool:
    """Whether `finished` would return without waiting. Never blocks."""
    return isinstance(arrival, StepRecord | bytes) or arrival.ready()


def finished(arrival: Arrival) -> StepRecord:
    """The record. Called after `is_ready` said True."""
    if isinstance(arrival, bytes):
        return unpack(arrival)
    return arrival if isinstance(arrival, StepRecord) else arrival.resolve()
