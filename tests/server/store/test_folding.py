"""The write-ahead log of SQLite is folded into the database between transactions, and its failures are heard."""

from __future__ import annotations

import collections
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from seismograd_server.errors import StorageBusyError, StorageError
from seismograd_server.model import RankIdentity, StepBatch
from seismograd_server.store import folding
from seismograd_server.store.database import Database
from tests.support.processes import eventually

FOLD = 2**20
STEPS = 4_000  # of a batch


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


def failing(monkeypatch: pytest.MonkeyPatch, code: int) -> list[int]:
    """From now on every checkpoint fails with that result; the list gets one more of it each time."""
    failures: list[int] = []

    def fail(_folding: object, *_: object) -> None:
        failures.append(code)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(folding, "_checkpoint", fail)
    return failures


def test_a_long_log_is_folded_in_while_nobody_writes(sender: Sender) -> None:
    sender.send()
    assert folded(sender.database) == 0, "a short one stays where it is"

    while sender.sent < 10 * STEPS:
        sender.send()

    eventually(lambda: folded(sender.database) > 0, 10, "the thread has had the writer's turn")
    assert sender.stored() == sender.sent


def test_a_log_far_too_long_is_folded_in_by_the_next_transaction(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "FOLD_BYTES", 2**40)  # the thread is never asked
    while sender.sent < 100 * STEPS:
        sender.send()
    assert 0 < log_bytes(sender.database) < 8 * FOLD < Path(sender.database.name).stat().st_size
    assert folded(sender.database) > 80 * STEPS


def test_a_reader_keeps_its_moment_while_the_log_is_folded_in(sender: Sender) -> None:
    sender.send()
    with sender.database.read() as transaction:
        (before,) = transaction.segments.received([1]).values()
        while sender.sent < 20 * STEPS:
            sender.send()
        (after,) = transaction.segments.received([1]).values()
    assert list(before) == list(after) == [(0, STEPS)]
    while sender.sent < 40 * STEPS:
        sender.send()
    eventually(lambda: folded(sender.database) > STEPS, 10, "nothing is in the way any more")


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


def test_a_log_that_finds_no_room_is_tried_again_and_refuses_what_would_not_fit(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        failures = failing(full, sqlite3.SQLITE_FULL)
        with pytest.raises(StorageBusyError, match="the disk is full"):
            collections.deque(iter(sender.send, "never"), maxlen=0)
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
