"""The server's commands of the program `seismograd`; the client's program mounts them by entry point."""

from __future__ import annotations

import importlib
import importlib.util

import click

from seismograd_server.commands.alerts import alerts
from seismograd_server.commands.ask import ask
from seismograd_server.commands.check import check
from seismograd_server.commands.clip import clip
from seismograd_server.commands.database import db
from seismograd_server.commands.doctor import doctor
from seismograd_server.commands.exporting import export
from seismograd_server.commands.importing import import_log
from seismograd_server.commands.postmortem import postmortem
from seismograd_server.commands.rules import rules
from seismograd_server.commands.runs import runs
from seismograd_server.commands.schema import schema
from seismograd_server.commands.serve import serve
from seismograd_server.commands.silences import silence
from seismograd_server.commands.top import top


def _demo() -> list[click.Command]:
    """The demo stands beside the commands, because it drives both packages; an image that only serves may lack it."""
    if importlib.util.find_spec("seismograd_server.demo") is None:
        return []
    command: click.Command = importlib.import_module("seismograd_server.demo").demo
    return [command]


COMMANDS: list[click.Command] = [
    serve,
    *_demo(),
    runs,
    alerts,
    silence,
    rules,
    ask,
    check,
    postmortem,
    clip,
    import_log,
    export,
    top,
    schema,
    doctor,
    db,
]
