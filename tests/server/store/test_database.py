"""What a database promises, whichever kind it is."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text, update

from seismograd_server.errors import (
    DatabaseTakenError,
    StartError,
    StorageBusyError,
    StorageError,
    StorageFencedError,
)
from seismograd_server.model import Checkpoint, Health, RankIdentity, RunKey, StepBatch
from seismograd_server.store import database as database_module
from seismograd_server.store.database import Database
from seismograd_server.store.metadata import metadata
from seismograd_server.store.schema import server_epoch
from tests.support.processes import eventually

NUMBERS = {column.name for table in metadata.tables.values() for column in table.columns if column.identity}
# Opens a database, says so, and keeps it until its standard input ends.
HOLDER = """
import sys
from seismograd_server.store.database import Database
with Database.open(sys.argv[1], owner="seismograd serve"):
    print("open", flush=True)
    sys.stdin.read()
"""


def open_rank(database: Database, identity: RankIdentity) -> int:
    with database.begin() as transaction:
        return transaction.runs.open_rank(identity, now=1.0).rank.handle


def test_a_database_is_found_again_as_it_was_left(
    database_url: str, make_identity: Callable[..., RankIdentity]
) -> None:
    for _ in range(2):
        with Database.open(database_url, owner="test") as database:
            open_rank(database, make_identity())

    with Database.open(database_url, owner="test") as database, database.read() as transaction:
        assert [run.key for run in transaction.runs.list()] == [RunKey("mt", "lstm")]


def test_the_migrations_make_exactly_the_tables_of_the_schema(database: Database) -> None:
    def is_ours(_object: object, name: str | None, kind: str, reflected: bool, _twin: object) -> bool:
        return not (reflected and kind == "table" and re.search(r"_p\d\d$", name or ""))  # partitions of ours

    with database.read() as transaction:
        options = {"compare_type": True, "compare_server_default": True, "include_object": is_ours}
        context = MigrationContext.configure(transaction.connection, opts=options)
        differences = compare_metadata(context, metadata)
    if database.kind == "sqlite":  # which numbers rows without being told
        differences = [each for each in differences if not (each[0][0] == "modify_default" and each[0][3] in NUMBERS)]
    assert differences == []


def test_a_second_server_on_the_database_is_told_who_has_it(database_url: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(DatabaseTakenError) as caught:
            Database.open(database_url, owner="test")
        message = str(caught.value)
        assert re.search(f"is in use by pid {holder.pid} on (host )?{re.escape(socket.gethostname())}", message)
        assert "give this one another data" in message
        assert "\n" not in message
        holder.kill()

    # A killed server leaves no lock behind; PostgreSQL notices within moments.
    eventually(lambda: opens(database_url), 10, "the database is free")


def opens(url: str) -> bool:
    try:
        Database.open(url, owner="test").close()
    except DatabaseTakenError:
        return False
    return True


def test_a_schema_from_the_future_is_refused_and_left_alone(database_url: str) -> None:
    with Database.open(database_url, owner="test") as database, database.begin() as transaction:
        transaction.connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    for _ in range(2):
        with pytest.raises(
            StartError, match=r"made by a newer program \(schema revision 9999, .* up to \d+\): upgrade"
        ):
            Database.open(database_url, owner="test")


def test_the_same_texts_and_numbers_come_back_from_every_kind_of_database(
    database: Database, make_identity: Callable[..., RankIdentity], make_batch: Callable[..., StepBatch]
) -> None:
    largest = 2**32 - 1
    identity = make_identity(
        "läuft/😀", config_json=json.dumps({"nul": "\0", "high": "😀"}), process_id=largest, local_rank=largest
    )
    handle = open_rank(database, identity)
    with database.begin() as transaction:
        transaction.runs.save_health(Health(handle, {"queue_full": 2**63 - 1}, 2**63 - 1, 0, 1e308, 0, 5e-324, -0.0))
        batch = make_batch(handle, 2**63 - 5, branch=largest, steps=np.array([-(2**63), -1, 0, 2**63 - 1]))
        transaction.segments.append([batch], received_at=1e12)
        transaction.runs.save_checkpoint(Checkpoint(handle, 2**63 - 1, "s3://bücket/\u2028", 1.0))

    with database.read() as transaction:
        (run,) = transaction.runs.list()
        assert (run.key.run, json.loads(run.config_json)) == ("läuft/😀", {"nul": "\0", "high": "😀"})
        rank = transaction.runs.rank(handle)
        assert rank.process_id == largest
        (health,) = transaction.runs.health(run.run_id)
        assert (health.queued_bytes, health.hook_seconds, health.capture_share) == (2**63 - 1, 1e308, 5e-324)
        ((_, stored),) = transaction.segments.read(rank.launch_row, 0)
        assert stored.steps.tolist() == [-(2**63), -1, 0, 2**63 - 1]
        assert stored.branch == largest
        assert [each.path for each in transaction.runs.checkpoints(run.run_id)] == ["s3://bücket/\u2028"]


def test_numbers_of_rows_rise_in_the_order_of_commits(
    database: Database, make_identity: Callable[..., RankIdentity], make_batch: Callable[..., StepBatch]
) -> None:
    handle = open_rank(database, make_identity())
    seen = [0]
    for first in range(0, 40, 4):
        with contextlib.suppress(LookupError), database.begin() as transaction:
            transaction.segments.append([make_batch(handle, first)], received_at=1.0)
            if first % 8:
                raise LookupError
        with database.read() as transaction:
            seen.append(transaction.segments.last_id())
    assert seen == sorted(seen)
    assert len(set(seen)) == 6, "five were stored"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "mysql://user:secret@host/db",
            "'mysql', which this version cannot use: write sqlite:///PATH or postgresql://",
        ),
        ("postgresql://user:secret@host:port/db", "database_url cannot be read"),
        ("seismograd.db", r"database_url cannot be read: write sqlite:///PATH"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(StartError, match=message) as caught:
        Database.open(url, owner="test")
    assert "secret" not in str(caught.value)


def test_a_closed_database_can_neither_be_read_nor_written(database: Database) -> None:
    database.close()

    with pytest.raises(StorageError, match="is closed"), database.read():
        pass
    with pytest.raises(StorageError, match="is closed"), database.begin():
        pass


def test_a_block_that_raises_leaves_nothing_behind(
    database: Database, make_identity: Callable[..., RankIdentity]
) -> None:
    def fail_inside() -> None:
        with database.begin() as transaction:
            transaction.runs.open_rank(make_identity(), now=1.0)
            raise LookupError

    with pytest.raises(LookupError):
        fail_inside()

    with database.read() as transaction:
        assert transaction.runs.list() == []


def test_a_reader_sees_one_moment_whatever_is_written_meanwhile(
    database: Database, make_identity: Callable[..., RankIdentity]
) -> None:
    open_rank(database, make_identity("first"))
    with database.read() as before:
        assert len(before.runs.list()) == 1
        open_rank(database, make_identity("second"))
        assert len(before.runs.list()) == 1
        with database.read() as after:
            assert len(after.runs.list()) == 2


def test_a_reader_cannot_write(database: Database, make_identity: Callable[..., RankIdentity]) -> None:
    with pytest.raises(StorageError, match="read-only"), database.read() as transaction:
        transaction.runs.open_rank(make_identity(), now=1.0)


def test_a_server_that_was_replaced_can_no_longer_write(
    database: Database, make_identity: Callable[..., RankIdentity]
) -> None:
    with database.begin() as transaction:
        transaction.connection.execute(update(server_epoch).values(epoch=server_epoch.c.epoch + 1))

    with pytest.raises(StorageFencedError, match=r"another server has taken it over .* must exit"):
        open_rank(database, make_identity())
    with database.read() as transaction:
        assert transaction.runs.list() == []


def test_writers_of_two_threads_take_turns(database: Database, make_identity: Callable[..., RankIdentity]) -> None:
    def write(name: str) -> None:
        for number in range(20):
            open_rank(database, make_identity(f"{name}-{number}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in ("pipeline", "notify")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with database.read() as transaction:
        assert len(transaction.runs.list()) == 40


def test_a_transaction_inside_another_one_is_refused_and_does_not_hang(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.01)

    with database.begin(), pytest.raises(StorageBusyError, match="another transaction has not ended"), database.begin():
        pass
