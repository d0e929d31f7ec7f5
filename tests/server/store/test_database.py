from __future__ import annotations

import collections
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, update

from seismograd_server.errors import (
    StartError,
    StorageBusyError,
    StorageError,
    StorageFencedError,
)
from seismograd_server.model import RankIdentity, RunKey, StepBatch
from seismograd_server.store import database as database_module
from seismograd_server.store.database import Database, Durability
from seismograd_server.store.metadata import metadata
from seismograd_server.store.migrate import migrate
from seismograd_server.store.schema import server_epoch

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


def test_a_database_is_made_with_its_directory_and_found_again(
    database_path: Path, make_identity: Callable[..., RankIdentity]
) -> None:
    for _ in range(2):
        with Database.open(f"sqlite:///{database_path}", owner="test") as database:
            open_rank(database, make_identity())

    with (
        Database.open(f"sqlite:///{database_path}", owner="test") as database,
        database.read() as transaction,
    ):
        assert [run.key for run in transaction.runs.list()] == [RunKey("mt", "lstm")]


def test_the_migrations_make_exactly_the_tables_of_the_schema(database: Database, database_path: Path) -> None:
    engine = create_engine(f"sqlite:///{database_path}")
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            assert compare_metadata(context, metadata) == []
    finally:
        engine.dispose()


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("power", 2)])
def test_durability_decides_how_a_commit_is_synced(
    database_path: Path, durability: Durability, synchronous: int
) -> None:
    with (
        Database.open(f"sqlite:///{database_path}", owner="test", durability=durability) as database,
        database.begin() as transaction,
    ):
        pragma = transaction.connection.exec_driver_sql
        assert pragma("PRAGMA synchronous").scalar_one() == synchronous
        assert pragma("PRAGMA journal_mode").scalar_one() == "wal"
        assert pragma("PRAGMA auto_vacuum").scalar_one() == 2, "incremental"
        assert pragma("PRAGMA foreign_keys").scalar_one() == 1


def test_a_second_server_on_the_database_is_told_who_has_it(database_path: Path) -> None:
    url = f"sqlite:///{database_path}"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StartError) as caught:
            Database.open(url, owner="test")
        message = str(caught.value)
        assert f"in use by pid {holder.pid} on host {socket.gethostname()} (seismograd serve)" in message
        assert "another data directory" in message
        assert "\n" not in message
        holder.kill()

    Database.open(url, owner="test").close()  # a killed server leaves no lock behind


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the directory should be")

    with pytest.raises(StartError, match=r"taken/.*: its directory cannot be made .* give another data directory"):
        Database.open(f"sqlite:///{tmp_path}/taken/seismograd.db", owner="test")


def test_a_directory_without_permission_is_named() -> None:
    # Nobody may make files in /proc, not even root.
    with pytest.raises(StartError, match=r"/proc is not writable .* data directory or its permission"):
        Database.open("sqlite:////proc/seismograd.db", owner="test")


def test_a_path_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="it cannot be opened"):
        Database.open(f"sqlite:///{tmp_path}", owner="test")
    (tmp_path.parent / f"{tmp_path.name}.lock").unlink()


def test_a_file_that_is_no_database_is_refused_and_left_alone(database_path: Path) -> None:
    database_path.parent.mkdir()
    text = "dear diary, " * 1000
    database_path.write_text(text)

    with pytest.raises(StartError, match="it is not a SQLite database: give another path"):
        Database.open(f"sqlite:///{database_path}", owner="test")
    assert database_path.read_text() == text


