"""The queue of a process that is dead: what its folder holds, to be sent by somebody else in its name.

The server says with the first connection what it has already; everything above that is read from spool and ring, in
order. What is missing in between was dropped, or never reached the disk, and is declared as such.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from seismograd.outbox.disk import rings_of
from seismograd.outbox.segments import Segments, Spooled
from seismograd.outbox.spooled import SpooledQueue
from seismograd.outbox.streamlog import StreamName
from seismograd.record import RecordKind

_log = logging.getLogger("seismograd")
_NO_LIMIT = 2**62  # nothing is added to a dead process's spool


class DeadDisk:
    """The spool of a process that is dead, to be read. Raises OSError when that cannot be done at all."""

    usable = False  # nothing can be put here any more

    def __init__(self, folder: Path) -> None:
        self._segments = Segments(folder, _NO_LIMIT)

    @property
    def size(self) -> int:
        """Bytes of the records here."""
        return self._segments.size

    def ends(self) -> dict[StreamName, int]:
        """For each stream the sequence behind the last record that is here."""
        return self._segments.ends()

    def append(self, records: object) -> None:
        """Not any more."""

    def read(self, stream: StreamName, first: int) -> list[Spooled]:
        """Some records of a stream from this sequence on, in order; empty = there are none."""
        try:
            return self._segments.read(stream, first)
        except OSError as error:
            _log.debug("a segment cannot be read: %s", error)
            return []

    def confirm(self, marks: Mapping[StreamName, int]) -> None:
        """Everything below these sequences is durable on the server."""
        try:
            self._segments.confirm(marks)
        except OSError as error:
            _log.debug("a segment cannot be removed: %s", error)


class InheritedQueue(SpooledQueue):
    """Implements Queue. Raises OSError when the folder cannot be read."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        super().__init__(limit_bytes, wake_after=1, hoards=True)  # until the server has said what it has
        self.disk = DeadDisk(folder)
        self._room = limit_bytes
        for optimizer, left in rings_of(folder).items():
            self.rings.add(optimizer, left)
        ends = self.disk.ends()
        for stream in {*ends, *(StreamName(RecordKind.STEP, optimizer) for optimizer, _ in self.rings)}:
            ring = self._ring(stream)
            log = self._log_of(stream)
            log.arrived = max(ends.get(stream, 0), 0 if ring is None else ring.end)
            self._spilled[stream] = ends.get(stream, 0)
            self._backlog[stream] = log.arrived
            self._looked_at += log.arrived
        self.delivered_before = 0  # records that the server has from the process itself

    def _spill(self) -> None:
        """Nothing: what a dead process left is where it is, and nobody overwrites it."""

    def rewind(self, durable: Mapping[StreamName, int]) -> None:
        """A new connection holds these watermarks: everything above them is unsent again."""
        if self._hoards:
            self._hoards, self._window = False, self._room
            with self._lock:
                for stream, log in self._streams.items():
                    begin = min(durable.get(stream, 0), log.arrived)
                    log.begin_at(begin)
                    self._backlog[stream] -= begin
                    self._delivered += begin
                    self.delivered_before += begin
        super().rewind(durable)
