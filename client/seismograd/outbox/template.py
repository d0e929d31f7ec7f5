"""The bytes of a record prepared in advance, for steps that differ in numbers only.

    what all of them have in common | who, when | names of scalars | values | norms          packed by one call

The same bytes as `pack_step(...)`, without a function for each part of them: a training thread has nothing of ours in
its caches, and pays for the first call of every function ten times what the next one costs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from seismograd.outbox.packing import IDENTITY_AT, Heading, pack_step
from seismograd.record import Quantity

_IDENTITY = "Qq8xd"  # sequence, step, no digest, time


class Template:
    """One form of record: `fill` makes another one of it."""

    __slots__ = ("_common", "_names", "_pack")

    def __init__(self, heading: Heading, source: int, flags: int, quantities: Sequence[Quantity]) -> None:
        """`heading` says what all of them have in common; its sequence, step and time are of no importance."""
        nothing = np.zeros(heading.columns, np.float32)
        packed = pack_step(heading, source, flags, nothing, dict.fromkeys(quantities, 0.0), data_ids=None).data
        names_at = IDENTITY_AT + struct.calcsize(f"<{_IDENTITY}")
        values_at = len(packed) - nothing.nbytes - 8 * len(quantities)
        self._common = packed[:IDENTITY_AT]
        self._names = packed[names_at:values_at]  # behind a total norm, which is not there
        form = f"<{IDENTITY_AT}s{_IDENTITY}{len(self._names)}s{len(quantities)}d{nothing.nbytes}s"
        self._pack = struct.Struct(form).pack

    def fill(
        self, sequence: int, step: int, time_unix_seconds: float, values: tuple[float, ...], norms: bytes | bytearray
    ) -> bytes:
        """The record with these numbers; `norms` are its bytes."""
        return self._pack(self._common, sequence, step, time_unix_seconds, self._names, *values, norms)
