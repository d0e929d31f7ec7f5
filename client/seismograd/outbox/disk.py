"""The disk behind the queue, whatever state it is in: what fails is said once, and tried again later.

Everything here happens on the sender's thread, because a disk may take any time. Only `ready` is for the training
thread, which waits for it once, and briefly.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from seismograd.outbox.clock import Clock
from seismograd.outbox.folder import SpoolFolder
from seismograd.outbox.journal import Note
from seismograd.outbox.ring import Ring
from seismograd.outbox.rings import Rings
from seismograd.outbox.segments import Segments, Spooled
from seismograd.outbox.streamlog import StreamName

_log = logging.getLogger("seismograd")

RETRY_SECONDS = 10.0  # a disk that was full may have room again
_RING = "ring-"


class Storage(Protocol):
    """What a queue needs of a disk. No method raises OSError."""

    @property
    def usable(self) -> bool:
        """Whether records can be put there now, as far as anybody knows."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the records there."""
        ...

    def append(self, records: Sequence[Spooled]) -> list[Spooled] | None:
        """Puts records there. Returns those that were dropped for them; None = it cannot be done now."""
        ...

    def confirm(self, marks: Mapping[StreamName, int]) -> None:
        """Everything below these sequences is durable on the server."""
        ...

    def read(self, stream: StreamName, first: int) -> list[Spooled]:
        """Some records of a stream from this sequence on, in order; empty = there are none."""
        ...


class Disk:
    """The folder of this process, made when it is first attended to. No method raises OSError."""

    def __init__(self, parents: Sequence[Path], limit_bytes: int, rings: Rings, clock: Clock) -> None:
        self._parents = parents
        self._limit = limit_bytes
        self._rings = rings
        self._clock = clock
        self._folder: SpoolFolder | None = None
        self._segments: Segments | None = None
        self._notes: list[Note] = []
        self._noted = 0  # of the notes, in this folder
        self._retry_at = float("-inf")
        self._said = False
        self.ready = threading.Event()  # the first attempt is over

    @property
    def usable(self) -> bool:
        """Whether records can be put here now, as far as anybody knows."""
        return self._segments is not None and self._clock.monotonic() >= self._retry_at

    @property
    def size(self) -> int:
        """Bytes of the records here, those in the rings aside."""
        return 0 if self._segments is None else self._segments.size

    def attend(self) -> None:
        """Makes the folder if there is none, and writes what could not be written before."""
        try:
            if self._clock.monotonic() >= self._retry_at:
                if self._folder is None:
                    self._open()
                self._write_notes()
        except OSError as error:
            self._fail(error)
        finally:
            self.ready.set()

    def _open(self) -> None:
        folder = SpoolFolder.create(self._parents)
        fresh = {}
        try:
            # First of all who we are: records are worth nothing without it.
            for note in self._notes:
                folder.note(*note)
            for optimizer, ring in self._rings:
                fresh[optimizer] = Ring(folder.path / f"{_RING}{optimizer}", ring.size)
            self._segments = Segments(folder.path, self._limit)
        except OSError:
            folder.remove()
            raise
        for optimizer, ring in list(self._rings):
            fresh[optimizer].take_over(ring)
            self._rings.add(optimizer, fresh[optimizer])
        self._folder = folder
        self._noted = len(self._notes)

    # --------------------------------------------------------------------------------------------------- writing

    def note(self, note: Note) -> None:
        """Adds a note to the journal, or keeps it until there is one."""
        self._notes.append(note)
        if self._folder is not None:
            self.attend()

    def _write_notes(self) -> None:
        while self._folder is not None and self._noted < len(self._notes):
            self._folder.note(*self._notes[self._noted])
            self._noted += 1

    def append(self, records: Sequence[Spooled]) -> list[Spooled] | None:
        """Puts records into the spool. Returns those that were dropped for them; None = it cannot be done now."""
        if self._segments is None or not self.usable:
            return None
        try:
            return self._segments.append(records)
        except OSError as error:
            self._fail(error)
            return None

    def confirm(self, marks: Mapping[StreamName, int]) -> None:
        """Everything below these sequences is durable on the server."""
        if self._segments is not None:
            try:
                self._segments.confirm(marks)
            except OSError as error:
                self._fail(error)

    def read(self, stream: StreamName, first: int) -> list[Spooled]:
        """Some records of a stream from this sequence on, in order; empty = there are none."""
        if self._segments is None:
            return []
        try:
            return self._segments.read(stream, first)
        except OSError as error:
            self._fail(error)
            return []

    # --------------------------------------------------------------------------------------------------- the end

    def finish(self, *, delivered: bool, secured: bool) -> None:
        """The process ends. What is delivered leaves nothing behind; what is `secured` needs no ring any more."""
        folder, self._folder = self._folder, None
        if folder is None or self._segments is None:
            return
        try:
            self._segments.close()
            if delivered:
                folder.remove()
            elif secured:
                for optimizer, _ in self._rings:
                    (folder.path / f"{_RING}{optimizer}").unlink(missing_ok=True)
        except OSError as error:
            self._fail(error)
        finally:
            self._segments = None
            folder.release()

    @property
    def path(self) -> Path | None:
        """The folder, if there is one."""
        return None if self._folder is None else self._folder.path

    def _fail(self, error: OSError) -> None:
        self._retry_at = self._clock.monotonic() + RETRY_SECONDS
        if self._folder is not None and not self._folder.path.is_dir():
            # Somebody has cleaned up; a new folder is made when it is possible.
            self._folder.release()
            self._folder = self._segments = None
        if not self._said:
            self._said = True
            where = self._folder.path if self._folder is not None else self._parents[0]
            _log.warning(
                "the spool %s cannot be used (%s); training goes on, records are kept in memory only until it can",
                where,
                error.strerror or error,
            )


def rings_of(folder: Path) -> dict[int, Ring]:
    """The rings that a process left in its folder, by optimizer. Raises OSError."""
    found = {}
    for path in folder.glob(f"{_RING}*"):
        number = path.name.removeprefix(_RING)
        if number.isdecimal():
            found[int(number)] = Ring.reopen(path)
    return found
