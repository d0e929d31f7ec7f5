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


def migrate(connection: Connection, name: str) -> None:
    """Run the migrations that are missing, in the caller's transaction: all of them or none.

    Raises:
        StartError: the schema was made by a newer program.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    current = current_revision(connection)
    scripts = ScriptDirectory.from_config(config)
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise StartError(
            f"database {name} was made by a newer program (schema revision {current}, this one knows up to "
            f"{scripts.get_current_head()}): upgrade this program, or give it another data directory"
        )
    if current != scripts.get_current_head():
        command.upgrade(config, "head")


def current_revision(connection: Connection) -> str | None:
    """The schema revision that the database is at; None = it is empty."""
    return MigrationContext.configure(connection).get_current_revision()
