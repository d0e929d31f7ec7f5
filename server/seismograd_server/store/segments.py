"""Records as they came, in segments; and for each stream which sequences have come, in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, func, insert, select, update

from seismograd_server.errors import InvalidBatchError, StorageDamageError, StorageError, UnknownRankError
from seismograd_server.model import DroppedRange, RecordKind, StepBatch, StreamKey
from seismograd_server.store.bulk import append_rows
from seismograd_server.store.codec import ENCODING_COLUMNS, encode, slice_batch
from seismograd_server.store.intervals import Intervals
from seismograd_server.store.schema import drops, ranks, segments, streams
from seismograd_server.store.segment_rows import SEGMENT_COLUMNS, decode_segment

# Segments fetched at a time, a few megabytes of a usual model; bounds the memory of a reader, not the result.
_PAGE = 256
# Payloads are given to the database when there are so many bytes of them: while they are in the processor's caches.
_AT_ONCE_BYTES = 2**20
# Bound parameters of one statement; every database takes this many.
_HANDLES = 500
# The largest number that a column holds.
_LARGEST = 2**63 - 1


class SegmentRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # What this transaction has read and written of the streams, so that one tick asks once.
        self._received: dict[StreamKey, Intervals] = {}
        self._launches: dict[int, int] = {}
        self._stored: set[StreamKey] = set()

    def append(self, batches: Sequence[StepBatch], received_at: float) -> None:
        """Store batches of records that are all new; what is a duplicate is the caller's to cut off (`received`).

        Raises:
            UnknownRankError: a handle that was never given, or whose run has been deleted.
            InvalidBatchError: sequences or steps beyond what can be stored.
            StorageError: a record is stored already.
            After these nothing of this call is stored. After anything else the transaction must be rolled back: rows
            are given to the database a megabyte at a time.
        """
        self._load({batch.rank_handle for batch in batches})
        changed: dict[StreamKey, Intervals] = {}
        for batch in batches:
            self._launch_row(batch.rank_handle)
            stream = StreamKey(batch.rank_handle, batch.optimizer, batch.kind)
            self._receive(changed, stream, batch.first_sequence, batch.end_sequence)
        rows: list[dict[str, Any]] = []
        size = 0
        for batch in batches:
            row = self._row(batch, received_at)
            rows.append(row)
            size += len(row["payload"])
            if size >= _AT_ONCE_BYTES:
                append_rows(self._connection, segments, rows)
                rows, size = [], 0
        if rows:
            append_rows(self._connection, segments, rows)
        if changed:
            self._save(changed)

    def drop(self, ranges: Sequence[DroppedRange]) -> int:
        """Note records that will never come, and tell how many were not known yet; what has come stays as it is.

        Raises:
            UnknownRankError: a handle that was never given, or whose run has been deleted.
            InvalidBatchError: sequences beyond what can be stored.
        """
        self._load({dropped.stream.rank_handle for dropped in ranges})
        changed: dict[StreamKey, Intervals] = {}
        rows: list[dict[str, Any]] = []
        for dropped in ranges:
            self._launch_row(dropped.stream.rank_handle)
            intervals = changed.get(dropped.stream) or self._received.get(dropped.stream) or Intervals()
            for first, end in intervals.missing(dropped.first_sequence, dropped.first_sequence + dropped.count):
                self._receive(changed, dropped.stream, first, end)
                rows.append(
                    {
                        "rank_handle": dropped.stream.rank_handle,
                        "optimizer": dropped.stream.optimizer,
                        "kind": int(dropped.stream.kind),
                        "first_sequence": first,
                        "records": end - first,
                        "reason": dropped.reason,
                    }
                )
        if rows:
            self._connection.execute(insert(drops), rows)
            self._save(changed)
        return sum(row["records"] for row in rows)

    def received(self, handles: Iterable[int]) -> dict[StreamKey, Intervals]:
        """What has come of every stream of these ranks, dropped ranges included; the caller's own copies.

        A stream of which nothing has come is absent.
        """
        wanted = set(handles)
        self._load(wanted)
        return {stream: each.copy() for stream, each in self._received.items() if stream.rank_handle in wanted}

    def dropped(self, handles: Iterable[int]) -> list[DroppedRange]:
        """Declared drops of these ranks, in the order in which they were declared."""
        found: list[DroppedRange] = []
        for some in _chunked(handles):
            rows = self._connection.execute(
                select(drops).where(drops.c.rank_handle.in_(some)).order_by(drops.c.drop_row)
            )
            found += [
                DroppedRange(
                    StreamKey(row.rank_handle, row.optimizer, RecordKind(row.kind)),
                    row.first_sequence,
                    row.records,
                    row.reason,
                )
                for row in rows
            ]
        return found

    def read(
        self,
        launch_row: int,
        optimizer: int,
        kind: RecordKind = RecordKind.STEP,
        *,
        first_step: int | None = None,
        last_step: int | None = None,
        after_segment: int = 0,
        received_until: float | None = None,
        on_damage: Callable[[StorageDamageError], None] | None = None,
    ) -> Iterator[tuple[int, StepBatch]]:
        """(segment id, batch) of all ranks of a launch, about in the order in which they came.

        Segments that touch [first_step, last_step] come with more than that, those received after `received_until` not
        at all. Ids hold within this transaction: compaction makes one segment of several, under the highest of their
        ids, so that whoever reads on in another one goes by steps.

        Raises:
            StorageDamageError: a segment is damaged; with `on_damage`, that is told, and the segment left out.
        """
        statement = select(*SEGMENT_COLUMNS).where(
            segments.c.launch_row == launch_row, segments.c.optimizer == optimizer, segments.c.kind == int(kind)
        )
        if first_step is not None:
            statement = statement.where(segments.c.last_step >= first_step)
        if last_step is not None:
            statement = statement.where(segments.c.first_step <= last_step)
        if received_until is not None:
            statement = statement.where(segments.c.received_at <= received_until)
        statement = (
            statement.where(segments.c.segment_id > bindparam("after")).order_by(segments.c.segment_id).limit(_PAGE)
        )
        after = after_segment
        while True:
            page = self._connection.execute(statement, {"after": after}).all()
            for row in page:
                after = row.segment_id
                for batch in decode_segment(row, on_damage):
                    part = batch if row.encoding == ENCODING_COLUMNS else _within(batch, first_step, last_step)
                    if part is not None:
                        yield after, part
            if len(page) < _PAGE:
                return

    def last_id(self) -> int:
        """The id of the newest segment of all; ids rise with every one that is stored. 0 = there is none."""
        return self._connection.scalar(_SELECT_LAST) or 0

    def _row(self, batch: StepBatch, received_at: float) -> dict[str, Any]:
        return {
            "launch_row": self._launch_row(batch.rank_handle),
            "optimizer": batch.optimizer,
            "kind": int(batch.kind),
            "rank_handle": batch.rank_handle,
            "branch": batch.branch,
            "first_sequence": batch.first_sequence,
            "records": batch.count,
            "first_step": int(batch.steps[0]),
            "last_step": int(batch.steps[-1]),
            "encoding": ENCODING_COLUMNS,
            "received_at": received_at,
            "payload": encode(batch),
        }

    def _load(self, handles: set[int]) -> None:
        for some in _chunked(handles - self._launches.keys()):
            for row in self._connection.execute(_SELECT_STREAMS, {"handles": some}):
                stream = StreamKey(row.rank_handle, row.optimizer, RecordKind(row.kind))
                try:
                    self._received[stream] = Intervals.from_bytes(row.received)
                except ValueError as error:
                    raise StorageError(f"{_name(stream)}: {error}") from error
                self._launches[row.rank_handle] = row.launch_row
                self._stored.add(stream)
            if silent := [handle for handle in some if handle not in self._launches]:
                for row in self._connection.execute(_SELECT_LAUNCHES, {"handles": silent}):
                    self._launches[row.handle] = row.launch_row

    def _launch_row(self, handle: int) -> int:
        try:
            return self._launches[handle]
        except KeyError:
            raise UnknownRankError(f"rank handle {handle} is not known here: open the run again") from None

    def _receive(self, changed: dict[StreamKey, Intervals], stream: StreamKey, first: int, end: int) -> None:
        """Add to the copies in `changed`: what a call that fails has read so far must not look received."""
        if first < 0 or end > _LARGEST:
            raise InvalidBatchError("first_sequence", f"{first} with {end - first} records leaves the range of int64")
        if stream not in changed:
            known = self._received.get(stream)
            changed[stream] = Intervals() if known is None else known.copy()
        added = changed[stream].add(first, end)
        if added != end - first:
            raise StorageError(
                f"{_name(stream)}: {end - first - added} of the records {first} to {end - 1} are stored already: "
                "cut them off before"
            )

    def _save(self, changed: dict[StreamKey, Intervals]) -> None:
        self._received.update(changed)
        # Two plain statements: the database is told what we know already, and both stay compiled.
        new, known = changed.keys() - self._stored, changed.keys() & self._stored
        if new:
            rows = [
                {
                    "rank_handle": stream.rank_handle,
                    "optimizer": stream.optimizer,
                    "kind": int(stream.kind),
                    "launch_row": self._launches[stream.rank_handle],
                    "received": self._received[stream].to_bytes(),
                }
                for stream in new
            ]
            self._connection.execute(_INSERT_STREAMS, rows)
            self._stored |= new
        if known:
            rows = [
                {
                    "of_rank": stream.rank_handle,
                    "of_optimizer": stream.optimizer,
                    "of_kind": int(stream.kind),
                    "now": self._received[stream].to_bytes(),
                }
                for stream in known
            ]
            self._connection.execute(_UPDATE_STREAMS, rows)


_SELECT_LAST = select(func.max(segments.c.segment_id))
_SELECT_LAUNCHES = select(ranks.c.handle, ranks.c.launch_row).where(
    ranks.c.handle.in_(bindparam("handles", expanding=True))
)
_INSERT_STREAMS = insert(streams)
_UPDATE_STREAMS = (
    update(streams)
    .where(
        streams.c.rank_handle == bindparam("of_rank"),
        streams.c.optimizer == bindparam("of_optimizer"),
        streams.c.kind == bindparam("of_kind"),
    )
    .values(received=bindparam("now"))
)
_SELECT_STREAMS = select(streams).where(streams.c.rank_handle.in_(bindparam("handles", expanding=True)))


def _chunked(handles: Iterable[int]) -> Iterator[list[int]]:
    ordered = sorted(handles)
    for start in range(0, len(ordered), _HANDLES):
        yield ordered[start : start + _HANDLES]


def _within(batch: StepBatch, first_step: int | None, last_step: int | None) -> StepBatch | None:
    """The part of a large batch that is asked for; None = nothing of it."""
    start = 0 if first_step is None else int(np.searchsorted(batch.steps, first_step))
    stop = batch.count if last_step is None else int(np.searchsorted(batch.steps, last_step, side="right"))
    return slice_batch(batch, start, stop) if start < stop else None


def _name(stream: StreamKey) -> str:
    return f"rank handle {stream.rank_handle}, optimizer {stream.optimizer}, {stream.kind.name.lower()} records"
