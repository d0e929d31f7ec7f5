"""The server's commands of the program `seismograd`; the client's program mounts them by entry point."""

from __future__ import annotations

import click

COMMANDS: list[click.Command] = []
