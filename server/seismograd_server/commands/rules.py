"""`seismograd rules`: what is looked for, and what it would have found."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import get_args

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Group
from seismograd_server.commands.remote import json_option, server_url_option
from seismograd_server.commands.since import Since
from seismograd_server.display.text import printable
from seismograd_server.transfer.trace_blocks import Columns


@click.group(cls=Group)
def rules() -> None:
    """What is looked for, and what it would have found."""


@rules.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check_rules(file: Path, as_json: bool) -> None:
    """Say what is wrong with a FILE of rules; exit code 1 when something is."""
    from seismograd_server.rules.file import read_rules  # noqa: PLC0415 (other commands need no detectors)
    from seismograd_server.rules.parse import RulesError  # noqa: PLC0415 (likewise)

    problems: tuple[str, ...] = ()
    try:
        read_rules(file)
    except RulesError as error:
        problems = error.problems
    if as_json:
        output.print_json({"file": str(file), "ok": not problems, "problems": problems})
    elif not problems:
        click.echo(f"{file}: these rules can be used.")
    for problem in problems if not as_json else ():
        click.echo(f"{file}: {printable(problem)}", err=True)
    if problems:
        click.get_current_context().exit(1)


@rules.command("defaults")
def print_defaults() -> None:
    """Print a file of rules with every key, its default and its reason: a beginning for your own."""
    from seismograd_server.rules.schema import documented_defaults  # noqa: PLC0415 (as above)

    click.echo(documented_defaults(), nl=False)


@rules.command("backtest")
@click.option(
    "--rules", "file", type=click.Path(path_type=Path), metavar="FILE", help="Rules, instead of the defaults."
)
@click.option("--project", help="Stored runs: only of this project.")
@click.option(
    "--since", type=Since(), metavar="WHEN", help="Stored runs: only those that went on since (7d, 12h, a date)."
)
@click.option(
    "--traces", type=click.Path(path_type=Path), metavar="DIR", help="A folder of trace files (.npz) instead."
)
@click.option(
    "--alerts-out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Traces: write what fires as JSON lines: run_id, step, kind (the signature), severity and more.",
)
@click.option(
    "--columns", type=click.Choice(get_args(Columns)), default="all", show_default=True, help="Traces: see these."
)
@click.option(
    "--thin",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="K",
    help="Traces: see the sampled columns (weight, update and local norms) every K steps only, as clients ship them.",
)
@server_url_option
@json_option
def backtest_rules(
    *,
    file: Path | None,
    project: str | None,
    since: datetime | None,
    traces: Path | None,
    alerts_out: Path | None,
    columns: Columns,
    thin: int,
    server_url: str,
    as_json: bool,
) -> None:
    """Show what rules would have found, in the runs that a server has stored or in a folder of trace files.

    The detectors see one step after the other, as they do live: what fires at a step uses nothing behind it. A run
    that cannot be read is named; the others are looked at all the same, and the exit code is 1 at the end. For
    overrides in the rules, a trace is a run of the project that its folder is called.
    """
    from seismograd_server.commands.backtest import over_stored_runs, over_traces  # noqa: PLC0415 (as above)
    from seismograd_server.rules.file import read_rules  # noqa: PLC0415 (as above)
    from seismograd_server.rules.ruleset import Rules  # noqa: PLC0415 (as above)

    if traces is None and alerts_out is not None:
        raise click.UsageError("--alerts-out goes with --traces.")
    found = Rules() if file is None else read_rules(file)
    if traces is not None:
        over_traces(traces, found, alerts_out, columns, thin, as_json=as_json)
    else:
        text = "" if file is None else file.read_text(encoding="utf-8")
        over_stored_runs(server_url, text, project, since, as_json=as_json)
