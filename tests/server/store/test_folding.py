"""The write-ahead log of SQLite is folded into the database between transactions, and its failures are heard."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from seismograd_server.errors import StorageBusyError, StorageError
from seismograd_server.model import RankIdentity, StepBatch
from seismograd_server.store import database as database_module
from seismograd_server.store import folding
from seismograd_server.store.database import Database
from seismograd_server.store.sqlite import SqliteBackend
from tests.support.processes import eventually

FOLD = 4 * 2**20  # more than the tables take
STEPS = 16_000  # of a batch: some 600 KiB


class Sender:
    """One rank that goes on sending."""

    def __init__(self, database: Database, handle: int, make_batch: Callable[..., StepBatch]) -> None:
        self.database = database
        self.sent = 0
        self._handle = handle
        self._make_batch = make_batch

    def send(self) -> None:
        """A transaction with one batch."""
        with self.database.begin() as transaction:
            transaction.segments.append([self._make_batch(self._handle, self.sent, STEPS)], received_at=1.0)
        self.sent += STEPS

    def send_until(self, steps: int) -> None:
        """Transactions until so many steps have been sent."""
        while self.sent < steps:
            self.send()

    def stored(self) -> int:
        """Steps that a reader sees."""
        with self.database.read() as transaction:
            (intervals,) = transaction.segments.received([self._handle]).values()
        return intervals.watermark()


@pytest.fixture
def sender(
    database_path: Path,
    make_identity: Callable[..., RankIdentity],
    make_batch: Callable[..., StepBatch],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Sender]:
    monkeypatch.setattr(folding, "FOLD_BYTES", FOLD)
    monkeypatch.setattr(folding, "MOST_BYTES", 2 * FOLD)
    monkeypatch.setattr(folding, "_PAGES_BYTES", 0)
    monkeypatch.setattr(folding, "_RETRY_SECONDS", 0.01)
    with Database.open(f"sqlite:///{database_path}", owner="test") as database:
        with database.begin() as transaction:
            handle = transaction.runs.open_rank(make_identity(), now=1.0).rank.handle
        yield Sender(database, handle, make_batch)


def folded(database: Database) -> int:
    """Steps in the file of the database itself, whatever its log may hold."""
    with closing(sqlite3.connect(f"file:{database.name}?immutable=1", uri=True)) as connection:
        try:
            (steps,) = connection.execute("SELECT coalesce(max(first_sequence + records), 0) FROM segments").fetchone()
        except sqlite3.DatabaseError as error:
            assert "no such table" in str(error) or "malformed" in str(error), "empty, or being written just now"  # noqa: PT017 (both are no failure)
            return 0
    return int(steps)


def log_bytes(database: Database) -> int:
    return Path(f"{database.name}-wal").stat().st_size


def folding_of(database: Database) -> folding.LogFolding:
    assert isinstance(database._backend, SqliteBackend)
    return database._backend._folding


def ask_to_fold(database: Database, size: int = 2**40) -> None:
    """As a commit of so many bytes would."""
    folding_of(database).expect(size)
    folding_of(database).after_commit()


def failing(monkeypatch: pytest.MonkeyPatch, code: int) -> list[int]:
    """From now on every checkpoint fails with that result; the list gets one more of it each time."""
    failures: list[int] = []

    def fail(_writer: Engine) -> int:
        failures.append(code)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(folding, "_checkpoint", fail)
    return failures


def test_a_long_log_is_folded_in_while_nobody_writes(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "MOST_BYTES", 2**40)  # no transaction sees to it
    sender.send()
    assert folded(sender.database) == 0, "a short one stays where it is"

    sender.send_until(20 * STEPS)

    eventually(lambda: folded(sender.database) > 0, 10, "the thread has had the writer's turn")
    assert sender.stored() == sender.sent


def test_a_log_far_too_long_is_folded_in_by_the_next_transaction(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "FOLD_BYTES", 2**40)  # the thread is never asked
    sender.send_until(100 * STEPS)
    assert 0 < log_bytes(sender.database) < 8 * FOLD < Path(sender.database.name).stat().st_size
    assert folded(sender.database) > 80 * STEPS


def test_a_reader_keeps_its_moment_while_the_log_is_folded_in(sender: Sender) -> None:
    sender.send()
    with sender.database.read() as transaction:
        (before,) = transaction.segments.received([1]).values()
        sender.send_until(30 * STEPS)
        (after,) = transaction.segments.received([1]).values()
    assert list(before) == list(after) == [(0, STEPS)]
    sender.send_until(60 * STEPS)
    eventually(lambda: folded(sender.database) > STEPS, 10, "nothing is in the way any more")


def test_a_reader_that_is_nearly_always_there_does_not_let_the_log_grow(sender: Sender) -> None:
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.03):
            with sender.database.read() as transaction:
                transaction.segments.received([1])
                done.wait(0.03)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        while sender.sent < 200 * STEPS:
            sender.send()
            done.wait(0.003)  # so that there are hundreds of gaps
    finally:
        done.set()
        reader.join()
    assert log_bytes(sender.database) < 10 * FOLD < Path(sender.database.name).stat().st_size


def test_what_rows_and_indexes_take_in_the_log_is_learnt(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions without a blob, each of some pages: far more than was thought at first."""
    monkeypatch.setattr(folding, "MOST_BYTES", 2**40)  # no transaction sees to it
    folding_of(sender.database)._pages_bytes = 2.0**15

    def write(times: int) -> int:
        longest = 0
        for _ in range(times):
            with sender.database.begin() as transaction:
                for table in ("launches", "ranks"):
                    transaction.connection.exec_driver_sql(f"UPDATE {table} SET opened_at = opened_at + 1")
                transaction.connection.exec_driver_sql("UPDATE runs SET started_at = started_at + 1")
            threading.Event().wait(0.001)  # the thread gets its turn
            longest = max(longest, log_bytes(sender.database))
        return longest

    assert write(200) > 2.5 * FOLD
    eventually(lambda: write(1) < 2.5 * FOLD, 30, "it has been folded in, and begun anew")
    assert write(600) < 2.5 * FOLD


