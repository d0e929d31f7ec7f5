"""SQLite's write-ahead log, and when it is folded into the database: between two transactions, on a thread of its own.

    commit --enough?--> thread: the writer's turn --> checkpoint: sync the log, copy its pages, sync the database
    next transaction <--far too much, or the disk has failed?--'

SQLite would do so within a commit, whose ack then waits twice for the disk, and would keep it to itself when a sync
fails, although what was acknowledged may be lost then. Here it happens while the writer judges or waits for records,
and a failure is the next transaction's. It takes the writer's turn, and the writer's connection: that a second
connection folds while the first one commits has cost others data (the WAL-reset bug of SQLite up to 3.51.2).
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import structlog
from sqlalchemy import Engine, event

from seismograd_server.store.sqlite_failures import is_sync_failure, translate

_log = structlog.get_logger(__name__)

# Each time takes two syncs, and pages that were written meanwhile again are copied once; readers stay fast.
FOLD_BYTES = 24 * 2**20
# So much more may come before it is the thread's turn; then the next transaction sees to it, and its client waits.
MOST_BYTES = 2 * FOLD_BYTES
# What a small transaction adds to the log beside the blobs in it: the pages of the rows and indexes that it changes.
_PAGES_BYTES = 2**18
# A disk that was full or failed to write is tried again after this.
_RETRY_SECONDS = 1.0


class LogFolding:
    """The log behind one writing engine, whose transactions hold `turn`.

    Raises, from `before_transaction` and `fold`:
        sqlite3.Error: the log cannot be folded in; after a failed sync always the same.
    """

    def __init__(self, writer: Engine, turn: threading.Lock, name: str) -> None:
        self._writer = writer
        self._turn = turn
        self._name = name
        self._bytes = 0  # committed and not folded in, about; whoever has the turn changes it
        self._failure: Exception | None = None  # the sync that failed
        self._due = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seismograd-folding", daemon=True)
        event.listen(writer, "before_cursor_execute", self._count)
        self._thread.start()

    def before_transaction(self) -> None:
        """Make sure that the log can take another one."""
        if self._failure is not None:
            raise self._failure
        if self._bytes >= MOST_BYTES:
            self.fold()

    def after_commit(self) -> None:
        """Have the log folded in soon if it is long."""
        self._bytes += _PAGES_BYTES
        if self._bytes >= FOLD_BYTES:
            self._due.set()

    def fold(self) -> None:
        """Fold in all that no reader needs where it is; the caller has the turn."""
        try:
            _checkpoint(self._writer)
        except Exception as error:
            self._failure = error if is_sync_failure(error) else None
            raise
        self._bytes = 0

    def close(self) -> None:
        """End the thread."""
        self._ending.set()
        self._due.set()
        self._thread.join()

    def _count(
        self, _connection: object, _cursor: object, _statement: str, parameters: Any, _context: object, many: bool
    ) -> None:
        rows = parameters if many else (parameters,)
        self._bytes += sum([len(value) for row in rows for value in row if type(value) is memoryview])  # a blob

    def _run(self) -> None:
        while self._due.wait() and not self._ending.is_set():
            self._due.clear()
            try:
                with self._turn:
                    if self._bytes >= FOLD_BYTES and self._failure is None:
                        self.fold()
            except Exception as error:  # noqa: BLE001 (whatever it is, the next transaction meets it, or the next try does not)
                _log.warning("the write-ahead log could not be folded in", reason=str(translate(error, self._name)))
                self._ending.wait(_RETRY_SECONDS)


def _checkpoint(writer: Engine) -> None:
    with contextlib.closing(writer.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
