"""Entries of every file here: framed by length and checksum, so that a torn or overwritten one is recognised.

    mark | checksum of all that follows | length of the payload | tag | payload | zeros up to 8 bytes

Little-endian. A process that is killed in the middle of an entry leaves one whose checksum is wrong. Files that lie on
a disk until a server takes them are marked "sgfr", and their checksum is a CRC-32. Entries that a training thread
writes at every step are marked "sgfa", and theirs is an Adler-32: it needs no tables, and those of a CRC, 16 KiB that
training has driven out of the caches since the last step, cost it ten microseconds. What it has to tell apart is an
entry and the beginning of one followed by the end of an older one.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

MARK = b"sgfr"
STEP_MARK = b"sgfa"
HEADER_BYTES = 16
ALIGNMENT = 8
_HEADER = struct.Struct("<4sIII")
_CHECKED = struct.Struct("<II")  # length and tag: the part of the header that the checksum covers
_PADDING = [b"\0" * count for count in range(ALIGNMENT)]
_CHECKSUMS: dict[bytes, Callable[..., int]] = {MARK: zlib.crc32, STEP_MARK: zlib.adler32}
_MARK_VALUES = [int.from_bytes(mark, "little") for mark in _CHECKSUMS]


class Framing:
    """How entries with payloads of one length are framed, for a training thread."""

    __slots__ = ("_length", "_pack_into", "_seed", "_tag", "size")

    def __init__(self, tag: int, length: int) -> None:
        self._tag, self._length = tag, length
        self._seed = zlib.adler32(_CHECKED.pack(length, tag))
        padded = length + (-length % ALIGNMENT)
        self.size = HEADER_BYTES + padded  # of an entry
        self._pack_into = struct.Struct(f"{_HEADER.format}{padded}s").pack_into

    def write(self, buffer: bytearray | mmap.mmap, offset: int, payload: bytes) -> None:
        """Puts an entry there."""
        self._pack_into(buffer, offset, STEP_MARK, zlib.adler32(payload, self._seed), self._length, self._tag, payload)


class Entry(NamedTuple):
    """One entry of a file that is whole."""

    offset: int
    size: int  # bytes that it takes, header and zeros included
    tag: int
    payload: bytes


def frame(tag: int, payload: bytes) -> bytes:
    """The bytes of an entry; their number is a multiple of 8."""
    length = len(payload)
    checksum = zlib.crc32(payload, zlib.crc32(_CHECKED.pack(length, tag)))
    return b"".join((_HEADER.pack(MARK, checksum, length, tag), payload, _PADDING[-length % ALIGNMENT]))


def entry_at(buffer: bytes | memoryview, offset: int) -> Entry | None:
    """The entry that begins there, or None when none does, or not all of it is there."""
    if offset < 0 or offset + HEADER_BYTES > len(buffer):
        return None
    mark, checksum, length, tag = _HEADER.unpack_from(buffer, offset)
    begin = offset + HEADER_BYTES
    checksum_of = _CHECKSUMS.get(mark)
    if checksum_of is None or begin + length > len(buffer):
        return None
    payload = bytes(buffer[begin : begin + length])
    if checksum_of(payload, checksum_of(_CHECKED.pack(length, tag))) != checksum:
        return None
    return Entry(offset, HEADER_BYTES + length + (-length % ALIGNMENT), tag, payload)


def consecutive(buffer: bytes | memoryview) -> Iterator[Entry]:
    """The entries of a file that only grows, up to the first that is torn."""
    offset = 0
    while (entry := entry_at(buffer, offset)) is not None:
        yield entry
        offset += entry.size


def scattered(buffer: bytes | memoryview) -> Iterator[Entry]:
    """The whole entries of a file that overwrites itself, wherever they are; in order of their places."""
    usable = len(buffer) - len(buffer) % ALIGNMENT
    words = np.frombuffer(buffer[:usable], "<u4")[::2]
    for place in np.flatnonzero(np.isin(words, _MARK_VALUES)).tolist():
        entry = entry_at(buffer, place * ALIGNMENT)
        if entry is not None:
            yield entry
