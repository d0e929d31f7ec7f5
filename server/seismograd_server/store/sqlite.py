"""What is particular to SQLite: the file and its lock, connections, pragmas, giving pages back.

WAL mode. Durability "process" survives the death of every process at any moment; "power" also the loss of power.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, StaticPool, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from seismograd_server.errors import StartError, StorageError
from seismograd_server.store import folding, sqlite_failures
from seismograd_server.store.backend import BUSY_SECONDS, READERS
from seismograd_server.store.folding import LogFolding
from seismograd_server.store.lock import ServerLock

# A compromise: larger pages halve the cost of large payloads, smaller ones that of the small rows around them. Beside
# 16 KiB, this takes a few per cent more messages a second, however many steps are in each; 64 KiB take no more.
_PAGE_BYTES = 32_768


class SqliteBackend:
    """A file that this process has locked; see `Backend`."""

    kind = "sqlite"
    errors: tuple[type[Exception], ...] = (SQLAlchemyError, sqlite3.Error)  # the latter while a connection is made

    def __init__(self, path: Path, durability: str, stack: ExitStack) -> None:
        self.name = str(path)
        self._path = path
        self._abandoned = False
        self.writer: Engine = _writer_engine(path, durability)
        stack.callback(self.writer.dispose)
        self.reader: Engine = _reader_engine(path)
        stack.callback(self.reader.dispose)
        self.turn = threading.Lock()
        self._folding = LogFolding(self.writer, self.turn, path)
        self._stack = stack.pop_all()

    @classmethod
    def open(cls, address: URL, *, owner: str, durability: str, standby: bool) -> SqliteBackend:  # noqa: ARG003 (the kernel gives a dead server's lock away, and nobody can take a living one's)
        """Lock the file of `sqlite:///PATH`, or a temporary one for `sqlite://`; see `Database.open`.

        Raises:
            DatabaseTakenError: another process has it.
            StartError: the directory cannot be made or is not writable.
        """
        with ExitStack() as stack:
            path = _place(address, stack)
            lock = ServerLock.acquire(path.with_name(path.name + ".lock"), owner=owner, database=str(path))
            stack.callback(lock.release)
            return cls(path, durability, stack)

    @staticmethod
    def look_at(address: URL) -> str:
        """See `database.look_at`."""
        path = Path(address.database or "").resolve()
        nearest = next(each for each in (path, *path.parents) if each.exists())
        if not os.access(nearest, os.W_OK):
            raise StartError(f"database {path}: {nearest} is not writable: give another path or its permission")
        return f"SQLite, {path} {'is writable' if nearest == path else 'can be made'}"

    @staticmethod
    @contextmanager
    def looking_into(address: URL) -> Iterator[Engine]:
        """See `database.looking_into`."""
        path = Path(address.database or "").resolve()
        engine = _reader_engine(path)
        try:
            yield engine
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise sqlite_failures.translate(error, str(path)) from error
        finally:
            engine.dispose()

    def translate(self, error: Exception, *, committing: bool) -> StorageError:  # noqa: ARG002 (a failed commit here is none)
        """See `Backend`."""
        return sqlite_failures.translate(error, self.name)

    def is_final(self, error: Exception) -> bool:
        """After a failed fsync: what the next one says of it would be a lie."""
        return sqlite_failures.is_sync_failure(error)

    def abandon(self) -> None:
        """Keep SQLite from folding the log in when the last connection is closed, which would be a second try.

        So a connection is left open until the process ends; Python before 3.12 cannot switch that off.
        """
        if not self._abandoned:
            with contextlib.suppress(sqlite3.Error):  # then it has no lock, and the disk is worse off than we can help
                connection = sqlite3.connect(self._path, check_same_thread=False)
                connection.execute("SELECT 1 FROM sqlite_master").fetchall()  # takes the lock that a last one must have
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
                self._abandoned = True

    def watch(self, epoch: int, on_lost: Callable[[StorageError], None]) -> None:
        """Nothing to watch: the kernel keeps the lock for as long as this process lives."""

    def take_turn(self, seconds: float) -> bool:
        """See `Backend`."""
        return self._folding.take_turn(seconds)

    def before_transaction(self) -> None:
        """See to it that the write-ahead log has room."""
        self._folding.before_transaction()

    def after_commit(self) -> None:
        """Have the write-ahead log folded in when it is long."""
        self._folding.after_commit()

    def reclaim(self, connection: Connection, max_bytes: int, keep_bytes: int) -> int:
        """Return up to `max_bytes` of free pages beyond `keep_bytes`; the number of bytes returned."""
        page_bytes = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
        before = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        spare = before - keep_bytes // page_bytes
        if spare <= 0:
            return 0
        # The pragma frees a page per row, and Python's driver stops at the first row of a statement without columns:
        # so it is asked page by page, some 50 us each.
        cursor = connection.connection.cursor()
        for _ in range(min(spare, max(1, max_bytes // page_bytes))):
            cursor.execute("PRAGMA incremental_vacuum(1)")
        cursor.close()
        after = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        freed = int(before - after) * int(page_bytes)
        self._folding.expect(freed)  # for each page that goes, the last one of the file takes its place
        return freed

    def size_bytes(self) -> int:
        """Bytes on disk: the database and its write-ahead log."""
        files = (self._path, self._path.with_name(self._path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def free_bytes(self) -> int | None:
        """Free bytes on the volume under the file."""
        return shutil.disk_usage(self._path.parent).free

    def close(self) -> None:
        """Close every connection and give the lock back."""
        self._folding.close()
        if self._folding.failed:  # whether or not anybody has heard of it
            self.abandon()
        self._stack.close()


def _place(address: URL, stack: ExitStack) -> Path:
    """Where the file is to be, in a directory that exists."""
    if not address.database or address.database == ":memory:":
        # A real file: a database in memory has other rules for locks and snapshots, and tests would prove nothing.
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="seismograd-"))
        return Path(directory) / "seismograd.db"
    path = Path(address.database).resolve()  # one lock, by whatever path it is reached
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(
            f"database {path}: its directory cannot be made ({error.strerror}): give another data directory"
        ) from error
    return path


def _writer_engine(path: Path, durability: str) -> Engine:
    """The engine behind the one writer; every transaction takes the write lock when it begins."""
    synchronous = "FULL" if durability == "power" else "NORMAL"

    def prepare(connection: Any) -> None:
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # see `folding`; before anything that may write
        # These two count only before the first table is made.
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        # What is deleted is overwritten where its page stays in use; whole pages leave the file by `reclaim`.
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute(f"PRAGMA journal_size_limit = {folding.MOST_BYTES}")

    engine = create_engine(
        _url(path), poolclass=StaticPool, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}
    )
    _install(engine, prepare, "BEGIN IMMEDIATE")
    return engine


def _reader_engine(path: Path) -> Engine:
    """The engine behind the readers: each transaction sees one snapshot and cannot write."""

    def prepare(connection: Any) -> None:
        connection.execute("PRAGMA query_only = ON")

    engine = create_engine(
        _url(path),
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )
    _install(engine, prepare, "BEGIN")
    return engine


def _url(path: Path) -> URL:
    return URL.create("sqlite", database=str(path))


def _install(engine: Engine, prepare: Callable[[Any], None], begin: str) -> None:
    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        prepare(connection)

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
