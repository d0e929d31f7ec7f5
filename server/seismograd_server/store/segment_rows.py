"""A row of `segments` to the batches in it, or to the error that says what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Row

from seismograd_server.errors import StorageDamageError, StorageError
from seismograd_server.model import StepBatch
from seismograd_server.store.codec import ENCODING_COLUMNS, ENCODING_DENSE, decode, decode_dense
from seismograd_server.store.schema import segments

SEGMENT_COLUMNS = (
    segments.c.segment_id,
    segments.c.encoding,
    segments.c.records,
    segments.c.first_step,
    segments.c.last_step,
    segments.c.payload,
)


def decode_segment(
    row: Row[*tuple[Any, ...]], on_damage: Callable[[StorageDamageError], None] | None = None
) -> list[StepBatch]:
    """The batches of a row of `SEGMENT_COLUMNS`, by sequence.

    Raises:
        StorageDamageError: the bytes are not those that were written; with `on_damage`, that is told, and there is
            nothing in the answer.
        StorageError: a newer version wrote them.
    """
    if row.encoding not in (ENCODING_COLUMNS, ENCODING_DENSE):
        raise StorageError(f"segment {row.segment_id} has encoding {row.encoding}, which this version cannot read")
    try:
        batches = decode_dense(row.payload) if row.encoding == ENCODING_DENSE else [decode(row.payload)]
        _check(batches, row.records)
    except ValueError as error:
        damage = StorageDamageError(
            f"segment {row.segment_id} cannot be read: {error}",
            what="segment",
            first_step=row.first_step,
            last_step=row.last_step,
        )
        if on_damage is None:
            raise damage from error
        on_damage(damage)
        return []
    return batches


def _check(batches: Sequence[StepBatch], records: int) -> None:
    if (found := sum(batch.count for batch in batches)) != records:
        raise ValueError(f"{found} of its {records} records are there")
