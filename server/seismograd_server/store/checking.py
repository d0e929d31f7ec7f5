"""A whole database looked through: the file's own structure, where it has one, and every payload in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.engine import make_url

from seismograd_server.errors import StorageError, UsageError
from seismograd_server.store import backup
from seismograd_server.store.database import looking_into
from seismograd_server.store.migrate import check_revision, current_revision
from seismograd_server.store.schema import runs
from seismograd_server.store.verifying import DamagedPayload, verify


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at, and what is damaged."""

    name: str
    revision: str
    runs: int
    size_bytes: int
    payloads: int
    damaged: Sequence[DamagedPayload]


def check_database(url: str) -> Checked:
    """Look through a database, which a server may have.

    Raises:
        StartError: it is of a newer program, or cannot be reached.
        UsageError: it is of an older program, or there is none.
        StorageError: its very structure is damaged, or it is no database of ours.
    """
    with looking_into(url) as engine:  # says what is wrong with the URL
        address = make_url(url)
        if address.get_backend_name() == "sqlite":
            if not address.database:
                raise UsageError("a temporary database has no file: give --data-dir")
            backup.check(Path(address.database))
        name = address.database or ""
        with engine.begin() as connection:
            revision = current_revision(connection)
            if revision is None:
                raise StorageError(f"{name} is no database of seismograd")
            head = check_revision(revision, name)
            if revision != head:
                raise UsageError(
                    f"{name} has schema revision {revision}: bring it to {head} with `seismograd db upgrade`, "
                    "then check it"
                )
            known = connection.scalar(select(func.count()).select_from(runs)) or 0
            if engine.dialect.name == "postgresql":
                size = connection.scalar(text("SELECT pg_database_size(current_database())")) or 0
            else:
                size = Path(name).stat().st_size
        found = verify(engine)
    return Checked(name, revision, known, size, found.payloads, found.damaged)
