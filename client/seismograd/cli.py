"""The program's entry: finds the server's commands where they are installed, and turns every failure into one line.

Exit codes: 0 success, 1 failure, 2 usage; a command may return another number (`check` does).
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from seismograd.options import debug_requested, watched_environment

_PROGRAM = "seismograd"
ENTRY_POINT_GROUP = "seismograd.commands"

# What the server brings, so that its absence can be explained by name.
SERVER_COMMANDS = frozenset(
    {
        "serve",
        "demo",
        "runs",
        "alerts",
        "ask",
        "check",
        "silence",
        "postmortem",
        "clip",
        "rules",
        "import",
        "export",
        "top",
        "schema",
        "doctor",
    }
    | {"token", "db"}
)


class Program(click.Group):
    """The commands of the client and, when it is installed, those of the server."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._found: dict[str, click.Command] | None = None
        self._missing: str | None = None  # why the server's commands cannot be had

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self._server_commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        return super().get_command(ctx, cmd_name) or self._server_commands().get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; fails with the nearest name, or with what has to be installed."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            if name in SERVER_COMMANDS and self._missing is not None:
                raise click.ClickException(
                    f'{name!r} needs the server ({self._missing}): pip install "seismograd[server]"'
                )
            known = {*self.list_commands(ctx), *(SERVER_COMMANDS if self._missing is not None else ())}
            # A command of a group that was called without it: `compare` for `runs compare`.
            grouped = [f"{group} {name}" for group in known if name in self._inside(ctx, group)]
            nearest = grouped[:1] or difflib.get_close_matches(name, sorted(known), n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else " `seismograd --help` lists the commands."
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx=ctx)
        return super().resolve_command(ctx, args)

    def _inside(self, ctx: click.Context, name: str) -> list[str]:
        group = self.get_command(ctx, name)
        return group.list_commands(ctx) if isinstance(group, click.Group) else []

    def _server_commands(self) -> dict[str, click.Command]:
        if self._found is None:
            self._found = {}
            self._missing = "it is not installed"
            for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
                try:
                    commands: Sequence[click.Command] = entry_point.load()
                except ModuleNotFoundError as error:
                    self._missing = f"{error.name} is not installed"
                    continue
                self._missing = None
                self._found.update({command.name: command for command in commands if command.name})
        return self._found


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="seismograd", prog_name="seismograd")
def program() -> None:
    """A seismograph for training runs."""


# What follows the name of the program is the program's, whatever it looks like.
@program.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--project", help="Groups runs. Default: SEISMOGRAD_PROJECT, else 'default'.")
@click.option("--run", help="Name of the run. Default: SEISMOGRAD_RUN, else made of the script and the launch.")
@click.option("--server", help="host:port. Default: SEISMOGRAD_SERVER, else localhost:7450.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_watched(project: str | None, run: str | None, server: str | None, command: tuple[str, ...]) -> None:
    """Watch a training script that knows nothing of it: seismograd run -- python train.py --epochs 3."""
    environment = watched_environment(project=project, run=run, server=server)
    try:
        # In our place, not under us: its exit code is ours, and signals reach it themselves.
        os.execvpe(command[0], command, environment)  # noqa: S606 - without a shell on purpose
    except OSError as error:
        raise click.ClickException(f"cannot start {command[0]!r}: {error.strerror or error}") from error


@program.command("sync")
@click.argument(
    "folder", metavar="[DIR]", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--server", help="host:port. Default: SEISMOGRAD_SERVER, else where the job would have sent its records.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def sync(folder: Path | None, server: str | None, as_json: bool) -> int:
    """Deliver what dead jobs have left in the spool DIR; default: this user's own."""
    from seismograd.synchronising import synchronise  # noqa: PLC0415 - gRPC takes a while to import; the others need none

    return synchronise(folder, server, as_json=as_json)


@program.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a SHELL complete commands, options and names of runs.

    \b
    bash: eval "$(seismograd completion bash)"   in ~/.bashrc
    zsh:  eval "$(seismograd completion zsh)"    in ~/.zshrc
    fish: seismograd completion fish > ~/.config/fish/completions/seismograd.fish
    """  # noqa: D301 (click wants the character itself)
    kind = get_completion_class(shell)
    if kind is None:  # a click that knows fewer shells than the newest
        raise click.ClickException(f"the installed click cannot complete in {shell}")
    click.echo(kind(program, {}, _PROGRAM, f"_{_PROGRAM.upper()}_COMPLETE").source())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program and exits."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the program. Returns the exit code; failures are one line on stderr, unless SEISMOGRAD_DEBUG=1."""
    try:
        result = program.main(arguments, prog_name=_PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted")
    except BrokenPipeError:
        # The reader (`head`, a pager) has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001  # the last stop: nobody is shown a traceback that they did not ask for
        if debug_requested():
            traceback.print_exc()
        return _fail(describe(error), error.exit_code if isinstance(error, click.ClickException) else 1)
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int = 1) -> int:
    click.echo(f"Error: {message}", err=True)
    return code


def describe(error: BaseException) -> str:
    """One line for people. Errors of ours speak for themselves; of others, the type is part of the message."""
    if isinstance(error, click.ClickException):
        text = error.format_message()
    elif any(kind.__name__ == "SeismogradError" for kind in type(error).__mro__):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error} (SEISMOGRAD_DEBUG=1 shows where)"
    return " ".join(text.split())


if __name__ == "__main__":
    main()
