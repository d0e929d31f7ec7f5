"""The disk spool: records that left the ring before they were durable, in files that are written once.

    records-1   records-2   ...     one frame per record, streams mixed, each stream in order of its sequences

A file is removed when the server has all of it. When the limit is reached, the oldest ordinary records go first: the
oldest file that has any is rewritten without them; only when no ordinary record is left, the oldest file goes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from seismograd.outbox.folder import write_whole
from seismograd.outbox.frames import consecutive, frame
from seismograd.outbox.packing import PackedError, name_of
from seismograd.outbox.ring import RECORD_TAG
from seismograd.outbox.streamlog import StreamName
from seismograd.record import RecordKind

ANOMALOUS_TAG = 2
_PREFIX = "records-"
# Small enough to be given back soon, large enough that a full spool is some tens of files.
_SEGMENT_BYTES = 4 * 1024 * 1024


class Spooled(NamedTuple):
    """A record on its way through the spool."""

    stream: StreamName
    sequence: int
    anomalous: bool
    packed: bytes


@dataclass(slots=True, eq=False)
class _Segment:
    number: int
    size: int = 0
    ordinary: int = 0  # records that may be dropped first
    ends: dict[StreamName, int] = field(default_factory=dict)  # sequence behind the last one

    def add(self, record: Spooled, size: int) -> None:
        self.size += size
        self.ordinary += not record.anomalous
        self.ends[record.stream] = record.sequence + 1


class Segments:
    """The files of one folder. Methods raise OSError; what was there before is then as it was."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max(limit_bytes // 16, 4096))
        self._segments: list[_Segment] = []  # oldest first
        self._descriptor: int | None = None  # of the newest one, while it is written
        self._loaded: tuple[int, list[Spooled]] = (0, [])  # content of the file that was read last
        self.size = 0  # bytes on disk
        for path in sorted(folder.glob(f"{_PREFIX}*"), key=_number):
            segment = _Segment(_number(path))
            for record, size in self._content(segment):
                segment.add(record, size)
            self._segments.append(segment)
            self.size += segment.size

    def ends(self) -> dict[StreamName, int]:
        """For each stream the sequence behind the last record that is here."""
        ends: dict[StreamName, int] = {}
        for segment in self._segments:
            ends |= segment.ends
        return ends

    # --------------------------------------------------------------------------------------------------- writing

    def append(self, records: Sequence[Spooled]) -> list[Spooled]:
        """Adds records. Returns those, old or new, that had to be dropped for them."""
        dropped = []
        framed = [frame(ANOMALOUS_TAG if each.anomalous else RECORD_TAG, each.packed) for each in records]
        place = 0
        while place < len(records):
            count, size = _fitting(framed[place:], self._segment_bytes)
            dropped += self._make_room(size)
            self._write(records[place : place + count], framed[place : place + count])
            place += count
        return dropped

    def _write(self, records: Sequence[Spooled], framed: Sequence[bytes]) -> None:
        content = b"".join(framed)
        if self._descriptor is None or self._segments[-1].size + len(content) > self._segment_bytes:
            self.close()
            number = self._segments[-1].number + 1 if self._segments else 1
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._path(number), flags, 0o600)
            self._segments.append(_Segment(number))
        newest = self._segments[-1]
        write_whole(self._descriptor, newest.size, content)
        for record, entry in zip(records, framed, strict=True):
            newest.add(record, len(entry))
        self.size += len(content)
        if self._loaded[0] == newest.number:
            self._loaded = (0, [])

    def _make_room(self, size: int) -> list[Spooled]:
        dropped: list[Spooled] = []
        while self._segments and self.size + size > self._limit:
            victim = next((each for each in self._segments if each.ordinary), self._segments[0])
            if victim is self._segments[-1]:
                self.close()
            content = self._content(victim)
            kept = [record for record, _ in content if record.anomalous] if victim.ordinary else []
            dropped += [record for record, _ in content if not (victim.ordinary and record.anomalous)]
            self._rewrite(victim, kept)
        return dropped

    def _rewrite(self, segment: _Segment, kept: Sequence[Spooled]) -> None:
        """Leaves only some of a segment's records."""
        self.size -= segment.size
        self._loaded = (0, [])
        fresh = _Segment(segment.number, ends=segment.ends)
        place = self._segments.index(segment)
        if not kept:
            self._segments.pop(place)
            self._path(segment.number).unlink(missing_ok=True)
            return
        content = b"".join([frame(ANOMALOUS_TAG, each.packed) for each in kept])
        beside = self._folder / "rewriting"
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_whole(descriptor, 0, content)
        finally:
            os.close(descriptor)
        beside.rename(self._path(segment.number))
        fresh.size = len(content)
        self._segments[place] = fresh
        self.size += fresh.size

    def confirm(self, marks: Mapping[StreamName, int]) -> None:
        """Everything below these sequences is on the server: removes the old files of which it has all."""
        while self._segments:
            oldest = self._segments[0]
            if any(marks.get(each, 0) < end for each, end in oldest.ends.items()):
                return
            if oldest is self._segments[-1]:
                self.close()
            self._path(oldest.number).unlink(missing_ok=True)
            self._segments.pop(0)
            self.size -= oldest.size

    def close(self) -> None:
        """Closes the file that is being written; the next record begins a new one."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    # --------------------------------------------------------------------------------------------------- reading

    def read(self, stream: StreamName, first: int) -> list[Spooled]:
        """Records of a stream from this sequence on, in order: as many as one file has; empty = there are none."""
        for segment in self._segments:
            if segment.ends.get(stream, 0) > first:
                if self._loaded[0] != segment.number:
                    self._loaded = (segment.number, [record for record, _ in self._content(segment)])
                found = [each for each in self._loaded[1] if each.stream == stream and each.sequence >= first]
                if found:
                    return found
        return []

    def _content(self, segment: _Segment) -> list[tuple[Spooled, int]]:
        """Every whole record of a segment, and the bytes that it takes there."""
        found = []
        for entry in consecutive(self._path(segment.number).read_bytes()):
            try:
                name = name_of(entry.payload)
                stream = StreamName(RecordKind(name.kind), name.optimizer)
            except (PackedError, ValueError):
                continue
            record = Spooled(stream, name.sequence, entry.tag == ANOMALOUS_TAG, entry.payload)
            found.append((record, entry.size))
        return found

    def _path(self, number: int) -> Path:
        return self._folder / f"{_PREFIX}{number}"


def _number(path: Path) -> int:
    text = path.name.removeprefix(_PREFIX)
    return int(text) if text.isdecimal() else 0


def _fitting(framed: Iterable[bytes], limit: int) -> tuple[int, int]:
    """How many entries, at least one, fit into so many bytes, and how many bytes they take."""
    count = size = 0
    for entry in framed:
        if count and size + len(entry) > limit:
            break
        count += 1
        size += len(entry)
    return count, size
