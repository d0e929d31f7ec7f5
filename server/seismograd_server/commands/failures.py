"""How a command fails: one line on stderr that names the thing and the fix, exit code 1; usage errors are click's."""

from __future__ import annotations

from typing import Any

import click

from seismograd_server.errors import SeismogradError


class Command(click.Command):
    """A command whose known failures are one line, whoever runs it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; an error of ours becomes click's, which prints `Error: ...` and exits with 1."""
        try:
            return super().invoke(ctx)
        except SeismogradError as error:
            raise click.ClickException(" ".join(str(error).split())) from error


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
