"""Named numpy arrays to bytes and back: exact to the bit, without a copy on the way back. Pure.

    magic, number of columns | per column: id, type, dimensions, two lengths | columns, each padded to 8 bytes | CRC-32

Little-endian. Readers skip ids that they do not know, so that a column can be added without a new format. What schema
revisions before 8 wrote (SGC1) ends without a checksum, and is read as before.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[Any]

_MAGIC, _UNCHECKED = b"SGC2", b"SGC1"
_HEADER = struct.Struct("<4sI")
_ENTRY = struct.Struct("<HBBII")
_CHECKSUM = struct.Struct("<I")
_TYPES = ("|u1", "<u2", "<u4", "<u8", "<i8", "<f4", "<f8")
DTYPES = tuple(np.dtype(name) for name in _TYPES)
TYPE_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}
# numpy reads unaligned columns too, but several times slower; 8 bytes is the largest element.
_ALIGNMENT = 8
_PADDING = tuple(b"\0" * size for size in range(_ALIGNMENT))


def pack(columns: Iterable[tuple[int, Column]]) -> bytes:
    """Serialise (id, array) pairs; arrays have one or two dimensions, ids are unique and below 65,536.

    Raises:
        ValueError: an array of a type or a dimension that has no code.
    """
    entries: list[bytes] = []
    bodies: list[bytes | memoryview] = []
    for identifier, column in columns:
        code = TYPE_CODES.get(column.dtype)
        if code is None or not 1 <= column.ndim <= 2:
            raise ValueError(f"column {identifier} is {column.dtype}[{column.ndim} dimensions]: cannot be stored")
        second = column.shape[1] if column.ndim == 2 else 0
        entries.append(_ENTRY.pack(identifier, code, column.ndim, column.shape[0], second))
        bodies.append(column.data if column.flags.c_contiguous else column.tobytes())
        if padding := -column.nbytes % _ALIGNMENT:
            bodies.append(_PADDING[padding])
    directory = b"".join((_HEADER.pack(_MAGIC, len(entries)), *entries))
    parts = (directory, _PADDING[-len(directory) % _ALIGNMENT], *bodies)
    checksum = 0
    for part in parts:  # a nanosecond for a few values; the joined bytes would have to be copied once more
        checksum = zlib.crc32(part, checksum)
    return b"".join((*parts, _CHECKSUM.pack(checksum)))


def unpack(data: bytes) -> dict[int, Column]:
    """The arrays of `pack` by id: read-only views of `data`.

    Raises:
        ValueError: the bytes are damaged or of another format.
    """
    try:
        magic, count = _HEADER.unpack_from(data)
        if magic == _MAGIC:
            _check(data)
        elif magic != _UNCHECKED:
            raise ValueError(f"stored columns begin with {magic!r}, not with {_MAGIC!r}")
        columns: dict[int, Column] = {}
        offset = _HEADER.size + count * _ENTRY.size
        offset += -offset % _ALIGNMENT
        for index in range(count):
            identifier, code, dimensions, first, second = _ENTRY.unpack_from(data, _HEADER.size + index * _ENTRY.size)
            size = first * second if dimensions == 2 else first
            column = np.frombuffer(data, DTYPES[code], size, offset) if size else np.empty(0, DTYPES[code])
            columns[identifier] = column.reshape(first, second) if dimensions == 2 else column
            offset += column.nbytes + -column.nbytes % _ALIGNMENT
    except (struct.error, IndexError) as error:
        raise ValueError(f"stored columns are damaged: {error}") from error
    return columns


def _check(data: bytes) -> None:
    end = len(data) - _CHECKSUM.size
    (checksum,) = _CHECKSUM.unpack_from(data, end)
    if zlib.crc32(memoryview(data)[:end]) != checksum:
        raise ValueError("stored columns are damaged: their checksum is another one")
