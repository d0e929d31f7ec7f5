"""`seismograd db`: the database itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Group
from seismograd_server.commands.remote import json_option
from seismograd_server.display.text import printable
from seismograd_server.errors import StorageError, UsageError


@click.group(cls=Group)
def db() -> None:
    """The database."""


def located(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which database."""
    for option in (
        click.option("--database-url", metavar="URL", help="Database, instead of SQLite in the data directory."),
        click.option("--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where the data are."),
        click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML configuration."),
    ):
        command = option(command)
    return command


@db.command("upgrade")
@located
@json_option
def upgrade(config: Path | None, data_dir: Path | None, database_url: str | None, as_json: bool) -> None:
    """Bring the schema up to date. `serve` does the same when it starts; the server must not be running.

    There is no way back but a backup: make one first, with `seismograd db backup`.
    """
    # Reading settings and opening stores takes a second that `seismograd runs list` should not wait for.
    from seismograd_server.config import load_settings  # noqa: PLC0415 - as above
    from seismograd_server.store.database import Database  # noqa: PLC0415 - as above

    settings = load_settings(config, data_dir=data_dir, database_url=database_url)
    with Database.open(settings.database, owner="seismograd db upgrade") as database:
        name, size, (before, after) = database.name, database.size_bytes(), database.revisions
    if as_json:
        answer = {"database": name, "upgraded": True, "size_bytes": size, "from_revision": before, "revision": after}
        output.print_json(answer)
    elif before == after:
        click.echo(f"{name}: the schema was up to date already, at revision {after} ({size:,} bytes).")
    else:
        click.echo(f"{name}: the schema went from {before or 'nothing'} to revision {after} ({size:,} bytes).")


@db.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
@located
@json_option
def backup(file: Path, config: Path | None, data_dir: Path | None, database_url: str | None, as_json: bool) -> None:
    """Copy the database to FILE as it is at one moment; the server goes on meanwhile. Overwrites nothing."""
    from seismograd_server.store.backup import back_up  # noqa: PLC0415 - as above

    source = _file(config, data_dir, database_url, "pg_dump --format=custom --file=FILE")
    shown = sys.stderr.isatty() and not as_json

    def progress(done: int, total: int) -> None:
        if shown:
            click.echo(f"\r{done * 100 // max(1, total)} %", nl=done == total, err=True)

    condition = back_up(source, file, progress)
    if as_json:
        output.print_json({"database": str(source), "backup": str(file), **_facts(condition)})
    else:
        click.echo(f"{file}: {_told(condition)}, checked.")


@db.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Also when there is a database; it is kept under another name.")
@located
@json_option
def restore(
    file: Path, *, force: bool, config: Path | None, data_dir: Path | None, database_url: str | None, as_json: bool
) -> None:
    """Put the backup FILE in the database's place; the server must not be running."""
    from seismograd_server.store import backup as backups  # noqa: PLC0415 - as above

    target = _file(config, data_dir, database_url, "pg_restore --clean")
    condition, aside = backups.restore(file, target, force=force)
    if as_json:
        answer = {"database": str(target), "replaced": None if aside is None else str(aside), **_facts(condition)}
        output.print_json(answer)
        return
    click.echo(f"{target}: {_told(condition)}, restored from {file}.")
    if aside is not None:
        click.echo(f"What was there before is {aside}: delete it when you are content.")


@db.command("check")
@located
@json_option
def check(config: Path | None, data_dir: Path | None, database_url: str | None, as_json: bool) -> None:
    """Look through the whole database for damage, and decode all that is stored; the server may be running.

    Exit code 1 when something is damaged: named by project, run, rank and steps. What cannot be read is left out
    wherever the run is shown; all else is as it was.
    """
    from seismograd_server.config import load_settings  # noqa: PLC0415 - as above
    from seismograd_server.store.checking import check_database  # noqa: PLC0415 - as above

    found = check_database(load_settings(config, data_dir=data_dir, database_url=database_url).database)
    if as_json:
        output.print_json(
            {
                "database": found.name,
                "sound": not found.damaged,
                "revision": found.revision,
                "runs": found.runs,
                "size_bytes": found.size_bytes,
                "payloads": found.payloads,
                "damaged": [asdict(each) for each in found.damaged],
            }
        )
    for each in () if as_json else found.damaged:
        whose = f"{each.project}/{each.run}" + ("" if each.rank is None else f", rank {each.rank}")
        click.echo(printable(f"{whose}, steps {each.first_step:,} to {each.last_step:,}: {each.reason}"))
    if found.damaged:
        raise StorageError(
            f"{found.name}: {len(found.damaged):,} of {found.payloads:,} stored payloads are damaged: restore a "
            "backup, or go on without the steps named"
        )
    if not as_json:
        click.echo(
            f"{found.name}: sound; {found.payloads:,} payloads of {found.runs:,} runs, {found.size_bytes:,} bytes, "
            f"schema revision {found.revision}."
        )


def _file(config: Path | None, data_dir: Path | None, database_url: str | None, instead: str) -> Path:
    """The file of the SQLite database that is meant.

    Raises:
        UsageError: it is another kind of database, which has tools of its own.
    """
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - as above
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415 - as above

    from seismograd_server.config import load_settings  # noqa: PLC0415 - as above

    url = load_settings(config, data_dir=data_dir, database_url=database_url).database
    try:
        address = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UsageError("database_url cannot be read: write sqlite:///PATH") from error
    if address.get_backend_name() == "postgresql":
        raise UsageError(f"this database is PostgreSQL, which has its own tools: use `{instead}`")
    if not address.database:
        raise UsageError("a temporary database has no file: give --data-dir")
    return Path(address.database)


def _facts(condition: Any) -> dict[str, Any]:
    return {"revision": condition.revision, "runs": condition.runs, "size_bytes": condition.size_bytes}


def _told(condition: Any) -> str:
    return f"{condition.runs:,} runs, {condition.size_bytes:,} bytes, schema revision {condition.revision}"
