"""The rings of a process, one per optimizer, and the rule by which two threads share them without a lock.

A record is written by the thread that offers it when everything before it is in the ring, else later by the sender's
thread, which writes whatever is not there yet in order. So at any moment at most one thread has the next record.
"""

from __future__ import annotations

from collections.abc import Iterator

from seismograd.outbox.packing import PackedRecord
from seismograd.outbox.ring import Ring
from seismograd.record import RecordKind, StepRecord


class Rings:
    """The flight recorder of a process: `of(optimizer)` gives a ring to read."""

    def __init__(self) -> None:
        self.by_optimizer: dict[int, Ring] = {}  # to be looked into; a ring may be replaced at any time

    def __iter__(self) -> Iterator[tuple[int, Ring]]:
        return iter(sorted(self.by_optimizer.items()))

    def of(self, optimizer: int) -> Ring | None:
        """The ring of an optimizer; None before its first record, and where there is none."""
        return self.by_optimizer.get(optimizer)

    def add(self, optimizer: int, ring: Ring) -> None:
        """Gives an optimizer its ring, before its first record."""
        self.by_optimizer[optimizer] = ring

    def offer(self, record: StepRecord | PackedRecord) -> bool:
        """The thread that offers: writes the record if it is the next one. Returns whether it did."""
        ring = self.by_optimizer.get(record.optimizer)
        if ring is None or record.sequence != ring.end:
            return False
        if isinstance(record, PackedRecord):
            return ring.write_packed(record.sequence, record.step, record.data)
        return record.kind is RecordKind.STEP and ring.write(record)

    def keep(self, record: StepRecord) -> bool:
        """The sender's thread, in order: writes the record unless it is there. Returns whether it is there."""
        ring = self.by_optimizer.get(record.optimizer)
        if ring is None or record.kind is not RecordKind.STEP:
            return False
        return record.sequence < ring.end or ring.write(record)
