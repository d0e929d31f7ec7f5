"""What the compactor asks of the store: which rows there are, what they hold, and one row in the place of several.

A merged row takes the highest id among those that it is made of. So every id that a checkpoint, a replay or a reader
remembers goes on meaning what it meant: what lies behind it stays behind it, and new rows get higher ids still.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from seismograd_server.model import RecordKind, RunState, StepBatch
from seismograd_server.store.blocks import StepChunk
from seismograd_server.store.codec import ENCODING_DENSE
from seismograd_server.store.schema import closed_blocks, detector_states, runs, segments
from seismograd_server.store.segment_rows import SEGMENT_COLUMNS, decode_segment
from seismograd_server.store.steps import CHUNK_COLUMNS, decode_row

# Runs looked at in one short transaction.
_RUNS = 256
# Rows listed at a time; bounds the memory of whoever lists.
ROWS_LISTED = 1024
# Bytes of a closed step that nothing was logged of: its number, time, norm, flags and source. Only the first and the
# last step of a block are listed, so that this tells how many it has at most where steps are far apart.
_LEAST_PLAIN, _LEAST_DENSE = 27, 8
# Bound parameters of one statement; every database takes this many.
_IDS = 500


@dataclass(frozen=True, slots=True)
class RunStanding:
    """A run, and what tells whether there is more to compact than when one last looked.

    `behind` grows with every checkpoint that leaves more behind it; `running` and `ended_at` say when all may go.
    """

    run_id: int
    project: str
    run: str
    behind: int
    running: bool
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class SeriesPosition:
    """How far a restart would go back for one optimizer: nothing before this is ever replayed.

    Attributes:
        optimizer: which one.
        ordinal: closed blocks up to this one are behind.
        attempt: so are all segments of earlier launches,
        segment: and those of this launch up to this one.
    """

    optimizer: int
    ordinal: int
    attempt: int
    segment: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Segments of one launch, optimizer and kind, of all ranks, that may be merged.

    Attributes:
        launch_row: the launch.
        optimizer: which one.
        kind: of the records.
        through: up to this id; None = all.
        superseded_at: when the next launch began; what came after that has a place of its own, because a replay leaves
            it out. None = there is no next one.
    """

    launch_row: int
    optimizer: int
    kind: RecordKind
    through: int | None = None
    superseded_at: float | None = None


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A segment or a block of closed steps, without what is in it.

    Attributes:
        row_id: segment id or ordinal.
        place: rows of one place may become one.
        records: how many it holds; of a block at most so many.
        size: bytes of its payload.
        dense: whether that is encoded densely.
        settled: whether nothing more is to be done with its numbers.
    """

    row_id: int
    place: Hashable
    records: int
    size: int
    dense: bool
    settled: bool


class CompactionRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def runs(self, after_run: int) -> list[RunStanding]:
        """The next runs behind one, by id; none = that was the last."""
        behind = (
            select(func.coalesce(func.sum(detector_states.c.ordinal), 0))
            .where(detector_states.c.run_id == runs.c.run_id)
            .scalar_subquery()
        )
        rows = self._connection.execute(
            select(runs.c.run_id, runs.c.project, runs.c.run, runs.c.state, runs.c.ended_at, behind.label("behind"))
            .where(runs.c.run_id > after_run)
            .order_by(runs.c.run_id)
            .limit(_RUNS)
        )
        return [
            RunStanding(
                run_id=row.run_id,
                project=row.project,
                run=row.run,
                behind=int(row.behind),
                running=row.state == RunState.RUNNING.value,
                ended_at=row.ended_at,
            )
            for row in rows
        ]

    def positions(self, run_id: int) -> list[SeriesPosition]:
        """Where the detectors of a run stood when they were last saved, by optimizer; those never saved are absent."""
        columns = detector_states.c
        rows = self._connection.execute(
            select(columns.optimizer, columns.ordinal, columns.attempt, columns.segment)
            .where(columns.run_id == run_id)
            .order_by(columns.optimizer)
        )
        return [SeriesPosition(*row) for row in rows]

    def segments(self, stretch: Stretch, after: int) -> list[StoredRow]:
        """The next segments of a stretch behind `after`, by id; fewer than `ROWS_LISTED` = these were the last."""
        columns = segments.c
        statement = select(
            columns.segment_id,
            columns.rank_handle,
            columns.branch,
            columns.records,
            columns.encoding,
            columns.received_at,
            columns.settled,
            func.length(columns.payload).label("size"),
        ).where(
            columns.launch_row == stretch.launch_row,
            columns.optimizer == stretch.optimizer,
            columns.kind == int(stretch.kind),
            columns.segment_id > after,
        )
        if stretch.through is not None:
            statement = statement.where(columns.segment_id <= stretch.through)
        end = float("inf") if stretch.superseded_at is None else stretch.superseded_at
        return [
            StoredRow(
                row_id=row.segment_id,
                place=(row.rank_handle, row.branch, row.received_at > end),
                records=row.records,
                size=row.size,
                dense=row.encoding == ENCODING_DENSE,
                settled=bool(row.settled),
            )
            for row in self._connection.execute(statement.order_by(columns.segment_id).limit(ROWS_LISTED))
        ]

    def blocks(self, run_id: int, optimizer: int, *, after: int, through: int) -> list[StoredRow]:
        """The next blocks of closed steps behind `after` and up to `through`, by ordinal; fewer: as for segments."""
        columns = closed_blocks.c
        statement = (
            select(
                columns.ordinal,
                columns.launch_row,
                columns.branch,
                columns.first_step,
                columns.last_step,
                columns.dense,
                func.length(columns.payload).label("size"),
            )
            .where(columns.run_id == run_id, columns.optimizer == optimizer)
            .where(columns.ordinal > after, columns.ordinal <= through)
            .order_by(columns.ordinal)
            .limit(ROWS_LISTED)
        )
        return [
            StoredRow(
                row_id=row.ordinal,
                place=(row.launch_row, row.branch),
                # Subtracted here: between steps at both ends of int64 the difference is none.
                records=min(
                    row.last_step - row.first_step + 1,
                    max(1, row.size // (_LEAST_DENSE if row.dense else _LEAST_PLAIN)),
                ),
                size=row.size,
                dense=bool(row.dense),
                settled=bool(row.dense),
            )
            for row in self._connection.execute(statement)
        ]

    def read_segment(self, segment_id: int) -> list[StepBatch]:
        """The batches of a segment; none = it is gone.

        Raises:
            StorageDamageError: its bytes are not those that were written.
        """
        row = self._connection.execute(
            select(*SEGMENT_COLUMNS).where(segments.c.segment_id == segment_id)
        ).one_or_none()
        return [] if row is None else decode_segment(row)

    def read_block(self, ordinal: int) -> StepChunk | None:
        """The closed steps of a block; None = it is gone.

        Raises:
            StorageDamageError: its bytes are not those that were written.
        """
        row = self._connection.execute(select(*CHUNK_COLUMNS).where(closed_blocks.c.ordinal == ordinal)).one_or_none()
        return None if row is None else decode_row(row)

    def replace_segments(
        self, sources: Sequence[int], batches: Sequence[StepBatch], payload: bytes, *, settled: bool
    ) -> bool:
        """Put one dense segment in the place of several, if they are all still there; tell whether they were.

        Args:
            sources: ids of segments of one stream and branch.
            batches: all that they hold, in order of sequence.
            payload: the same, encoded.
            settled: see `StoredRow`.
        """
        columns = segments.c
        found = [
            row
            for some in _chunked(sources)
            for row in self._connection.execute(
                select(columns.segment_id, columns.launch_row, columns.received_at).where(columns.segment_id.in_(some))
            )
        ]
        if len(found) != len(sources):
            return False
        for some in _chunked(sources):
            self._connection.execute(delete(segments).where(columns.segment_id.in_(some)))
        first = batches[0]
        self._connection.execute(
            insert(segments),
            {
                "segment_id": max(sources),
                "launch_row": found[0].launch_row,
                "optimizer": first.optimizer,
                "kind": int(first.kind),
                "rank_handle": first.rank_handle,
                "branch": first.branch,
                "first_sequence": first.first_sequence,
                "records": sum(batch.count for batch in batches),
                "first_step": min(int(batch.steps[0]) for batch in batches),
                "last_step": max(int(batch.steps[-1]) for batch in batches),
                "encoding": ENCODING_DENSE,
                "received_at": max(row.received_at for row in found),
                "payload": payload,
                "settled": int(settled),
            },
        )
        return True

    def replace_blocks(
        self, sources: Sequence[int], run_id: int, optimizer: int, chunk: StepChunk, payload: bytes
    ) -> bool:
        """Put one dense block in the place of several, if they are all still there; tell whether they were.

        Args:
            sources: ordinals of consecutive blocks of one launch and branch.
            run_id: whose they are.
            optimizer: of which series.
            chunk: all that they hold.
            payload: the same, encoded.
        """
        columns = closed_blocks.c
        found = sum(
            len(self._connection.scalars(select(columns.ordinal).where(columns.ordinal.in_(some))).all())
            for some in _chunked(sources)
        )
        if found != len(sources):
            return False
        for some in _chunked(sources):
            self._connection.execute(delete(closed_blocks).where(columns.ordinal.in_(some)))
        self._connection.execute(
            insert(closed_blocks),
            {
                "ordinal": max(sources),
                "run_id": run_id,
                "launch_row": chunk.launch_row,
                "optimizer": optimizer,
                "attempt": chunk.attempt,
                "branch": chunk.branch,
                "first_step": int(chunk.steps[0]),
                "last_step": int(chunk.steps[-1]),
                "payload": payload,
                "dense": 1,
            },
        )
        return True


def _chunked(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), _IDS):
        yield ids[start : start + _IDS]
