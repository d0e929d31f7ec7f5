"""`seismograd db`: the database itself."""

from __future__ import annotations

from pathlib import Path

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Group
from seismograd_server.commands.remote import json_option


@click.group(cls=Group)
def db() -> None:
    """The database."""


@db.command("upgrade")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML configuration.")
@click.option("--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where the data are.")
@click.option("--database-url", metavar="URL", help="Database, instead of SQLite in the data directory.")
@json_option
def upgrade(config: Path | None, data_dir: Path | None, database_url: str | None, as_json: bool) -> None:
    """Bring the schema up to date. `serve` does the same when it starts; the server must not be running."""
    # Reading settings and opening stores takes a second that `seismograd runs list` should not wait for.
    from seismograd_server.config import load_settings  # noqa: PLC0415 - as above
    from seismograd_server.store.database import Database  # noqa: PLC0415 - as above

    settings = load_settings(config, data_dir=data_dir, database_url=database_url)
    with Database.open(settings.database, owner="seismograd db upgrade") as database:
        name, size = database.name, database.size_bytes()
    if as_json:
        output.print_json({"database": name, "upgraded": True, "size_bytes": size})
    else:
        click.echo(f"{name}: the schema is up to date ({size:,} bytes).")
