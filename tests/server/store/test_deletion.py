from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from seismograd_server.errors import NotFoundError, UnknownRankError
from seismograd_server.model import (
    Catalog,
    Checkpoint,
    ClosedBlock,
    Directive,
    DirectiveKind,
    DroppedRange,
    Health,
    Line,
    OptimizerInfo,
    RankIdentity,
    RecordKind,
    RunKey,
    StepBatch,
    StreamKey,
    SummaryKind,
    Transition,
)
from seismograd_server.store.database import Database, Transaction
from seismograd_server.store.detectors import DetectorCheckpoint
from seismograd_server.store.metadata import metadata
from seismograd_server.store.outbox import OutboxEntry
from seismograd_server.store.summaries import SummaryRow

# Not of any run: a silence is of whatever its patterns fit, also of runs to come.
SHARED_TABLES = {"server_epoch", "alembic_version", "silences"}


def count_rows(transaction: Transaction) -> dict[str, int]:
    return {
        table.name: transaction.connection.scalars(select(func.count()).select_from(table)).one()
        for table in metadata.sorted_tables
        if table.name not in SHARED_TABLES
    }


def test_a_deleted_run_leaves_not_one_row_and_its_neighbour_keeps_all(
    database: Database,
    make_identity: Callable[..., RankIdentity],
    make_batch: Callable[..., StepBatch],
    make_block: Callable[..., ClosedBlock],
    make_transition: Callable[..., Transition],
) -> None:
    def fill(transaction: Transaction, name: str) -> int:
        identity = make_identity(name, optimizers=(OptimizerInfo(0, "SGD"),))
        opened = transaction.runs.open_rank(identity, now=1.0)
        handle, run_id, launch_row = opened.rank.handle, opened.run.run_id, opened.launch.launch_row
        transaction.runs.save_catalog(handle, Catalog(0, 0, ()))
        transaction.runs.save_checkpoint(Checkpoint(handle, 1, "path", 1.0))
        transaction.runs.save_health(Health(handle, {}, 0, 0, 0.0, 0, 0.0, 0.0))
        transaction.segments.append([make_batch(handle)], received_at=1.0)
        transaction.segments.drop([DroppedRange(StreamKey(handle, 0, RecordKind.STEP), 4, 1, "queue_full")])
        ordinal = transaction.steps.append(run_id, launch_row, 0, make_block())
        line = Line(0, 1, 0, first_step=0, last_step=0, summarised_to=None)
        transaction.summaries.save(run_id, line, [SummaryRow(SummaryKind.SERIES, 64, 0, b"payload")], last_step=0)
        transaction.detectors.save_all([DetectorCheckpoint(run_id, 0, ordinal, b"state")], now=1.0)
        transaction.alerts.apply([make_transition(run_id, alert_id=name, key=RunKey("mt", name))])
        stop = Directive(name, run_id, DirectiveKind.STOP, "Ada", asked_at=1.0, expires_at=2.0)
        transaction.directives.add(stop, [handle])
        transaction.outbox.add([OutboxEntry(None, "pager", name, 1.0, 1.0, 0, "{}", "", name)])
        return handle

    with database.begin() as transaction:
        handle = fill(transaction, "doomed")
        before = count_rows(transaction)
        assert all(before.values()), f"the test must fill every table: {before}"
        fill(transaction, "kept")
    with database.begin() as transaction:
        transaction.runs.delete(1)
        assert count_rows(transaction) == before
        if database.kind == "sqlite":  # PostgreSQL has checked every statement
            assert transaction.connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []

    with database.begin() as transaction:
        with pytest.raises(NotFoundError, match="did you mean"):
            transaction.runs.get(RunKey("mt", "doomde"))
        with pytest.raises(UnknownRankError):
            transaction.segments.append([make_batch(handle, 10)], received_at=2.0)
        again = transaction.runs.open_rank(make_identity("doomed"), now=3.0)
        assert (again.run.run_id, again.rank.handle) == (3, 3), "numbers of deleted rows are never given again"
        transaction.runs.delete(2)
        transaction.runs.delete(3)
        assert not any(count_rows(transaction).values())