def test_a_schema_from_the_future_is_refused_and_left_alone(database_path: Path) -> None:
    Database.open(f"sqlite:///{database_path}", owner="test").close()
    with sqlite3.connect(database_path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    with pytest.raises(StartError, match=r"made by a newer program \(schema revision 9999, .* up to \d+\): upgrade"):
        Database.open(f"sqlite:///{database_path}", owner="test")
    Path(f"{database_path}.lock").unlink()
    connection = sqlite3.connect(database_path)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
    connection.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://user:secret@host/db", "'postgresql', which this version cannot use"),
        ("seismograd.db", r"database_url cannot be read: write sqlite:///PATH"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(StartError, match=message) as caught:
        Database.open(url, owner="test")
    assert "secret" not in str(caught.value)


def test_a_temporary_database_is_gone_when_it_is_closed() -> None:
    database = Database.open("sqlite://", owner="test")
    directory = Path(database.name).parent
    assert directory.exists()

    database.close()
    database.close()

    assert not directory.exists()


def test_a_closed_database_can_neither_be_read_nor_written(database: Database) -> None:
    database.close()

    with pytest.raises(StorageError, match="is closed"), database.read():
        pass
    with pytest.raises(StorageError, match="is closed"), database.begin():
        pass


def test_a_link_to_a_database_has_the_same_lock(database: Database, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(Path(database.name).parent, target_is_directory=True)

    with pytest.raises(StartError, match="in use by"):
        Database.open(f"sqlite:///{tmp_path}/link/{Path(database.name).name}", owner="test")


def test_a_migration_that_fails_leaves_no_table_behind(database_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def migrate_and_fail(connection: Connection, name: str) -> None:
        migrate(connection, name)
        raise StorageError("lightning struck")

    monkeypatch.setattr(database_module, "migrate", migrate_and_fail)
    with pytest.raises(StartError, match="lightning struck"):
        Database.open(f"sqlite:///{database_path}", owner="test")

    connection = sqlite3.connect(database_path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    connection.close()


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
    monkeypatch.setattr(database_module, "_BUSY_SECONDS", 0.01)

    with database.begin(), pytest.raises(StorageBusyError, match="another transaction has not ended"), database.begin():
        pass


def test_a_database_that_another_process_holds_is_busy_and_comes_back(
    database_path: Path, make_identity: Callable[..., RankIdentity], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_BUSY_SECONDS", 0.01)
    with Database.open(f"sqlite:///{database_path}", owner="test") as database:
        other = sqlite3.connect(database_path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusyError, match="another process holds its lock"):
            open_rank(database, make_identity())
        other.execute("ROLLBACK")
        other.close()

        assert open_rank(database, make_identity()) == 1


def test_a_full_disk_refuses_what_it_cannot_keep_and_recovers(
    database: Database, make_identity: Callable[..., RankIdentity], make_batch: Callable[..., StepBatch]
) -> None:
    handle = open_rank(database, make_identity())
    with database.begin() as transaction:
        pragma = transaction.connection.exec_driver_sql
        pages = pragma("PRAGMA page_count").scalar_one()
        pragma(f"PRAGMA max_page_count = {pages + 8}").fetchall()

    acknowledged = 0

    def append() -> None:
        nonlocal acknowledged
        with database.begin() as transaction:
            transaction.segments.append([make_batch(handle, acknowledged, 2000)], received_at=1.0)
        acknowledged += 2000

    append()
    with pytest.raises(StorageBusyError, match="the disk is full: free some space"):
        collections.deque(iter(append, "never"), maxlen=0)

    with database.read() as transaction:
        (intervals,) = transaction.segments.received([handle]).values()
        assert list(intervals) == [(0, acknowledged)]
    with database.begin() as transaction:
        transaction.connection.exec_driver_sql("PRAGMA max_page_count = 1000000").fetchall()
    append()


def test_after_a_failed_sync_nothing_is_written_any_more(
    database: Database, make_identity: Callable[..., RankIdentity]
) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    with pytest.raises(StorageError, match="the disk failed"), database.begin():
        raise error

    with pytest.raises(StorageError, match="look at the kernel's log, then restart the server"):
        open_rank(database, make_identity())


def test_space_that_deletion_frees_goes_back_to_the_disk(
    database: Database, make_identity: Callable[..., RankIdentity], make_batch: Callable[..., StepBatch]
) -> None:
    handle = open_rank(database, make_identity())
    with database.begin() as transaction:
        transaction.segments.append([make_batch(handle, at, 4000) for at in range(0, 80_000, 4000)], received_at=1.0)
    with database.begin() as transaction:
        transaction.runs.delete(1)

    steps: list[int] = []
    while step := database.reclaim(max_bytes=2**20):
        assert step <= 2**20
        steps.append(step)

    assert sum(steps) > 2 * 2**20
    assert steps[0] > 2**19, "as much as it was asked for, not a page"
    assert database.size_bytes() >= Path(database.name).stat().st_size > 0
    assert database.free_bytes() > 0
