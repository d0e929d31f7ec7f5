"""The ring: the last steps of one optimizer, whole, in a memory map that outlives its process.

It is two things at once. The *write-ahead log*: a record is in it before `log()` returns, and a process that is killed
leaves it behind as a file. And the *flight recorder*: it holds at least the last `ring_steps` steps, unquantised and
unthinned, for whoever wants to look at the time before and after an incident.

How to read it, from any thread, while the process lives:

    ring.steps(first, last)         records of the steps first <= s <= last, oldest first, all branches
    ring.sequences(first, end)      records of the sequences first <= s < end
    ring.oldest, ring.end           the sequences that are there: oldest <= s < end

and, of a process that died, `read_ring(path)`: all records that are whole, in order of their sequences.

A reader takes no lock: it copies an entry, and what was overwritten meanwhile fails its checksum and is left out.
There is one writer at a time. Entries are frames (`frames.py`) of packed records (`packing.py`); the newest overwrites
the oldest. The file's blocks are reserved before it is mapped, because a write to a map without room on the disk
would be the end of training. Without a disk the ring is plain memory: still a flight recorder, no longer a log.
"""

from __future__ import annotations

import mmap
import operator
import os
from collections import deque
from pathlib import Path

from seismograd.outbox.frames import Framing, entry_at, scattered
from seismograd.outbox.packing import PackedError, name_of, pack, unpack
from seismograd.record import StepRecord

RECORD_TAG = 1
# Six columns of float32 (the norms and every sampled quantity) per parameter, and all that a record has besides.
_BYTES_PER_PARAMETER = 24
_BYTES_PER_STEP = 512
# Small models step fast: this covers the seconds that an ack may take at a thousand steps a second.
_LEAST_BYTES = 4 * 1024 * 1024
# With and without a loss, a clip, samples: to make one costs as much as four entries.
_MOST_FRAMINGS = 16

# Sequence, step, begin, end of an entry. One is made each step: names would cost a cold processor three microseconds.
_Place = tuple[int, int, int, int]
_sequence, _step, _begin, _end = map(operator.itemgetter, range(4))


def ring_bytes(steps: int, parameters: int, most_bytes: int) -> int:
    """Size of a ring that holds so many steps of so many parameters, all quantities sampled, within `most_bytes`."""
    wanted = (steps + 1) * (_BYTES_PER_STEP + _BYTES_PER_PARAMETER * parameters)
    size = min(max(wanted, _LEAST_BYTES), most_bytes)
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


