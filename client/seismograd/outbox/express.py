"""The short way into ring and queue, for steps that are packed already.

It takes what both have room for; whatever asks for a decision goes through the door like any other record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from seismograd.outbox.packing import PackedRecord
from seismograd.outbox.recorder import Recorder
from seismograd.outbox.spooled import FULL, SpooledQueue

if TYPE_CHECKING:
    from seismograd.outbox.sender import Sender


class Express:
    """For the training thread of one sender, once that sender's own thread runs. Never blocks, never raises."""

    __slots__ = ("_inbox", "_most_bytes", "_queue", "_rings", "_sender", "_wake", "_wake_after", "recorder")

    def __init__(self, sender: Sender, queue: SpooledQueue, recorder: Recorder, wake: Callable[[None], None]) -> None:
        self._sender = sender
        self._queue = queue
        self._inbox = queue.inbox
        self._rings = queue.rings.by_optimizer
        self._wake = wake
        self.recorder = recorder  # knows which steps the server wants to have sampled whole
        self._wake_after = queue.wake_after
        self._most_bytes = FULL * queue.limit_bytes

    def put(self, record: PackedRecord) -> None:
        """What `Sender.offer(record)` does."""
        optimizer, sequence, step, packed = record
        queue, sender, ring = self._queue, self._sender, self._rings[optimizer]
        arrived = len(self._inbox) + 1
        if (
            queue.occupied + arrived * queue.typical_size > self._most_bytes
            or sender.closed
            or sequence != ring.end
            or not ring.write_packed(sequence, step, packed)
        ):
            sender.offer(record)
            return
        self._inbox.append(record)
        if arrived == self._wake_after or sender.dozing:
            sender.dozing = False
            self._wake(None)
