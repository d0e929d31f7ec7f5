"""Named numpy arrays to few bytes and back, exact to the bit and guarded by a checksum. Pure.

    magic, size, number of columns | per column: id, type, dimensions, method, two lengths, size | bodies | CRC-32

Little-endian. Numbers are coded by pcodec, bytes by zlib, tables of norms as `tables.py` says; tables of other numbers
column by column, because what follows one another in a column resembles each other. Readers skip ids that they do not
know.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import numpy as np
from pcodec import ChunkConfig, standalone

from seismograd_server.store.columns import DTYPES, TYPE_CODES, Column
from seismograd_server.store.tables import LEVEL, pack_table, unpack_table

_MAGIC = b"SGD1"
_HEADER = struct.Struct("<4sII")
_ENTRY = struct.Struct("<HBBBIII")
_CHECKSUM = struct.Struct("<I")
# How a body is coded: on disk, never reuse one.
_PLAIN, _PCODEC, _ZLIB, _TABLE = 0, 1, 2, 3
_CONFIG = ChunkConfig(compression_level=LEVEL)


def pack_dense(columns: Iterable[tuple[int, Column]]) -> bytes:
    """Serialise (id, array) pairs; arrays have one or two dimensions, ids are unique and below 65,536.

    Raises:
        ValueError: an array of a type or a dimension that has no code.
    """
    entries: list[bytes] = []
    bodies: list[bytes] = []
    for identifier, column in columns:
        code = TYPE_CODES.get(column.dtype)
        if code is None or not 1 <= column.ndim <= 2:
            raise ValueError(f"column {identifier} is {column.dtype}[{column.ndim} dimensions]: cannot be stored")
        second = column.shape[1] if column.ndim == 2 else 0
        method, body = _encode(column)
        entries.append(_ENTRY.pack(identifier, code, column.ndim, method, column.shape[0], second, len(body)))
        bodies.append(body)
    size = _HEADER.size + sum(map(len, entries)) + sum(map(len, bodies)) + _CHECKSUM.size
    data = b"".join((_HEADER.pack(_MAGIC, size, len(entries)), *entries, *bodies))
    return data + _CHECKSUM.pack(zlib.crc32(data))


def unpack_dense(data: bytes, offset: int = 0) -> tuple[dict[int, Column], int]:
    """The arrays of one `pack_dense` that begins at `offset`, by id, and the offset behind it.

    Raises:
        ValueError: the bytes are damaged or of another format.
    """
    view = memoryview(data)[offset:]
    try:
        magic, size, count = _HEADER.unpack_from(view)
        if magic != _MAGIC:
            raise ValueError(f"stored columns begin with {magic!r}, not with {_MAGIC!r}")
        if not _HEADER.size + _CHECKSUM.size <= size <= len(view):
            raise ValueError(f"stored columns have {len(view)} bytes where {size} were written")
        (checksum,) = _CHECKSUM.unpack_from(view, size - _CHECKSUM.size)
        if zlib.crc32(view[: size - _CHECKSUM.size]) != checksum:
            raise ValueError("stored columns are damaged: their checksum is another one")
        columns: dict[int, Column] = {}
        start = _HEADER.size + count * _ENTRY.size
        for index in range(count):
            entry = _ENTRY.unpack_from(view, _HEADER.size + index * _ENTRY.size)
            identifier, code, dimensions, method, first, second, length = entry
            shape = (first, second) if dimensions == 2 else (first,)
            columns[identifier] = _decode(bytes(view[start : start + length]), method, DTYPES[code], shape)
            start += length
    except (struct.error, IndexError, RuntimeError, TypeError, zlib.error) as error:  # pcodec raises the middle two
        raise ValueError(f"stored columns are damaged: {error}") from error
    return columns, offset + size


def _encode(column: Column) -> tuple[int, bytes]:
    """The method and the body, the shorter of what the method for this type makes and of the plain bytes."""
    if not column.size:
        return _PLAIN, b""
    flat = np.ascontiguousarray(column.T).ravel()
    if flat.dtype == np.uint8:
        method, body = _ZLIB, zlib.compress(flat.tobytes(), 9)
    elif flat.dtype == np.float32 and column.ndim == 2:
        method, body = _TABLE, pack_table(column)
    else:
        method, body = _PCODEC, standalone.simple_compress(flat, _CONFIG)
    return (method, body) if len(body) < flat.nbytes else (_PLAIN, flat.tobytes())


def _decode(body: bytes, method: int, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Column:
    if method == _TABLE:
        return unpack_table(body, *shape)
    if method == _PCODEC:
        decoded: Column | None = standalone.simple_decompress(body)
        if decoded is None or decoded.dtype != dtype:
            raise ValueError("stored columns are damaged: a body is not of the type that its entry says")
        flat = decoded
    elif method in (_PLAIN, _ZLIB):
        flat = np.frombuffer(zlib.decompress(body) if method == _ZLIB else body, dtype)
    else:
        raise ValueError(f"stored columns are coded by method {method}, which this version cannot read")
    return np.ascontiguousarray(flat.reshape(shape[::-1]).T)
