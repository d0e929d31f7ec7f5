"""Backing a SQLite database up while a server writes to it, and putting a backup in a database's place.

    back_up: one snapshot -> FILE.part -> checked -> FILE
    restore: lock -> FILE and its log checked -> a copy of both as one file, with a higher epoch
             -> what was there is put aside -> the copy in its place

Neither ever overwrites anything, and neither leaves something half done under the name that counts.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from seismograd_server.errors import ConflictError, NotFoundError, StorageError, UsageError
from seismograd_server.store import sqlite_failures
from seismograd_server.store.lock import ServerLock
from seismograd_server.store.migrate import check_revision

# Copied between two looks at the progress: some tens of megabytes.
_PAGES_AT_ONCE = 2048
_FILES = ("-wal", "-shm", "")  # the database itself last: without it the others mean nothing
_LOGS = ("-wal", "-journal")  # what a process that was killed has left beside a database, and belongs to it


@dataclass(frozen=True, slots=True)
class Condition:
    """What a look at a database file finds.

    Attributes:
        revision: of its schema.
        epoch: how often servers have opened it.
        runs: how many there are.
        size_bytes: of the file.
    """

    revision: str
    epoch: int
    runs: int
    size_bytes: int


def back_up(database: Path, target: Path, progress: Callable[[int, int], None]) -> Condition:
    """Copy a database as it is at one moment, whatever a server does to it meanwhile.

    Args:
        database: the file, which must exist.
        target: where the copy is to be; there must be nothing.
        progress: hears how many pages are done, of how many.

    Raises:
        NotFoundError: there is no database, or no directory for the backup.
        ConflictError: there is something at `target`.
        UsageError: either of them is a directory.
        StorageError: the database is damaged, or the copy cannot be written.
    """
    if not database.exists():
        raise NotFoundError(f"there is no database {database}: give another data directory")
    _see_file(database)
    _see_file(target)
    if target.exists():
        raise ConflictError(f"{target} exists already: a backup overwrites nothing, give it another name")
    if not target.parent.is_dir():
        raise NotFoundError(f"there is no directory {target.parent} for the backup: make it first")
    part = target.with_name(target.name + ".part")
    with _told_of(f"{database}, while it is copied to {target}"), _removed(part):
        with _opened(database, "mode=rw") as source, _snapshot(source):
            _copy(source, part, progress)
        condition = check(part)
        _sync(part)
        try:
            os.link(part, target)
        except FileExistsError as error:
            raise ConflictError(f"{target} has come to be meanwhile: give the backup another name") from error
        _sync(target.parent)
        return condition


def restore(backup: Path, database: Path, *, force: bool) -> tuple[Condition, Path | None]:
    """Put a backup in the place of a database.

    Its epoch is raised above that of every server which ever had either of them, so that none of these can write.

    Args:
        backup: made by `back_up`, or any copy of a database that nobody writes to, with the write-ahead log that a
            server which was killed has left beside it. Neither is changed.
        database: where it is to be.
        force: also when there is a database, which is kept under another name.

    Returns:
        what is there now, and where what was there is.

    Raises:
        NotFoundError: there is no such backup.
        UsageError: it is a directory.
        ConflictError: there is a database, and `force` is not given.
        StartError: a server has the database, or the backup is of a newer program.
        StorageError: the backup is damaged, or the copy cannot be written.
    """
    if not backup.exists():
        raise NotFoundError(f"there is no file {backup}")
    _see_file(backup)
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = ServerLock.acquire(
        database.with_name(database.name + ".lock"), owner="seismograd db restore", database=str(database)
    )
    part = database.with_name(database.name + ".part")
    with contextlib.ExitStack() as held, _told_of(str(backup)), _removed(part):
        held.callback(lock.release)
        if database.exists() and not force:
            raise ConflictError(f"database {database} exists: --force puts it aside and the backup in its place")
        with _opened_unchanged(backup) as source, _snapshot(source):
            _look_through(source, backup)
            with _told_of(f"{database}, while {backup} is copied to it"):
                _copy(source, part, lambda _done, _total: None)
        with _opened(part, "mode=rw") as copy:
            copy.execute("UPDATE server_epoch SET epoch = max(epoch, ?) + 1, owner = 'restored'", [_epoch(database)])
        condition = check(part)
        _sync(part)
        aside = _put_aside(database)
        part.replace(database)
        _sync(database.parent)
        return condition, aside


def check(path: Path) -> Condition:
    """Look through a whole database file.

    Raises:
        StartError: it is of a newer program.
        UsageError: it is a directory.
        StorageError: it is damaged, or it is no database of ours.
    """
    _see_file(path)
    with _told_of(str(path)), _opened(path, "mode=ro") as connection:
        return _look_through(connection, path)


def _look_through(connection: sqlite3.Connection, path: Path) -> Condition:
    """See `check`."""
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    if found != ["ok"]:
        raise StorageError(f"{path} is damaged: {found[0]}")
    revision = _revision(connection)
    if revision is None:
        raise StorageError(f"{path} is no database of seismograd")
    check_revision(revision, str(path))
    epoch = connection.execute("SELECT epoch FROM server_epoch").fetchone()[0]
    runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
    return Condition(revision, epoch, runs, path.stat().st_size)


def _copy(source: sqlite3.Connection, part: Path, progress: Callable[[int, int], None]) -> None:
    """Copy what a connection sees, its log included, to one file that can be carried away."""
    with _opened(part, "mode=rwc") as copy:
        source.backup(copy, pages=_PAGES_AT_ONCE, progress=lambda _, left, total: progress(total - left, total))
        copy.execute("PRAGMA journal_mode = DELETE")


def _put_aside(database: Path) -> Path | None:
    """Rename what is in a database's place, with its write-ahead log; where it is then."""
    if not database.exists():
        for suffix in _FILES[:-1]:  # a log without its database would be taken for one of the next
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        return None
    number = 1
    while (aside := database.with_name(f"{database.name}.replaced-{number}")).exists():
        number += 1
    for suffix in _FILES:
        source = database.with_name(database.name + suffix)
        if source.exists():
            source.rename(aside.with_name(aside.name + suffix))
    return aside


