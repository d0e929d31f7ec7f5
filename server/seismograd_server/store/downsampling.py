"""What downsampling asks of the store: to let go of rows of single steps that lie outside of what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Select, and_, delete, func, or_, select

from seismograd_server.model import RecordKind, RunState
from seismograd_server.store.schema import closed_blocks, detector_states, launches, runs, segments

# Rows looked at in one transaction; every database takes so many bound parameters.
_ROWS = 256


@dataclass(frozen=True, slots=True)
class Kept:
    """Ranges of steps of one optimizer, both ends among them, of which every row that touches one stays."""

    optimizer: int
    windows: tuple[tuple[int, int], ...]

    def keeps(self, first_step: int, last_step: int) -> bool:
        """Whether a row of these steps stays."""
        return any(first_step <= last and last_step >= first for first, last in self.windows)


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a piece has let go of, and behind which row the next one begins; None = there is none."""

    rows: int
    size_bytes: int
    after: int | None


class DownsamplingRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def is_over(self, run_id: int) -> bool:
        """Whether a run is there and does not go on."""
        state = self._connection.scalar(select(runs.c.state).where(runs.c.run_id == run_id))
        return state is not None and state != RunState.RUNNING

    def drop_segments(self, run_id: int, kept: Kept, after: int, max_bytes: int) -> Dropped:
        """Let go of segments of steps behind `after`, about so many bytes of them; details are never touched.

        What a restart would replay stays: all that the detectors had not seen when they were last saved.
        """
        columns, states = segments.c, detector_states.c
        judged = or_(
            launches.c.attempt < states.attempt,
            and_(launches.c.attempt == states.attempt, columns.segment_id <= states.segment),
        )
        statement = (
            select(columns.segment_id, columns.first_step, columns.last_step, func.length(columns.payload))
            .join_from(segments, launches)
            .join(detector_states, and_(states.run_id == launches.c.run_id, states.optimizer == columns.optimizer))
            .where(launches.c.run_id == run_id, columns.optimizer == kept.optimizer)
            .where(columns.kind == int(RecordKind.STEP), judged, columns.segment_id > after)
            .order_by(columns.segment_id)
        )
        return self._drop(statement, columns.segment_id, kept, max_bytes)

    def drop_blocks(self, run_id: int, kept: Kept, after: int, max_bytes: int) -> Dropped:
        """The same of closed steps."""
        columns, states = closed_blocks.c, detector_states.c
        statement = (
            select(columns.ordinal, columns.first_step, columns.last_step, func.length(columns.payload))
            .join_from(
                closed_blocks,
                detector_states,
                and_(states.run_id == columns.run_id, states.optimizer == columns.optimizer),
            )
            .where(columns.run_id == run_id, columns.optimizer == kept.optimizer)
            .where(columns.ordinal <= states.ordinal, columns.ordinal > after)
            .order_by(columns.ordinal)
        )
        return self._drop(statement, columns.ordinal, kept, max_bytes)

    def _drop(self, statement: Select[Any], key: Column[int], kept: Kept, max_bytes: int) -> Dropped:
        doomed: list[int] = []
        size, after = 0, None
        page = self._connection.execute(statement.limit(_ROWS)).all()
        for row_id, first_step, last_step, length in page:
            if size >= max_bytes:
                break
            after = row_id
            if not kept.keeps(first_step, last_step):
                doomed.append(row_id)
                size += length
        if doomed:
            self._connection.execute(delete(key.table).where(key.in_(doomed)))
        return Dropped(len(doomed), size, after)
