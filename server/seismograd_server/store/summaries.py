"""Summaries of closed steps: buckets of several sizes for each line of a run, and how far a line is summarised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select

from seismograd_server.errors import StorageDamageError
from seismograd_server.model import Line, RecordKind, RunState, Summary, SummaryKind
from seismograd_server.store.schema import closed_blocks, launches, runs, segments
from seismograd_server.store.summary_codec import decode_summary, encode_summary
from seismograd_server.store.summary_tables import summaries, summary_lines
from seismograd_server.store.upsert import insert_into

__all__ = ["SummaryRepository", "SummaryRow", "row_steps"]

# Buckets of a row: enough numbers for a codec to find their pattern, few enough to be written anew as a run goes on.
# Rows of the series and of the layers that belong together cover the same steps.
_ROW_BUCKETS = {SummaryKind.SERIES: 64, SummaryKind.LAYERS: 16}
# Rows fetched at a time: of a wide model a few megabytes.
_PAGE = 16


def row_steps(kind: SummaryKind, size: int) -> int:
    """Steps that a row of buckets of this size covers; rows are aligned to them."""
    return size * _ROW_BUCKETS[kind]


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """The buckets of one aligned range of steps, ready to be stored."""

    kind: SummaryKind
    size: int
    first_step: int
    payload: bytes

    @classmethod
    def of(cls, kind: SummaryKind, summary: Summary) -> SummaryRow:
        """The row of a summary, all of whose buckets lie in the range of one row."""
        steps = row_steps(kind, summary.size)
        first = int(summary.buckets[0]) * summary.size // steps * steps
        return cls(kind, summary.size, first, encode_summary(summary))


class SummaryRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def movements(self) -> list[tuple[int, RunState, int, int]]:
        """(run id, state, closed steps, newest) of every run: where there may be something to summarise.

        Closed steps are those of the first optimizer; `newest` rises with each block that another one closes.
        """
        blocks = closed_blocks.c
        others = (
            select(blocks.run_id, func.max(blocks.ordinal).label("newest"))
            .where(blocks.optimizer != 0)  # read from the index alone
            .group_by(blocks.run_id)
            .subquery()
        )
        rows = self._connection.execute(
            select(runs.c.run_id, runs.c.state, runs.c.closed_steps, func.coalesce(others.c.newest, 0).label("newest"))
            .select_from(runs)
            .outerjoin(others, others.c.run_id == runs.c.run_id)
        )
        return [(row.run_id, RunState(row.state), row.closed_steps, row.newest) for row in rows]

    def summarised_to(self, run_id: int, line: Line) -> int | None:
        """The last step of a line that is summarised; None = none is."""
        columns = summary_lines.c
        return self._connection.scalar(
            select(columns.last_step).where(
                columns.run_id == run_id,
                columns.optimizer == line.optimizer,
                columns.attempt == line.attempt,
                columns.branch == line.branch,
            )
        )

    def read(
        self,
        run_id: int,
        line: Line,
        kind: SummaryKind,
        size: int,
        *,
        first_step: int,
        last_step: int,
        limit: int = _PAGE,
        on_damage: Callable[[StorageDamageError], None] | None = None,
    ) -> list[Summary]:
        """The first rows of a line, `limit` at most, that touch [first_step, last_step]; whole, in rising order.

        Raises:
            StorageDamageError: a row is damaged; with `on_damage`, that is told, and the row left out.
        """
        columns, steps = summaries.c, row_steps(kind, size)
        statement = select(summaries).where(
            columns.run_id == run_id,
            columns.optimizer == line.optimizer,
            columns.kind == int(kind),
            columns.bucket_steps == size,
            columns.attempt == line.attempt,
            columns.branch == line.branch,
            columns.first_step <= last_step,
        )
        found: list[Summary] = []
        start = first_step // steps * steps
        while not found:  # an empty answer would mean that there is nothing more
            page = self._connection.execute(
                statement.where(columns.first_step >= start).order_by(columns.first_step).limit(limit)
            ).all()
            for row in page:
                try:
                    found.append(decode_summary_row(row))
                except StorageDamageError as error:
                    if on_damage is None:
                        raise
                    on_damage(error)
            if len(page) < limit:
                break
            start = page[-1].first_step + 1
        return found

    def segments_behind(self, run_id: int, line: Line, first_step: int, last_step: int) -> list[tuple[int, int]]:
        """(first step, last step) of the segments of its attempt that touch [first_step, last_step]; each once."""
        columns = segments.c
        launch = select(launches.c.launch_row).where(launches.c.run_id == run_id, launches.c.attempt == line.attempt)
        statement = (
            select(columns.first_step, columns.last_step)
            .distinct()
            .where(
                columns.launch_row == launch.scalar_subquery(),
                columns.optimizer == line.optimizer,
                columns.kind == int(RecordKind.STEP),
                columns.last_step >= first_step,
                columns.first_step <= last_step,
            )
        )
        return [(row.first_step, row.last_step) for row in self._connection.execute(statement)]

    def save(self, run_id: int, line: Line, rows: Sequence[SummaryRow], last_step: int) -> None:
        """Put rows in the place of those that are there, and note up to which step they summarise the line."""
        key = {"run_id": run_id, "optimizer": line.optimizer, "attempt": line.attempt, "branch": line.branch}
        statement = insert_into(self._connection, summaries)
        statement = statement.on_conflict_do_update(
            index_elements=list(summaries.primary_key), set_={"payload": statement.excluded.payload}
        )
        for row in rows:
            values = {"kind": int(row.kind), "bucket_steps": row.size, "first_step": row.first_step}
            self._connection.execute(statement, {**key, **values, "payload": row.payload})
        progress = insert_into(self._connection, summary_lines)
        progress = progress.on_conflict_do_update(
            index_elements=list(summary_lines.primary_key), set_={"last_step": progress.excluded.last_step}
        )
        self._connection.execute(progress, {**key, "first_step": line.first_step, "last_step": last_step})


def decode_summary_row(row: Row[*tuple[Any, ...]]) -> Summary:
    """A row of `summaries`.

    Raises:
        StorageDamageError: its bytes are not those that were written.
    """
    try:
        return decode_summary(row.payload)
    except ValueError as error:
        steps = row_steps(SummaryKind(row.kind), row.bucket_steps)
        raise StorageDamageError(
            f"summary of run {row.run_id} at step {row.first_step}, {row.bucket_steps} steps a bucket, cannot be read: "
            f"{error}",
            what="summary",
            first_step=row.first_step,
            last_step=row.first_step + steps - 1,
        ) from error
