"""Every stored payload decoded once, and what cannot be: by project, run, rank and steps. Changes nothing.

Page by page in short transactions, beside a server that runs: what is compacted meanwhile is looked at in one of both
forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, select

from seismograd_server.errors import StorageDamageError
from seismograd_server.store.schema import closed_blocks, launches, ranks, runs, segments
from seismograd_server.store.segment_rows import SEGMENT_COLUMNS, decode_segment
from seismograd_server.store.steps import CHUNK_COLUMNS, decode_row
from seismograd_server.store.summaries import decode_summary_row
from seismograd_server.store.summary_tables import summaries

# Rows decoded at a time: of a wide model some tens of megabytes.
_PAGE = 64


@dataclass(frozen=True, slots=True)
class DamagedPayload:
    """A row whose payload cannot be read.

    Attributes:
        project: whose it is,
        run: of which run,
        rank: and of which rank; None = of all of them together.
        what: "segment", "closed_block" or "summary".
        first_step: the steps that it held, by its own columns,
        last_step: both ends included.
        reason: which row, and what is wrong with it.
    """

    project: str
    run: str
    rank: int | None
    what: str
    first_step: int
    last_step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verified:
    """How many payloads were decoded, and those that cannot be."""

    payloads: int
    damaged: Sequence[DamagedPayload]


def verify(engine: Engine) -> Verified:
    """Decode every segment, block of closed steps and summary of a database whose schema is up to date.

    Raises:
        StorageError: a newer version wrote some of them.
    """
    payloads, damaged = 0, list[DamagedPayload]()
    for trials in (_segments(engine), _blocks(engine), _summaries(engine)):
        for found in trials:
            payloads += 1
            damaged += [] if found is None else [found]
    return Verified(payloads, damaged)


def _segments(engine: Engine) -> Iterator[DamagedPayload | None]:
    statement = (
        select(*SEGMENT_COLUMNS, runs.c.project, runs.c.run, ranks.c.rank)
        .join(launches, launches.c.launch_row == segments.c.launch_row)
        .join(runs, runs.c.run_id == launches.c.run_id)
        .outerjoin(ranks, ranks.c.handle == segments.c.rank_handle)
        .order_by(segments.c.segment_id)
        .limit(_PAGE)
    )
    after, full = 0, True
    while full:
        with engine.begin() as connection:
            page = connection.execute(statement.where(segments.c.segment_id > after)).all()
        full = len(page) == _PAGE
        for row in page:
            after = row.segment_id
            try:
                decode_segment(row)
                yield None
            except StorageDamageError as error:
                yield _damaged(row.project, row.run, row.rank, error)


def _blocks(engine: Engine) -> Iterator[DamagedPayload | None]:
    statement = (
        select(*CHUNK_COLUMNS, runs.c.project, runs.c.run)
        .join(runs, runs.c.run_id == closed_blocks.c.run_id)
        .order_by(closed_blocks.c.ordinal)
        .limit(_PAGE)
    )
    after, full = 0, True
    while full:
        with engine.begin() as connection:
            page = connection.execute(statement.where(closed_blocks.c.ordinal > after)).all()
        full = len(page) == _PAGE
        for row in page:
            after = row.ordinal
            try:
                decode_row(row)
                yield None
            except StorageDamageError as error:
                yield _damaged(row.project, row.run, None, error)


def _summaries(engine: Engine) -> Iterator[DamagedPayload | None]:
    with engine.begin() as connection:
        known = connection.execute(select(runs.c.run_id, runs.c.project, runs.c.run).order_by(runs.c.run_id)).all()
    keys = list(summaries.primary_key)[1:]
    for run in known:
        statement = select(summaries).where(summaries.c.run_id == run.run_id).order_by(*keys).limit(_PAGE)
        start = 0
        while True:
            with engine.begin() as connection:
                page = connection.execute(statement.offset(start)).all()
            for row in page:
                try:
                    decode_summary_row(row)
                    yield None
                except StorageDamageError as error:
                    yield _damaged(run.project, run.run, None, error)
            if len(page) < _PAGE:
                break
            start += _PAGE


def _damaged(project: str, run: str, rank: int | None, error: StorageDamageError) -> DamagedPayload:
    return DamagedPayload(project, run, rank, error.what, error.first_step, error.last_step, str(error))
