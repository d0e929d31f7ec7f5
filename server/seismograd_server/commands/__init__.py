"""The server's commands of the program `seismograd`; the client's program mounts them by entry point."""

from __future__ import annotations

import click

from seismograd_server.commands.alerts import alerts
from seismograd_server.commands.database import db
from seismograd_server.commands.doctor import doctor
from seismograd_server.commands.postmortem import postmortem
from seismograd_server.commands.runs import runs
from seismograd_server.commands.serve import serve

COMMANDS: list[click.Command] = [serve, runs, alerts, postmortem, doctor, db]