def test_nothing_is_folded_in_while_a_transaction_is_open(sender: Sender) -> None:
    """SQLite would refuse, and the pool would then roll the transaction back."""
    sender.send()
    with sender.database.begin() as transaction:
        transaction.connection.exec_driver_sql("UPDATE runs SET ended_at = 7.0")
        ask_to_fold(sender.database)
        threading.Event().wait(0.2)  # long enough for a thread that does not wait for its turn
        assert folded(sender.database) == 0
    eventually(lambda: folded(sender.database) > 0, 10, "it is the thread's turn")
    with sender.database.read() as transaction:
        assert transaction.connection.exec_driver_sql("SELECT ended_at FROM runs").scalar_one() == 7.0


def test_a_fold_that_found_no_room_is_tried_again_though_nobody_writes(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender.send()
    with monkeypatch.context() as full:
        failures = failing(full, sqlite3.SQLITE_FULL)
        ask_to_fold(sender.database)
        eventually(lambda: len(failures) > 1, 10, "it is tried again and again")
    eventually(lambda: folded(sender.database) > 0, 10, "until there is room")


def test_a_log_that_a_killed_server_has_left_counts(sender: Sender, tmp_path: Path) -> None:
    sender.send_until(5 * STEPS)
    source, copy = Path(sender.database.name), tmp_path / "copy" / "seismograd.db"
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{source}{suffix}", f"{copy}{suffix}")
    left = copy.with_name("seismograd.db-wal").stat().st_size
    with Database.open(f"sqlite:///{copy}", owner="test") as database:
        assert folded(database) == 0, "not while it is opened, when nobody would hear of a failure"
        ask_to_fold(database, FOLD - left)
        eventually(lambda: folded(database) == 5 * STEPS, 10, "what was there counts as well")


@pytest.mark.parametrize("by_thread", [True, False], ids=["of the thread", "of another transaction"])
def test_a_transaction_waits_for_a_slow_fold_as_long_as_it_takes(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, *, by_thread: bool
) -> None:
    """Slow is not full: records are late, and not refused."""
    sender.send()
    checkpoint, begun, go_on = folding._checkpoint, threading.Event(), threading.Event()

    def slow(writer: Engine) -> int:
        begun.set()
        assert go_on.wait(10)
        return checkpoint(writer)

    monkeypatch.setattr(folding, "_checkpoint", slow)
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.2)
    if by_thread:
        ask_to_fold(sender.database)
        other = None
    else:
        monkeypatch.setattr(folding, "MOST_BYTES", 0)
        other = threading.Thread(target=sender.send)
        other.start()
    assert begun.wait(10)
    threading.Timer(1.0, go_on.set).start()
    with sender.database.begin() as transaction:
        transaction.connection.exec_driver_sql("UPDATE runs SET ended_at = 7.0")
    if other is not None:
        other.join()
    assert sender.stored() == sender.sent


def test_a_failed_sync_of_the_thread_is_the_end_of_writing(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = failing(monkeypatch, sqlite3.SQLITE_IOERR_FSYNC)

    def refused() -> bool:
        try:
            sender.send()
        except StorageError as error:
            assert "look at the kernel's log, then restart the server" in str(error)  # noqa: PT017 (any of many may be it)
            return True
        return False

    eventually(refused, 30, "the failure reaches a transaction")
    monkeypatch.undo()
    with pytest.raises(StorageError, match="the disk failed"):
        sender.database.check()
    with pytest.raises(StorageError, match="the disk failed"):
        sender.send()
    assert len(failures) == 1, "a second try could succeed without having written"
    assert sender.stored() == sender.sent
    log = log_bytes(sender.database)
    sender.database.close()
    assert folded(sender.database) == 0, "nor is it tried when the last connection is closed"
    assert log_bytes(sender.database) == log
    with Database.open(f"sqlite:///{sender.database.name}", owner="the next server") as sender.database:
        assert sender.stored() == sender.sent


def test_a_failed_sync_that_nobody_has_heard_of_is_not_tried_again_either(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender.send()
    failures = failing(monkeypatch, sqlite3.SQLITE_IOERR_FSYNC)
    ask_to_fold(sender.database)
    eventually(lambda: failures, 10, "the thread has tried")
    log = log_bytes(sender.database)
    sender.database.close()
    assert folded(sender.database) == 0
    assert log_bytes(sender.database) == log


def test_a_log_that_finds_no_room_is_tried_again_and_refuses_what_would_not_fit(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        failures = failing(full, sqlite3.SQLITE_FULL)
        with pytest.raises(StorageBusyError, match="the disk is full"):
            sender.send_until(100 * STEPS)
        assert failures
    sender.database.check()
    sender.send()
    assert sender.stored() == sender.sent
    assert folded(sender.database) > 0


def test_the_thread_ends_with_the_database(database_path: Path) -> None:
    def threads() -> int:
        return sum(each.name == "seismograd-folding" for each in threading.enumerate())

    before = threads()
    with Database.open(f"sqlite:///{database_path}", owner="test"):
        assert threads() == before + 1
    assert threads() == before