def _epoch(database: Path) -> int:
    """The epoch of what is in a database's place; 0 when there is nothing, or nothing that can be read."""
    if not database.exists():
        return 0
    try:
        with _opened(database, "mode=rw") as connection:
            return int(connection.execute("SELECT epoch FROM server_epoch").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return 0


def _revision(connection: sqlite3.Connection) -> str | None:
    """The revision of the schema; None when the database was not made by our migrations."""
    # Not by Alembic: it wants a connection of its own kind, whose URL would have to name the file a second time.
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone() is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _see_file(path: Path) -> None:
    """Refuse what is there and cannot be a database, of which SQLite would say that the disk has failed."""
    if path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "no regular file"
        raise UsageError(f"{path} is {kind}: give the path of a file")


@contextlib.contextmanager
def _opened(path: Path, query: str) -> Iterator[sqlite3.Connection]:
    """A connection to a file, whatever characters are in its name; `query` is that of SQLite's URI."""
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?{query}", uri=True)) as connection:
        connection.isolation_level = None
        yield connection


@contextlib.contextmanager
def _opened_unchanged(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees a file that nobody writes to with its log, and changes neither."""
    real = path.resolve()  # where SQLite looks for the log
    has_log = any(real.with_name(real.name + suffix).exists() for suffix in _LOGS)
    # To read a log SQLite makes an index beside it. Without one it need not, so that the file can be on a read-only
    # medium: "immutable" tells it so, and would have it overlook a log.
    with _opened(real, "mode=ro" if has_log else "mode=ro&immutable=1") as connection:
        yield connection


@contextlib.contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """One moment of a database: its copy never has to begin anew when a server writes, and is what was looked at."""
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    yield
    connection.execute("ROLLBACK")


@contextlib.contextmanager
def _removed(part: Path) -> Iterator[None]:
    """Nothing unfinished is left, neither of an earlier try nor of this one."""
    part.unlink(missing_ok=True)
    try:
        yield
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            part.with_name(part.name + suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def _told_of(name: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise sqlite_failures.translate(error, name) from error
    except OSError as error:
        raise UsageError(f"{error.filename or name}: {error.strerror}: give another path") from error


def _sync(path: Path) -> None:
    """Have the disk keep a file, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
