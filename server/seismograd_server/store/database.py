"""The database: opening, migrating and locking it, its one writer and its concurrent readers.

    open: lock -> connections -> migrations -> epoch + 1
    begin: the writer's turn -> BEGIN -> the epoch's row, locked: still ours? -> body -> commit
    read: a connection of its own -> BEGIN -> body on one snapshot

Every write transaction locks the row of the epoch first. So they follow one another, whoever runs them: numbers of rows
rise in the order of commits, a server that takes over waits for the last transaction of the one before, and a
commit whose answer got lost has either happened or never will when the next transaction looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Self

from sqlalchemy import Connection, Engine, bindparam, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from seismograd_server.errors import (
    DatabaseAwayError,
    StartError,
    StorageBusyError,
    StorageError,
    StorageFencedError,
    StorageUncertainError,
    without_frames,
)
from seismograd_server.store.backend import BUSY_SECONDS, Backend
from seismograd_server.store.damage import DamageLog
from seismograd_server.store.migrate import migrate
from seismograd_server.store.postgresql import PostgresqlBackend
from seismograd_server.store.schema import server_epoch
from seismograd_server.store.sqlite import SqliteBackend
from seismograd_server.store.transaction import Transaction

__all__ = ["Database", "Durability", "Transaction", "look_at", "looking_into"]

Durability = Literal["process", "power"]


class Database:
    """The store of one server. Make it with `open`; safe to use from several threads."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self.kind = backend.kind
        self.revisions: tuple[str | None, str] = (None, "")  # of the schema, before it was opened and since
        self.damage = DamageLog()  # what its readers have found
        self._backend = backend
        self._errors = backend.errors
        self._epoch = 0
        self._uncertain = False  # whether a commit's answer got lost, and no transaction has been begun since
        self._closed = False
        self._refusal = ""  # why nothing may be written any more

    @classmethod
    def open(cls, url: str, *, owner: str, durability: Durability = "process", standby: bool = False) -> Database:
        """Open a database, create its tables where there are none, and bring its schema up to date.

        Args:
            url: `sqlite:///relative/path.db` or `sqlite:////absolute/path.db`; `sqlite://` is a temporary database
                that is gone when it is closed. `postgresql://user:password@host:port/database`, which must exist.
            owner: who opens it, for the message that a second server gets; for example "seismograd serve".
            durability: what an acknowledgement survives.
            standby: also take it from a server that is not dead but has been silent for too long.

        Raises:
            DatabaseTakenError: another server has it.
            DatabaseAwayError: it does not answer, or somebody locks it.
            StartError: the URL is not understood, the directory is not writable, or the database's
                schema is newer than this program.
        """
        address = _parse(url)
        try:
            database = cls(_open(address, owner, durability, standby=standby))
            try:
                database._start(owner)
            except BaseException:
                database.close()
                raise
        except StorageBusyError as error:
            raise DatabaseAwayError(str(error)) from error
        except (StorageError, OSError) as error:
            raise StartError(str(error)) from error
        return database

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        """A write transaction, committed at the end of the block and rolled back when the block raises.

        One at a time over all threads; do not begin another one inside it.

        Raises:
            StorageBusyError: busy or full or away now; the same transaction may succeed later.
            StorageUncertainError: it may have been committed: read again what there is before you write it again.
            StorageFencedError: another server has opened the database since.
            StorageError: anything else.
        """
        if not self._backend.take_turn(BUSY_SECONDS):
            raise StorageBusyError(f"database {self.name}: another transaction has not ended for {BUSY_SECONDS:g} s")
        committing = False
        try:
            self.check()
            self._backend.before_transaction()
            with self._backend.writer.begin() as connection:
                self._check_epoch(connection)
                self._uncertain = False
                yield Transaction(connection, self.damage)
                committing = True
            self._backend.after_commit()
        except self._errors as error:
            raise self._translate(error, committing=committing) from without_frames(error)
        finally:
            self._backend.turn.release()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read-only transaction on one snapshot, concurrent with everything else; keep it short.

        Raises:
            StorageBusyError: too many readers at once, or away now.
            StorageError: anything else.
        """
        if self._closed:
            raise StorageError(self._refusal)
        if self._uncertain:
            with self.begin():
                pass  # what may still be under way ends before this begins
        try:
            with self._backend.reader.begin() as connection:
                yield Transaction(connection, self.damage)
        except self._errors as error:
            raise self._translate(error) from without_frames(error)

    def watch(self, on_lost: Callable[[StorageError], None]) -> None:
        """From now on tell, at most once and from another thread, when another server has taken the database over."""
        self._backend.watch(self._epoch, on_lost)

    def check(self) -> None:
        """Raises StorageError when nothing may be written any more: the disk has failed, or this is closed."""
        if self._refusal:
            raise StorageError(self._refusal)

    def writable(self) -> bool:
        """Whether a small transaction can be committed now.

        Raises:
            StorageFencedError: another server has opened the database since.
            StorageError: nothing may be written any more, because the disk has failed to make a commit durable.
        """
        try:
            with self.begin() as transaction:
                transaction.connection.execute(update(server_epoch).values(owner=server_epoch.c.owner))
        except StorageFencedError:
            raise
        except StorageError:
            if self._refusal:
                raise
            return False
        return True

    def reclaim(self, max_bytes: int = 64 * 2**20, *, keep_bytes: int = 0) -> int:
        """Give pages that deletions have freed back to the file system, and tell how many bytes that were.

        Bounded, because it holds up the writer; call again while it returns something. So much as `keep_bytes` of free
        pages stays in the file for what is written next. PostgreSQL needs no such call (its autovacuum lets the space
        be used again) and returns 0.
        """
        with self.begin() as transaction:
            return self._backend.reclaim(transaction.connection, max_bytes, keep_bytes)

    def size_bytes(self) -> int:
        """Bytes on disk. Raises StorageError."""
        try:
            return self._backend.size_bytes()
        except self._errors as error:
            raise self._translate(error) from error

    def free_bytes(self) -> int | None:
        """Free bytes on the volume under the database; None = that cannot be known from here."""
        return self._backend.free_bytes()

    def close(self) -> None:
        """Close every connection and give the lock back; may be called twice. Nothing can be read or written after."""
        self._closed = True
        self._refusal = f"database {self.name} is closed"
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self, owner: str) -> None:
        try:
            with self._backend.writer.begin() as connection:
                self.revisions = migrate(connection, self.name)
                # Waits for whatever transaction of another server is still under way.
                self._epoch = connection.scalars(_SELECT_EPOCH, {"one": 1}).one() + 1
                connection.execute(update(server_epoch).values(epoch=self._epoch, owner=owner))
        except self._errors as error:
            raise self._translate(error) from error

    def _check_epoch(self, connection: Connection) -> None:
        current = connection.scalar(_SELECT_EPOCH, {"one": 1})
        if current != self._epoch:
            raise StorageFencedError(
                f"database {self.name}: another server has taken it over (epoch {current}, ours is {self._epoch}): "
                "this server must exit"
            )

    def _translate(self, error: Exception, *, committing: bool = False) -> StorageError:
        translated = self._backend.translate(error, committing=committing)
        if self._backend.is_final(error):
            self._refusal = str(translated)
            self._backend.abandon()
        self._uncertain |= isinstance(translated, StorageUncertainError)
        return translated


# SQLite has no row locks and needs none: there BEGIN IMMEDIATE has locked the whole database, and this says nothing.
_SELECT_EPOCH = select(server_epoch.c.epoch).where(server_epoch.c.row == bindparam("one")).with_for_update()


def look_at(url: str) -> str:
    """One line on a database that could be opened: which it is, and who has it. Takes nothing and changes nothing.

    Raises:
        StartError: it could not be opened by a server here; says why not.
    """
    address = _parse(url)
    if address.get_backend_name() == "postgresql":
        try:
            return PostgresqlBackend.look_at(address)
        except StorageError as error:
            raise StartError(str(error)) from error
    return SqliteBackend.look_at(address)


@contextmanager
def looking_into(url: str) -> Iterator[Engine]:
    """Read-only connections to a database that a server may have; takes nothing, and waits for nobody.

    Raises:
        StartError: it cannot be reached from here.
        StorageError: reading failed.
    """
    address = _parse(url)
    backend = PostgresqlBackend if address.get_backend_name() == "postgresql" else SqliteBackend
    with backend.looking_into(address) as engine:
        yield engine


def _open(address: URL, owner: str, durability: Durability, *, standby: bool) -> Backend:
    if address.get_backend_name() == "postgresql":
        return PostgresqlBackend.open(address, owner=owner, durability=durability, standby=standby)
    return SqliteBackend.open(address, owner=owner, durability=durability, standby=standby)


def _parse(url: str) -> URL:
    known = "sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    try:
        address = make_url(url)
    except (ArgumentError, ValueError) as error:
        # The URL itself may hold a password: it is not repeated.
        raise StartError(f"database_url cannot be read: write {known}") from error
    if address.get_backend_name() not in {"sqlite", "postgresql"}:
        raise StartError(
            f"database_url names {address.get_backend_name()!r}, which this version cannot use: write {known}"
        )
    return address
