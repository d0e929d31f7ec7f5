"""Closed steps: what was composed when a step was closed, in the order of closing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, Select, Table, func, select

from seismograd_server.errors import StorageDamageError
from seismograd_server.model import ClosedBlock, Line
from seismograd_server.store.blocks import Closing, StepChunk, decode_block, encode_block
from seismograd_server.store.bulk import append_numbered
from seismograd_server.store.schema import closed_blocks
from seismograd_server.store.summary_tables import summary_lines

__all__ = ["Closing", "StepChunk", "StepRepository", "hidden_from"]

# Blocks fetched at a time: a few hundred kilobytes of a usual run.
_PAGE = 128
# Larger than any step.
_NEVER = np.iinfo(np.int64).max


class StepRepository:
    """Bound to one transaction. Iterators are read page by page and end with the transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, run_id: int, launch_row: int, optimizer: int, block: ClosedBlock) -> int:
        """Store one block; see `append_all`."""
        return self.append_all([(run_id, launch_row, optimizer, block)])[0]

    def append_all(self, blocks: Sequence[tuple[int, int, int, ClosedBlock]]) -> list[int]:
        """Store (run id, launch row, optimizer, block), all but norms by layer, behind all others; give their ordinals.

        This is the closing event: what is closed here, with these ranks, is what a replay closes again.

        Raises:
            ValueError: a block is empty.
        """
        rows = []
        for run_id, launch_row, optimizer, block in blocks:
            if not block.count:
                raise ValueError("a closed block has at least one step")
            rows.append(
                {
                    "run_id": run_id,
                    "launch_row": launch_row,
                    "optimizer": optimizer,
                    "attempt": block.attempt,
                    "branch": block.branch,
                    "first_step": int(block.steps[0]),
                    "last_step": int(block.steps[-1]),
                    "payload": encode_block(block),
                }
            )
        return append_numbered(self._connection, closed_blocks, rows) if rows else []

    def read(
        self,
        run_id: int,
        optimizer: int,
        first_step: int | None = None,
        last_step: int | None = None,
        *,
        all_branches: bool = False,
        on_damage: Callable[[StorageDamageError], None] | None = None,
    ) -> Iterator[StepChunk]:
        """Closed steps in [first_step, last_step], in closing order.

        Unless `all_branches`, a step is hidden when a later attempt or branch began at or before it: what is left is
        one line through the run, rising.

        Raises:
            StorageDamageError: a block is damaged; with `on_damage`, that is told, and the block left out.
        """
        statement = _SELECT.where(closed_blocks.c.run_id == run_id, closed_blocks.c.optimizer == optimizer)
        if first_step is not None:
            statement = statement.where(closed_blocks.c.last_step >= first_step)
        if last_step is not None:
            statement = statement.where(closed_blocks.c.first_step <= last_step)
        hidden = {} if all_branches else hidden_from(self.lines(run_id, optimizer))
        for chunk in self._chunks(statement, on_damage):
            end = hidden.get((chunk.attempt, chunk.branch), _NEVER)
            chosen = chunk.steps < end
            if first_step is not None:
                chosen &= chunk.steps >= first_step
            if last_step is not None:
                chosen &= chunk.steps <= last_step
            if chosen.any():
                yield chunk.select(chosen)

    def last(self, run_id: int, optimizer: int) -> tuple[int, int, int] | None:
        """What was closed last: (attempt, branch, step); None = nothing yet."""
        row = self._connection.execute(
            select(closed_blocks.c.attempt, closed_blocks.c.branch, closed_blocks.c.last_step)
            .where(closed_blocks.c.run_id == run_id, closed_blocks.c.optimizer == optimizer)
            .order_by(closed_blocks.c.ordinal.desc())
            .limit(1)
        ).one_or_none()
        return None if row is None else (row.attempt, row.branch, row.last_step)

    def closings(
        self,
        launch_row: int,
        optimizer: int,
        after_ordinal: int = 0,
        *,
        on_damage: Callable[[StorageDamageError], None] | None = None,
    ) -> Iterator[Closing]:
        """The closing events of a launch behind `after_ordinal`, in order: the script of an exact replay.

        Raises:
            StorageDamageError: as in `read`.
        """
        statement = _SELECT.where(
            closed_blocks.c.launch_row == launch_row,
            closed_blocks.c.optimizer == optimizer,
            closed_blocks.c.ordinal > after_ordinal,
        )
        for chunk in self._chunks(statement, on_damage):
            yield Closing(chunk.ordinal, chunk.attempt, chunk.branch, chunk.steps, chunk.ranks_present)

    def lines(self, run_id: int, optimizer: int | None = None) -> list[Line]:
        """What each branch of each attempt has made, the earliest first; of one optimizer, or of all one by one."""
        found: dict[tuple[int, int, int], Line] = {}
        for row in self._connection.execute(_of(_SELECT_EXTENTS, closed_blocks, run_id, optimizer)):
            key = row.optimizer, row.attempt, row.branch
            found[key] = Line(*key, row.first, row.last, summarised_to=None)
        # Where a line began is known from its summaries too, when its first blocks are gone.
        for row in self._connection.execute(_of(_SELECT_SUMMARISED, summary_lines, run_id, optimizer)):
            key = row.optimizer, row.attempt, row.branch
            last = max(row.last_step, found[key].last_step) if key in found else row.last_step
            found[key] = Line(*key, row.first_step, last, summarised_to=row.last_step)
        return [found[key] for key in sorted(found)]

    def _chunks(
        self, statement: Select[Any], on_damage: Callable[[StorageDamageError], None] | None
    ) -> Iterator[StepChunk]:
        ordinal = 0
        while True:
            page = self._connection.execute(
                statement.where(closed_blocks.c.ordinal > ordinal).order_by(closed_blocks.c.ordinal).limit(_PAGE)
            ).all()
            for row in page:
                ordinal = row.ordinal
                try:
                    chunk = decode_row(row)
                except StorageDamageError as error:
                    if on_damage is None:
                        raise
                    on_damage(error)
                    continue
                yield chunk
            if len(page) < _PAGE:
                return


