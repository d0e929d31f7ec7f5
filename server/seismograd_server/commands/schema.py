"""`seismograd schema`: what commands print with --json, as JSON schemas; they stand in schemas.json beside this."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import click

from seismograd_server.commands.failures import Command
from seismograd_server.display.text import nearest
from seismograd_server.errors import UsageError

_FILE = Path(__file__).with_name("schemas.json")


@functools.cache
def _document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


def schema_names() -> list[str]:
    """The commands that have one, sorted."""
    return sorted(_document()["commands"])


def schema_of(command: str) -> dict[str, Any]:
    """The schema of what a command prints with --json, complete with all that it refers to.

    Raises:
        UsageError: it has none; names the nearest that has.
    """
    document = _document()
    if command not in document["commands"]:
        meant = nearest(command, schema_names())
        hint = f'did you mean "{meant}"?' if meant else "`seismograd schema` lists the commands that have one"
        raise UsageError(f'there is no schema of "{command[:80]}": {hint}')
    return {
        "$schema": document["$schema"],
        "title": f"seismograd {command} --json",
        "$defs": document["$defs"],
        **document["commands"][command],
    }


@click.command(cls=Command)
@click.argument("command", nargs=-1)
def schema(command: tuple[str, ...]) -> None:
    """Print the JSON schema of what COMMAND prints with --json: `schema runs list`. Without one, list the commands."""
    if not command:
        click.echo("\n".join(schema_names()))
    else:
        click.echo(json.dumps(schema_of(" ".join(command)), indent=2, ensure_ascii=False))
