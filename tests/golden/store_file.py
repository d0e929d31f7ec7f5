"""How the golden databases are made: filled by the store itself, shrunk, and put in their place."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

from seismograd_server.store.database import Database, Transaction


def make(target: Path, fill: Callable[[Transaction], None], source: Path | None = None) -> None:
    """Writes `target`: the database of `source`, or an empty one, brought up to date and filled."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "golden.db"
        if source is not None:
            shutil.copyfile(source, path)
        with Database.open(f"sqlite:///{path}", owner="golden") as database, database.begin() as transaction:
            fill(transaction)
        connection = sqlite3.connect(path, isolation_level=None)
        # Small pages, because most tables here have one row; a program opens whatever size it finds.
        for pragma in ("journal_mode = DELETE", "page_size = 512"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("VACUUM")
        connection.close()
        shutil.copyfile(path, target)