def decode_row(row: Row[*tuple[Any, ...]]) -> StepChunk:
    """A row of `CHUNK_COLUMNS`.

    Raises:
        StorageDamageError: its bytes are not those that were written.
    """
    try:
        return decode_block(
            row.payload,
            ordinal=row.ordinal,
            attempt=row.attempt,
            branch=row.branch,
            launch_row=row.launch_row,
            dense=bool(row.dense),
        )
    except ValueError as error:
        raise StorageDamageError(
            f"closed block {row.ordinal} cannot be read: {error}",
            what="closed_block",
            first_step=row.first_step,
            last_step=row.last_step,
        ) from error


def hidden_from(lines: Sequence[Line]) -> dict[tuple[int, int], int]:
    """For each (attempt, branch) of one optimizer, the first step that a later line took over."""
    hidden: dict[tuple[int, int], int] = {}
    earliest = _NEVER
    for line in reversed(lines):
        hidden[line.attempt, line.branch] = earliest
        earliest = min(earliest, line.first_step)
    return hidden


def _of(statement: Select[Any], table: Table, run_id: int, optimizer: int | None) -> Select[Any]:
    statement = statement.where(table.c.run_id == run_id)
    return statement if optimizer is None else statement.where(table.c.optimizer == optimizer)


_LINE = (closed_blocks.c.optimizer, closed_blocks.c.attempt, closed_blocks.c.branch)
_SELECT_EXTENTS = select(
    *_LINE, func.min(closed_blocks.c.first_step).label("first"), func.max(closed_blocks.c.last_step).label("last")
).group_by(*_LINE)
_SELECT_SUMMARISED = select(summary_lines)
CHUNK_COLUMNS = (
    closed_blocks.c.ordinal,
    closed_blocks.c.attempt,
    closed_blocks.c.branch,
    closed_blocks.c.launch_row,
    closed_blocks.c.dense,
    closed_blocks.c.first_step,
    closed_blocks.c.last_step,
    closed_blocks.c.payload,
)
_SELECT = select(*CHUNK_COLUMNS)
