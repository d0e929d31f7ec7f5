"""The database: opening, migrating and locking it, its one writer and its concurrent readers.

    open: directory -> lock file -> pragmas -> migrations -> epoch + 1
    begin: the writer's turn -> BEGIN IMMEDIATE -> epoch unchanged? -> body -> commit
    read: a connection of its own -> BEGIN -> body on one snapshot

SQLite in WAL mode. Durability "process" survives the death of every process at any moment; "power" also the
loss of power.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, Self

from sqlalchemy import Connection, Engine, bindparam, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from seismograd_server.errors import StartError, StorageBusyError, StorageError, StorageFencedError
from seismograd_server.store import failures
from seismograd_server.store.lock import ServerLock
from seismograd_server.store.migrate import migrate
from seismograd_server.store.schema import server_epoch
from seismograd_server.store.sqlite import reader_engine, reclaim, writer_engine
from seismograd_server.store.transaction import Transaction

__all__ = ["Database", "Durability", "Transaction"]

Durability = Literal["process", "power"]

# How long a write waits for the other writing thread, and SQLite for another process (a backup, somebody's shell).
# Longer than the slowest transaction that is healthy, shorter than a client's patience with an ack.
_BUSY_SECONDS = 5.0


class Database:
    """The store of one server. Make it with `open`; safe to use from several threads."""

    def __init__(self, name: str, path: Path, durability: Durability, stack: ExitStack) -> None:
        self.name = name
        self._path = path
        self._stack = stack
        self._writer: Engine = writer_engine(path, durability, _BUSY_SECONDS)
        stack.callback(self._writer.dispose)
        self._reader: Engine = reader_engine(path, _BUSY_SECONDS)
        stack.callback(self._reader.dispose)
        self._turn = threading.Lock()
        self._epoch = 0
        self._closed = False
        self._refusal = ""  # why nothing may be written any more

    @classmethod
    def open(cls, url: str, *, owner: str, durability: Durability = "process") -> Database:
        """Open a database, create it where there is none, and bring its schema up to date.

        Args:
            url: `sqlite:///relative/path.db` or `sqlite:////absolute/path.db`; `sqlite://` is a temporary database
                that is gone when it is closed.
            owner: who opens it, for the message that a second server gets; for example "seismograd serve".
            durability: what an acknowledgement survives.

        Raises:
            StartError: the URL is not understood, the directory is not writable, another server has the database,
                or its schema is newer than this program.
        """
        address = _parse(url)
        with ExitStack() as stack:
            try:
                path = _place(address, stack)
                lock = ServerLock.acquire(path.with_name(path.name + ".lock"), owner=owner, database=str(path))
                stack.callback(lock.release)
                database = cls(str(path), path, durability, stack)
                database._start(owner)
            except (StorageError, OSError) as error:
                raise StartError(str(error)) from error
            database._stack = stack.pop_all()
            return database

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        """A write transaction, committed at the end of the block and rolled back when the block raises.

        One at a time over all threads; do not begin another one inside it.

        Raises:
            StorageBusyError: busy or full now; the same transaction may succeed later.
            StorageFencedError: another server has opened the database since.
            StorageError: anything else.
        """
        if not self._turn.acquire(timeout=_BUSY_SECONDS):
            raise StorageBusyError(f"database {self.name}: another transaction has not ended for {_BUSY_SECONDS:g} s")
        try:
            if self._refusal:
                raise StorageError(self._refusal)
            with self._translated(), self._writer.begin() as connection:
                self._check_epoch(connection)
                yield Transaction(connection)
        finally:
            self._turn.release()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read-only transaction on one snapshot, concurrent with everything else; keep it short.

        Raises:
            StorageBusyError: too many readers at once.
            StorageError: anything else.
        """
        if self._closed:
            raise StorageError(self._refusal)
        with self._translated(), self._reader.begin() as connection:
            yield Transaction(connection)

    def reclaim(self, max_bytes: int = 64 * 2**20) -> int:
        """Give pages that deletions have freed back to the file system, and tell how many bytes that were.

        Bounded, because it holds up the writer; call again while it returns something.
        """
        with self.begin() as transaction:
            return reclaim(transaction.connection, max_bytes)

    def size_bytes(self) -> int:
        """Bytes on disk: the database and its write-ahead log."""
        files = (self._path, self._path.with_name(self._path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def free_bytes(self) -> int:
        """Free bytes on the volume under the database."""
        return shutil.disk_usage(self._path.parent).free

    def close(self) -> None:
        """Close every connection and give the lock back; may be called twice. Nothing can be read or written after."""
        self._closed = True
        self._refusal = f"database {self.name} is closed"
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self, owner: str) -> None:
        with self._translated(), self._writer.begin() as connection:
            migrate(connection, self.name)
            self._epoch = connection.scalars(select(server_epoch.c.epoch)).one() + 1
            connection.execute(update(server_epoch).values(epoch=self._epoch, owner=owner))

    def _check_epoch(self, connection: Connection) -> None:
        current = connection.scalar(_SELECT_EPOCH, {"one": 1})
        if current != self._epoch:
            raise StorageFencedError(
                f"database {self.name}: another server has taken it over (epoch {current}, ours is {self._epoch}): "
                "this server must exit"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:  # the latter from a connection that is being made
            translated = failures.translate(error, self.name)
            if failures.is_sync_failure(error):
                self._refusal = str(translated)
            raise translated from error


_SELECT_EPOCH = select(server_epoch.c.epoch).where(server_epoch.c.row == bindparam("one"))


def _parse(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError as error:
        # The URL itself may hold a password: it is not repeated.
        raise StartError("database_url cannot be read: write sqlite:///PATH") from error
    if address.get_backend_name() != "sqlite":
        raise StartError(
            f"database_url names {address.get_backend_name()!r}, which this version cannot use: write sqlite:///PATH"
        )
    return address


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
