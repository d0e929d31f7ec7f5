"""Bringing a database's schema up to date by the migrations that travel inside the package."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from seismograd_server.errors import StartError

_MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(connection: Connection, name: str) -> tuple[str | None, str]:
    """Run the migrations that are missing, in the caller's transaction: all of them or none.

    Returns:
        the schema's revision before (None = the database was empty), and after.

    Raises:
        StartError: the schema was made by a newer program.
    """
    config = _config()
    config.attributes["connection"] = connection
    current = current_revision(connection)
    head = check_revision(current, name)
    if current != head:
        command.upgrade(config, "head")
    return current, head


def check_revision(revision: str | None, name: str) -> str:
    """See that a schema's revision is one that this program knows, and tell its newest.

    Raises:
        StartError: the schema was made by a newer program.
    """
    scripts = ScriptDirectory.from_config(_config())
    head = str(scripts.get_current_head())
    if revision is not None and revision not in {script.revision for script in scripts.walk_revisions()}:
        raise StartError(
            f"database {name} was made by a newer program (schema revision {revision}, this one knows up to "
            f"{head}): upgrade this program, or give it another data directory"
        )
    return head


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def current_revision(connection: Connection) -> str | None:
    """The schema revision that the database is at; None = it is empty."""
    return MigrationContext.configure(connection).get_current_revision()
