"""What is SQLite's own: files, their lock, pragmas, full and failing disks."""

from __future__ import annotations

import collections
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection

from seismograd_server.errors import StartError, StorageBusyError, StorageError
from seismograd_server.model import RankIdentity, StepBatch
from seismograd_server.store import database as database_module
from seismograd_server.store import sqlite as sqlite_module
from seismograd_server.store.database import Database, Durability
from seismograd_server.store.migrate import migrate


def open_rank(database: Database, identity: RankIdentity) -> int:
    with database.begin() as transaction:
        return transaction.runs.open_rank(identity, now=1.0).rank.handle


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


def test_a_temporary_database_is_gone_when_it_is_closed() -> None:
    database = Database.open("sqlite://", owner="test")
    directory = Path(database.name).parent
    assert directory.exists()

    database.close()
    database.close()

    assert not directory.exists()


def test_a_link_to_a_database_has_the_same_lock(sqlite_database: Database, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(Path(sqlite_database.name).parent, target_is_directory=True)

    with pytest.raises(StartError, match="in use by"):
        Database.open(f"sqlite:///{tmp_path}/link/{Path(sqlite_database.name).name}", owner="test")


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


def test_a_database_that_another_process_holds_is_busy_and_comes_back(
    database_path: Path, make_identity: Callable[..., RankIdentity], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "BUSY_SECONDS", 0.01)
    with Database.open(f"sqlite:///{database_path}", owner="test") as database:
        other = sqlite3.connect(database_path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusyError, match="another process holds its lock"):
            open_rank(database, make_identity())
        other.execute("ROLLBACK")
        other.close()

        assert open_rank(database, make_identity()) == 1


def test_a_full_disk_refuses_what_it_cannot_keep_and_recovers(
    sqlite_database: Database, make_identity: Callable[..., RankIdentity], make_batch: Callable[..., StepBatch]
) -> None:
    handle = open_rank(sqlite_database, make_identity())
    with sqlite_database.begin() as transaction:
        pragma = transaction.connection.exec_driver_sql
        pages = pragma("PRAGMA page_count").scalar_one()
        pragma(f"PRAGMA max_page_count = {pages + 8}").fetchall()

    acknowledged = 0

    def append() -> None:
        nonlocal acknowledged
        with sqlite_database.begin() as transaction:
            transaction.segments.append([make_batch(handle, acknowledged, 2000)], received_at=1.0)
        acknowledged += 2000

    append()
    with pytest.raises(StorageBusyError, match="the disk is full: free some space"):
        collections.deque(iter(append, "never"), maxlen=0)

    with sqlite_database.read() as transaction:
        (intervals,) = transaction.segments.received([handle]).values()
        assert list(intervals) == [(0, acknowledged)]
    with sqlite_database.begin() as transaction:
        transaction.connection.exec_driver_sql("PRAGMA max_page_count = 1000000").fetchall()
    append()


def test_after_a_failed_sync_nothing_is_written_any_more(
    sqlite_database: Database, make_identity: Callable[..., RankIdentity]
) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    with pytest.raises(StorageError, match="the disk failed"), sqlite_database.begin():
        raise error

    with pytest.raises(StorageError, match="look at the kernel's log, then restart the server"):
        open_rank(sqlite_database, make_identity())


def test_space_that_deletion_frees_goes_back_to_the_disk(
    sqlite_database: Database, make_identity: Callable[..., RankIdentity], make_batch: Callable[..., StepBatch]
) -> None:
    handle = open_rank(sqlite_database, make_identity())
    with sqlite_database.begin() as transaction:
        transaction.segments.append([make_batch(handle, at, 4000) for at in range(0, 80_000, 4000)], received_at=1.0)
    with sqlite_database.begin() as transaction:
        transaction.runs.delete(1)

    steps: list[int] = []
    while step := sqlite_database.reclaim(max_bytes=2**20):
        assert step <= 2**20
        steps.append(step)

    assert sum(steps) > 2 * 2**20
    assert steps[0] > 2**19, "as much as it was asked for, not a page"
    assert sqlite_database.size_bytes() >= Path(sqlite_database.name).stat().st_size > 0
    assert (sqlite_database.free_bytes() or 0) > 0
