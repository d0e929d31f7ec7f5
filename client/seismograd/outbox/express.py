"""The short way into ring and queue, for steps that are packed already.

It takes what both have room for; whatever asks for a decision goes through the door like any other record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from seismograd.outbox.packing import PackedRecord
from seismograd.outbox.recorder import Recorder
from seismograd.outbox.spooled import SpooledQueue

if TYPE_CHECKING:
    from seismograd.outbox.sender import Sender


class Express:
    """For one optimizer's training thread, once the sender's own thread runs. Never blocks, never raises."""

    __slots__ = ("_inbox", "_optimizer", "_queue", "_rings", "_sender", "_wake", "_wake_after", "recorder")

    def __init__(
        self,
        sender: Sender,
        optimizer: int,
        queue: SpooledQueue,
        recorder: Recorder,
        wake: Callable[[None], None],
    ) -> None:
        self._sender = sender
        self._optimizer = optimizer
        self._queue = queue
        self._inbox = queue.inbox
        self._rings = queue.rings.by_optimizer
        self._wake = wake
        self.recorder = recorder  # knows which steps the server wants to have sampled whole
        self._wake_after = queue.wake_after

    def put(self, sequence: int, step: int, packed: bytes) -> None:
        """What `Sender.offer` does with the optimizer's next record."""
        sender, inbox, ring = self._sender, self._inbox, self._rings[self._optimizer]
        arrived = len(inbox) + 1
        if (
            arrived > self._queue.inbox_room
            or sender.closed
            or sequence != ring.end
            or not ring.write_packed(sequence, step, packed)
        ):
            sender.offer(PackedRecord(self._optimizer, sequence, step, packed))
            return
        inbox.append(packed)
        if arrived == self._wake_after or sender.dozing:
            sender.dozing = False
            self._wake(None)