class Ring:
    """See the module. `path` None = memory only. Raises OSError when the file cannot be made or has no room."""

    def __init__(self, path: Path | None, size: int) -> None:
        self._map = mmap.mmap(-1, size) if path is None else _map_new_file(path, size)
        self._size = size
        self._head = 0
        self._free_until = size  # from the head on, nothing is overwritten before this offset
        self._places: deque[_Place] = deque()  # of the entries that are whole, oldest first
        self._framings: dict[int, Framing] = {}  # by length: a job has records of few lengths, which take turns
        self.end = 0  # the sequence after the newest

    @classmethod
    def reopen(cls, path: Path) -> Ring:
        """The ring that a process left behind, to be read. Raises OSError."""
        content = path.read_bytes()
        ring = cls(None, max(len(content), mmap.PAGESIZE))
        ring._map[: len(content)] = content
        places = {}
        for entry in scattered(content):
            try:
                name = name_of(entry.payload)
            except PackedError:
                continue
            places[name.sequence] = (name.sequence, name.step, entry.offset, entry.offset + entry.size)
        ring._places.extend(places[sequence] for sequence in sorted(places))
        ring.end = max(places, default=-1) + 1
        return ring

    @property
    def size(self) -> int:
        """Bytes of the map."""
        return self._size

    @property
    def oldest(self) -> int:
        """First sequence that is there; 0 when none is."""
        try:
            return int(_sequence(self._places[0]))
        except IndexError:
            return 0

    # -------------------------------------------------------------------------------------------------- the writer

    def write(self, record: StepRecord) -> bool:
        """Adds a record; sequences rise. False = it is too large for this ring, or out of order."""
        return self.write_packed(record.sequence, record.step, pack(record))

    def take_over(self, other: Ring) -> None:
        """Begins with what another ring holds."""
        for _, packed in other.packed(other.oldest, other.end):
            name = name_of(packed)
            self.write_packed(name.sequence, name.step, packed)

    def write_packed(self, sequence: int, step: int, packed: bytes) -> bool:
        """The same for a record that is packed already."""
        framing, places = self._framings.get(len(packed)) or self._new_framing(len(packed)), self._places
        size = framing.size
        if size > self._size or sequence < self.end:
            return False
        begin = self._head
        end = begin + size
        if end > self._free_until:
            begin, end = self._make_room(begin, size)
        framing.write(self._map, begin, packed)
        self._head = end
        places.append((sequence, step, begin, end))
        self.end = sequence + 1
        return True

    def _new_framing(self, length: int) -> Framing:
        if len(self._framings) >= _MOST_FRAMINGS:
            self._framings.clear()
        framing = self._framings[length] = Framing(RECORD_TAG, length)
        return framing

    def _make_room(self, begin: int, size: int) -> tuple[int, int]:
        """Drops what an entry of this size overwrites. Returns where the entry begins and ends."""
        places, end = self._places, begin + size
        if end > self._size:
            # What is left at the end of the map is not worth splitting an entry for.
            while places and _begin(places[0]) >= begin:
                places.popleft()
            begin, end = 0, size
        while places and _begin(places[0]) < end and _end(places[0]) > begin:
            places.popleft()
        ahead = _begin(places[0]) if places else self._size
        self._free_until = ahead if ahead >= end else self._size
        return begin, end

    def close(self) -> None:
        """Lets the map go; nothing can be read or written any more."""
        self._places.clear()
        self.end = 0
        self._map.close()

    # ------------------------------------------------------------------------------------------------- the readers

    def share_since(self, sequence: int) -> float:
        """About which share of the ring the sequences from this one on take: at 1 they begin to be overwritten."""
        places = self._places
        held = len(places)
        try:
            used = (_end(places[-1]) - _begin(places[0])) % self._size or self._size
        except IndexError:
            return 0.0
        return max(0, self.end - sequence) / max(held, 1) * used / self._size

    def packed(self, first: int, end: int) -> list[tuple[int, bytes]]:
        """(sequence, packed record) of the sequences first <= s < end that are there, in order."""
        return self._read([place for place in self._snapshot() if first <= _sequence(place) < end])

    def sequences(self, first: int, end: int) -> list[StepRecord]:
        """The records of the sequences first <= s < end that are there, in order."""
        return [unpack(packed) for _, packed in self.packed(first, end)]

    def steps(self, first: int, last: int) -> list[StepRecord]:
        """The records of the steps first <= s <= last that are there, in order of their sequences."""
        chosen = [place for place in self._snapshot() if first <= _step(place) <= last]
        return [unpack(packed) for _, packed in self._read(chosen)]

    def _snapshot(self) -> list[_Place]:
        while True:
            try:
                return list(self._places)
            except RuntimeError:
                continue  # the writer came in between

    def _read(self, places: list[_Place]) -> list[tuple[int, bytes]]:
        found = []
        for sequence, _, begin, end in places:
            entry = entry_at(self._map[begin:end], 0)
            if entry is not None and name_of(entry.payload).sequence == sequence:
                found.append((sequence, entry.payload))
        return found


def read_ring(path: Path) -> list[StepRecord]:
    """All whole records of a ring's file, in order of their sequences. Raises OSError when it cannot be read."""
    ring = Ring.reopen(path)
    return ring.sequences(ring.oldest, ring.end)


def _map_new_file(path: Path, size: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
