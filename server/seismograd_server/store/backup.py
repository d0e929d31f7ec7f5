"""Backing a SQLite database up while a server writes to it, and putting a backup in a database's place.

    back_up: one snapshot -> FILE.part -> checked -> FILE
    restore: lock -> FILE checked -> a copy with a higher epoch -> what was there is put aside -> the copy in its place

Neither ever overwrites anything, and neither leaves something half done under the name that counts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from seismograd_server.errors import ConflictError, NotFoundError, StorageError, UsageError
from seismograd_server.store import sqlite_failures
from seismograd_server.store.lock import ServerLock
from seismograd_server.store.migrate import check_revision, current_revision

# Copied between two looks at the progress: some tens of megabytes.
_PAGES_AT_ONCE = 2048
_FILES = ("-wal", "-shm", "")  # the database itself last: without it the others mean nothing


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
        StorageError: the database is damaged, or the copy cannot be written.
    """
    if not database.exists():
        raise NotFoundError(f"there is no database {database}: give another data directory")
    if target.exists():
        raise ConflictError(f"{target} exists already: a backup overwrites nothing, give it another name")
    if not target.parent.is_dir():
        raise NotFoundError(f"there is no directory {target.parent} for the backup: make it first")
    part = target.with_name(target.name + ".part")
    with _told_of(f"{database}, while it is copied to {target}"), _removed(part):
        with _opened(database, "rw") as source, _opened(part, "rwc") as copy:
            # With a snapshot of its own the copy never has to begin anew, as it would when a server writes.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            source.backup(copy, pages=_PAGES_AT_ONCE, progress=lambda _, left, total: progress(total - left, total))
            source.execute("ROLLBACK")
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, that can be carried away
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
        backup: made by `back_up`, or any copy of a database that nobody writes to.
        database: where it is to be.
        force: also when there is a database, which is kept under another name.

    Returns:
        what is there now, and where what was there is.

    Raises:
        NotFoundError: there is no such backup.
        ConflictError: there is a database, and `force` is not given.
        StartError: a server has the database, or the backup is of a newer program.
        StorageError: the backup is damaged, or the copy cannot be written.
    """
    if not backup.exists():
        raise NotFoundError(f"there is no file {backup}")
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = ServerLock.acquire(
        database.with_name(database.name + ".lock"), owner="seismograd db restore", database=str(database)
    )
    part = database.with_name(database.name + ".part")
    with contextlib.ExitStack() as held, _told_of(str(backup)), _removed(part):
        held.callback(lock.release)
        if database.exists() and not force:
            raise ConflictError(f"database {database} exists: --force puts it aside and the backup in its place")
        check(backup)
        shutil.copyfile(backup, part)
        with _opened(part, "rw") as copy:
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
        StorageError: it is damaged, or it is no database of ours.
    """
    with _told_of(str(path)), _opened(path, "ro") as connection:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
        if found != ["ok"]:
            raise StorageError(f"{path} is damaged: {found[0]}")
        revision = _revision(path)
        if revision is None:
            raise StorageError(f"{path} is no database of seismograd")
        check_revision(revision, str(path))
        epoch = connection.execute("SELECT epoch FROM server_epoch").fetchone()[0]
        runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
    return Condition(revision, epoch, runs, path.stat().st_size)


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
        with _opened(database, "rw") as connection:
            return int(connection.execute("SELECT epoch FROM server_epoch").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return 0


def _revision(path: Path) -> str | None:
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    try:
        with engine.connect() as connection:
            return current_revision(connection)
    finally:
        engine.dispose()


@contextlib.contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True)) as connection:
        connection.isolation_level = None
        yield connection


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
    except (sqlite3.Error, SQLAlchemyError) as error:
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
