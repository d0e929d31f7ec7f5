"""The queue behind the sender: the ring first, then bounded memory.

The training thread writes a record into its optimizer's ring when every number is on the host; what has to come from
a device is written by the sender's thread, as soon as it has arrived.
"""

from __future__ import annotations

from seismograd.outbox.columns import normalise, travelling
from seismograd.outbox.memory import MemoryQueue
from seismograd.outbox.pending import PendingRecord
from seismograd.outbox.rings import Rings
from seismograd.record import StepRecord


class SpooledQueue(MemoryQueue):
    """Implements Queue."""

    def __init__(self, limit_bytes: int, wake_after: int) -> None:
        super().__init__(limit_bytes, wake_after)
        self.rings = Rings()

    # -------------------------------------------------------------------------------------- the training thread

    def offer(self, record: StepRecord | PendingRecord) -> bool:
        """Takes a record, never blocks. True = the sender should look at once."""
        try:
            if not isinstance(record, StepRecord) and record.immediate():
                record = record.resolve()
            if isinstance(record, StepRecord):
                record = normalise(record)
                self.rings.offer(record)
        except Exception:  # noqa: BLE001, S110  # one bad record: it fails again where it is counted
            pass
        return super().offer(record)

    # -------------------------------------------------------------------------------------- the sender's thread

    def admit(self, record: StepRecord, now: float) -> None:
        """Takes in a record that is finished; the sequences of a stream rise."""
        self.rings.keep(record)
        super().admit(travelling(record), now)
