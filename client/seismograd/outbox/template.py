"""The bytes of a record prepared in advance, for steps that differ in numbers only.

    frame | who, when | names of scalars, values | norms          what varies is written over what was there before

The same bytes as `frame(RECORD_TAG, pack_step(...))`, without making an object on the way: a training thread has
nothing of ours in its caches, and pays for everything that it touches.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

from seismograd.outbox.frames import HEADER_BYTES, frame
from seismograd.outbox.packing import IDENTITY_AT, Heading, PackedRecord, pack_step
from seismograd.outbox.ring import RECORD_TAG
from seismograd.record import Quantity

_CHECKSUM = struct.Struct("<I")
_CHECKSUM_AT, _CHECKED_FROM = 4, 8  # of a frame
_new = tuple.__new__  # a named tuple without the function that checks its arguments


class Template:
    """One form of record: `fill` writes another one of it over the last, into `entry`."""

    __slots__ = ("_checked", "_memory", "_names", "_optimizer", "_payload", "_table", "entry")

    def __init__(self, heading: Heading, source: int, flags: int, quantities: Sequence[Quantity]) -> None:
        """`heading` says what all of them have in common; its sequence, step and time are of no importance."""
        nothing = np.zeros(heading.columns, np.float32)
        packed = pack_step(heading, source, flags, nothing, dict.fromkeys(quantities, 0.0), data_ids=None).data
        self._memory = bytearray(frame(RECORD_TAG, packed))
        whole = memoryview(self._memory)
        end = HEADER_BYTES + len(packed)
        count = len(quantities)
        self._optimizer = heading.optimizer
        self._names = tuple(map(int, quantities))
        self._table = struct.Struct(f"<QqQdd{count}H{count}d{nothing.nbytes}s")
        self._checked = whole[_CHECKED_FROM:end]
        self._payload = whole[HEADER_BYTES:end]
        self.entry = whole

    def fill(
        self, sequence: int, step: int, time_unix_seconds: float, values: tuple[float, ...], norms: bytes | bytearray
    ) -> PackedRecord:
        """The record with these numbers; `norms` are its bytes. `entry` holds it, framed, until the next one."""
        memory = self._memory
        self._table.pack_into(
            memory, _TABLE_AT, sequence, step, 0, time_unix_seconds, 0.0, *self._names, *values, norms
        )
        _CHECKSUM.pack_into(memory, _CHECKSUM_AT, zlib.crc32(self._checked))
        return _new(PackedRecord, (self._optimizer, sequence, step, bytes(self._payload)))


_TABLE_AT = HEADER_BYTES + IDENTITY_AT
