"""What SQLite says of a failure, translated once to `errors.py`; each message names the database and the fix."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from seismograd_server.errors import StorageBusyError, StorageError

# Results of SQLite that pass by themselves or once an operator has made room; https://sqlite.org/rescode.html.
_TRANSIENT = {
    sqlite3.SQLITE_BUSY: "another process holds its lock: try again, or end that process",
    sqlite3.SQLITE_LOCKED: "another connection holds its lock: try again",
    sqlite3.SQLITE_FULL: "the disk is full: free some space, nothing that was acknowledged is lost",
    sqlite3.SQLITE_NOMEM: "memory is exhausted: give the server more, or lower max_inflight_bytes",
}
_LASTING = {
    sqlite3.SQLITE_READONLY: "it is read-only: give the server's user write permission on the file and its directory",
    sqlite3.SQLITE_IOERR: "the disk failed: look at the kernel's log, then restart the server",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore it from a backup, or start with another data directory",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that the directory exists and is writable",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database: give another path, or move the file away",
}
# After a failed fsync the kernel may have dropped the pages: a second try would succeed without having written them.
_SYNC_FAILURES = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
# Extended results carry the primary one in their low byte.
_PRIMARY = 0xFF


def result_code(error: BaseException) -> int:
    """SQLite's extended result code behind an error; -1 when there is none."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return int(getattr(origin, "sqlite_errorcode", -1))


def is_sync_failure(error: BaseException) -> bool:
    """Whether the disk failed to make a commit durable, so that nothing may be written any more."""
    return result_code(error) in _SYNC_FAILURES


def translate(error: Exception, name: str) -> StorageError:
    """The error of our tree for one of the library's; `name` is how people call the database."""
    if isinstance(error, PoolTimeoutError):
        return StorageBusyError(f"database {name}: too many readers at once; try again")
    code = result_code(error)
    primary = code & _PRIMARY if code >= 0 else -1
    if primary in _TRANSIENT:
        return StorageBusyError(f"database {name}: {_TRANSIENT[primary]}")
    if primary in _LASTING:
        return StorageError(f"database {name}: {_LASTING[primary]}")
    origin = error.orig if isinstance(error, DBAPIError) else error
    first_line = (str(origin).splitlines() or [""])[0]
    return StorageError(f"database {name}: {type(origin).__name__}: {first_line}")
