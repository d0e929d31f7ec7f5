"""What is particular to SQLite: connections, pragmas, giving pages back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, StaticPool, create_engine, event
from sqlalchemy.engine import URL

# A compromise: larger pages halve the cost of large payloads, smaller ones that of the small rows around them.
_PAGE_BYTES = 16_384
# The write-ahead log is folded into the database when it has grown to this; readers stay fast, and a commit rarely
# pays for it.
_WAL_BYTES = 32 * 2**20
# More than the pages and commands that a person and a few scrapers keep busy; a reader in wait costs nothing else.
_READERS = 16


def writer_engine(path: Path, durability: str, busy_seconds: float) -> Engine:
    """The engine behind the one writer; every transaction takes the write lock when it begins."""
    synchronous = "FULL" if durability == "power" else "NORMAL"

    def prepare(connection: Any) -> None:
        # These two count only before the first table is made.
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_BYTES // page_bytes}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")

    engine = create_engine(
        _url(path), poolclass=StaticPool, connect_args={"timeout": busy_seconds, "check_same_thread": False}
    )
    _install(engine, prepare, "BEGIN IMMEDIATE")
    return engine


def reader_engine(path: Path, busy_seconds: float) -> Engine:
    """The engine behind the readers: each transaction sees one snapshot and cannot write."""

    def prepare(connection: Any) -> None:
        connection.execute("PRAGMA query_only = ON")

    engine = create_engine(
        _url(path),
        poolclass=QueuePool,
        pool_size=_READERS,
        max_overflow=0,
        pool_timeout=busy_seconds,
        connect_args={"timeout": busy_seconds, "check_same_thread": False},
    )
    _install(engine, prepare, "BEGIN")
    return engine


def reclaim(connection: Connection, max_bytes: int) -> int:
    """Return up to `max_bytes` of free pages to the file system; the number of bytes returned."""
    page_bytes = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    before = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    # The pragma frees a page per row, and Python's driver stops at the first row of a statement without columns: so
    # it is asked page by page, some 50 us each.
    cursor = connection.connection.cursor()
    for _ in range(min(before, max(1, max_bytes // page_bytes))):
        cursor.execute("PRAGMA incremental_vacuum(1)")
    cursor.close()
    after = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    return int(before - after) * int(page_bytes)


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
