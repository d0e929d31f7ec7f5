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
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Engine, event

from seismograd_server.store.sqlite_failures import is_sync_failure, translate

_log = structlog.get_logger(__name__)

# Each time takes two syncs, and pages that were written meanwhile again are copied once; readers stay fast.
FOLD_BYTES = 24 * 2**20
# So much more may come before it is the thread's turn; then the next transaction sees to it, and its client waits. Also
# the most that the file keeps when the log begins anew, so that a larger file means a longer log.
MOST_BYTES = 2 * FOLD_BYTES
# What a transaction adds to the log beside its blobs, until that is known: pages of the rows and indexes it changes.
_PAGES_BYTES = 2**18
# A disk that was full or failed to write is tried again after this.
_RETRY_SECONDS = 1.0
# Where the file says which log it holds: a number and two salts, others whenever it begins anew
# (https://sqlite.org/walformat.html).
_WHICH = slice(12, 24)


class LogFolding:
    """The log behind one writing engine, whose transactions hold `turn`.

    Raises, from `before_transaction` and `fold`:
        sqlite3.Error: the log cannot be folded in; after a failed sync always the same.
    """

    def __init__(self, writer: Engine, turn: threading.Lock, path: Path) -> None:
        self._writer = writer
        self._turn = turn
        self._path = path.with_name(path.name + "-wal")
        self._name = str(path)
        # What has been committed since the log was last folded in; whoever has the turn changes it.
        self._blob_bytes = self._file_bytes()  # to begin with, what a server that was killed has left
        self._commits = 0
        self._pages_bytes = float(_PAGES_BYTES)  # of a commit, as it was lately
        self._which, self._length = b"", 0  # of the log then
        self._failure: Exception | None = None  # the sync that failed
        self._bounds = 0  # of all foldings: how many have begun, and how many have ended; odd while one lasts
        self._due = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seismograd-folding", daemon=True)
        event.listen(writer, "before_cursor_execute", self._count)
        self._thread.start()

    def take_turn(self, seconds: float) -> bool:
        """Wait for the writer's turn, at most so long while nothing is folded in: a slow disk is not a stuck writer."""
        bounds = self._bounds
        while not self._turn.acquire(timeout=seconds):
            before, bounds = bounds, self._bounds
            if bounds == before and not bounds % 2:
                return False
        return True

    def before_transaction(self) -> None:
        """Make sure that the log can take another one."""
        if self._failure is not None:
            raise self._failure
        if self._file_bytes() > MOST_BYTES:
            self.fold()

    def after_commit(self) -> None:
        """Have the log folded in soon if it is long."""
        self._commits += 1
        if self._is_long():
            self._due.set()

    def expect(self, size: int) -> None:
        """So many bytes of pages come into the log beside what statements bring."""
        self._blob_bytes += size

    def fold(self) -> None:
        """Fold in all that no reader needs where it is; the caller has the turn."""
        self._bounds += 1
        try:
            length = _checkpoint(self._writer)
        except Exception as error:
            self._failure = error if is_sync_failure(error) else None
            raise
        finally:
            self._bounds += 1
        if length < 0:  # somebody else is folding
            return
        which = self._file_head()[_WHICH]
        grown = length - self._length if which == self._which else length
        if self._commits and grown >= self._blob_bytes:  # else some of these were rolled back, or never in it
            self._pages_bytes = (grown - self._blob_bytes) / self._commits
        self._which, self._length = which, length
        self._blob_bytes = self._commits = 0

    @property
    def failed(self) -> bool:
        """Whether a sync has failed, so that nothing may be written any more."""
        return self._failure is not None

    def close(self) -> None:
        """End the thread; may be called twice."""
        self._ending.set()
        self._due.set()
        self._thread.join()

    def _is_long(self) -> bool:
        return self._blob_bytes + self._commits * self._pages_bytes >= FOLD_BYTES

    def _file_bytes(self) -> int:
        with contextlib.suppress(OSError):  # nothing has been written yet
            return self._path.stat().st_size
        return 0

    def _file_head(self) -> bytes:
        with contextlib.suppress(OSError), self._path.open("rb") as file:  # then it is taken for another log
            return file.read(_WHICH.stop)
        return b""

    def _count(
        self, _connection: object, _cursor: object, _statement: str, parameters: Any, _context: object, _many: bool
    ) -> None:
        rows = parameters if isinstance(parameters, list) else (parameters,)
        self._blob_bytes += sum([len(value) for row in rows for value in row if type(value) is memoryview])

    def _run(self) -> None:
        while self._due.wait() and not self._ending.is_set():
            self._due.clear()
            try:
                self._fold_in_turn()
            except Exception as error:  # noqa: BLE001 (whatever it is, the next transaction meets it, or the next try does not)
                _log.warning("the write-ahead log could not be folded in", reason=str(translate(error, self._name)))
                self._ending.wait(_RETRY_SECONDS)
                self._due.set()

    def _fold_in_turn(self) -> None:
        while not self._turn.acquire(timeout=_RETRY_SECONDS):
            if self._ending.is_set():
                return
        try:
            if not self.failed and self._is_long():
                self.fold()
        finally:
            self._turn.release()


def _checkpoint(writer: Engine) -> int:
    """Fold in what can be; how many bytes of pages the log has, folded in or not, since it last began anew.

    Negative = nothing could be folded in.
    """
    with contextlib.closing(writer.raw_connection()) as connection:
        cursor = connection.cursor()
        (page_bytes,) = cursor.execute("PRAGMA page_size").fetchone()
        _, pages, _ = cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages) * int(page_bytes)
