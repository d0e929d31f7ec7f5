"""What commands print: tables for people, JSON for programs. Nothing that a client sent is read as markup."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seismograd_server.display.numbers import figure
from seismograd_server.display.text import printable

STYLES = {
    "critical": "bold red",
    "failed": "red",
    "warning": "yellow",
    "lost": "yellow",
    "info": "blue",
    "running": "green",
    "finished": "green",
}


def print_json(values: Any) -> None:
    """Values as one line of JSON."""
    click.echo(json.dumps(values))


def word(text: str) -> Text:
    """A state or severity in its colour."""
    return Text(text, style=STYLES.get(text, ""))


def name(text: str) -> Text:
    """A name from outside, with nothing in it that moves the cursor or colours the line."""
    return Text(printable(text))


def number(value: Any) -> str:
    """A number of the API for a table; it may be a string ("NaN") or nothing."""
    return value if isinstance(value, str) else figure(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[Text | str]], right: Sequence[str] = ()) -> None:
    """Print a table; the columns named in `right` are numbers."""
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    console().print(drawn)


def console() -> Console:
    """The terminal; as wide as needed when it is none, so that a pipe sees whole lines."""
    drawn = Console(highlight=False)
    return drawn if drawn.is_terminal else Console(highlight=False, width=200)
