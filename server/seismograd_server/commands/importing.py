"""`seismograd import`: runs that other tools have logged, judged as if a job had sent them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from seismograd_server.commands import output
from seismograd_server.commands.failures import Command
from seismograd_server.commands.remote import Remote, json_option, run_path, server_url_option
from seismograd_server.display.text import plural, printable
from seismograd_server.errors import SeismogradError, UsageError
from seismograd_server.model import RunKey
from seismograd_server.transfer.assembling import ImportedRun, assemble
from seismograd_server.transfer.delivery import Delivery
from seismograd_server.transfer.formats import FORMATS, read_log
from seismograd_server.transfer.recognising import recognise

# The project of a run whose log names none.
_PROJECT = "imported"
_ALERTS = 100


@click.command("import", cls=Command)
@click.argument("source", metavar="FORMAT", type=click.Choice(FORMATS))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--project", help="Project of the run; by default the log's own, or `imported`.")
@click.option("--run", help="Name of the run; by default the log's own, or that of its file.")
@click.option("--source-run", help="Which run, in a file that holds several (neptune).")
@click.option(
    "--map",
    "mappings",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Which column is what: grad_norm, loss, learning_rate, loss_scale, clip_threshold, clip_coefficient, "
    "step_seconds, or layer:NAME. May be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be imported.")
@click.option(
    "--server",
    "address",
    envvar="SEISMOGRAD_SERVER",
    default="127.0.0.1:7450",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the server takes records.",
)
@server_url_option
@json_option
def import_log(
    *,
    source: str,
    path: Path,
    project: str | None,
    run: str | None,
    source_run: str | None,
    mappings: tuple[str, ...],
    dry_run: bool,
    address: str,
    server_url: str,
    as_json: bool,
) -> None:
    """Import a run that another tool has logged: FORMAT at PATH.

    \b
    tensorboard    an event file, or the folder of a run
    wandb          an offline run file (run-*.wandb), or its folder; exports are csv, jsonl or parquet
    trainer-state  trainer_state.json of Hugging Face's Trainer
    neptune        a Parquet export
    csv, jsonl, parquet   a row a step
    trace          a trace file of `rules backtest`

    The detectors judge it as if it ran now, and nobody is notified. To repeat an import stores nothing twice; after
    one that was cut off, or over a log that has grown, it goes on where it was.
    """  # noqa: D301 (click's mark for lines that are not to be filled)
    log = read_log(source, path, source_run)
    found = assemble(log, recognise(log.columns, _mapping(mappings)), _modified(path))
    key = RunKey(project or found.project or _PROJECT, run or found.name)
    if not as_json:
        _describe(found, key)
    sent = 0
    alerts: list[dict[str, Any]] | None = None
    if not dry_run:
        with _progress(found) as progress, Delivery(address) as delivery:
            task = progress.add_task("records", total=found.count)
            sent = delivery.send(found, key, source, lambda done: progress.update(task, completed=done))
        alerts = _alerts(server_url, key)
    if as_json:
        output.print_json(_summary(found, key, sent, alerts, dry_run=dry_run))
    elif not dry_run:
        _report(found, key, sent, alerts)


def _mapping(mappings: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for each in mappings:
        wanted, equals, column = each.partition("=")
        if not equals or not wanted or not column:
            raise UsageError(f"--map {each}: write FIELD=COLUMN, for example grad_norm=train/gnorm")
        found[wanted] = column
    return found


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _progress(run: ImportedRun) -> Progress:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = TextColumn(f"{run.count:,} steps"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _describe(run: ImportedRun, key: RunKey) -> None:
    steps = f"steps {run.steps[0]:,} to {run.steps[-1]:,}"
    click.echo(f"{printable(str(key))}: {plural(run.count, 'record')}, {steps}")
    fields = {column: wanted for column, wanted in run.used.items() if not wanted.startswith("layer:")}
    for column, wanted in fields.items():
        click.echo(f"  {wanted} from {printable(column)}")
    if run.layers:
        click.echo(f"  gradient norms of {plural(len(run.layers), 'layer')}")
    for note in run.notes:
        click.echo(f"  note: {printable(note)}")
    left = [*run.unknown, *(f"{name} ({kind})" for name, kind in run.unreadable.items())]
    if left:
        shown = ", ".join(printable(each) for each in left[:20])
        more = f" and {len(left) - 20:,} more" if len(left) > 20 else ""
        click.echo(f"  not taken: {shown}{more}; say with --map what a column is")


def _alerts(server_url: str, key: RunKey) -> list[dict[str, Any]] | None:
    """What was found; None when the pages of the server cannot be reached, which is no reason to fail."""
    try:
        with Remote(server_url) as remote:
            answer = remote.json("GET", f"{run_path(key)}/alerts", params={"limit": _ALERTS})
    except SeismogradError:
        return None
    found: list[dict[str, Any]] = answer["alerts"]
    return found


def _report(run: ImportedRun, key: RunKey, sent: int, alerts: list[dict[str, Any]] | None) -> None:
    there = run.count - sent
    already = f", {plural(there, 'record')} had been there" if there else ""
    click.echo(f"{plural(sent, 'record')} imported{already}.")
    for alert in reversed(alerts or []):
        click.echo(f"  {alert['severity']} {alert['signature']} at step {alert['opened_step']:,}: {alert['reason']}")
    if alerts == []:
        click.echo("  no alert")
    click.echo(f"Look at it: seismograd postmortem {printable(str(key))}")


def _summary(
    run: ImportedRun, key: RunKey, sent: int, alerts: list[dict[str, Any]] | None, *, dry_run: bool
) -> dict[str, Any]:
    return {
        "project": key.project,
        "run": key.run,
        "records": run.count,
        "imported": sent,
        "dry_run": dry_run,
        "first_step": int(run.steps[0]),
        "last_step": int(run.steps[-1]),
        "layers": list(run.layers),
        "columns": dict(run.used),
        "unknown": list(run.unknown),
        "unreadable": dict(run.unreadable),
        "notes": list(run.notes),
        "alerts": alerts,
    }
