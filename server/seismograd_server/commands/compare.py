"""`seismograd runs compare`: runs side by side."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Command
from seismograd_server.commands.remote import Remote, complete_runs, json_option, server_url_option
from seismograd_server.display.text import printable
from seismograd_server.errors import UsageError
from seismograd_server.model import RunKey

_LONGEST_REASON = 60


@click.command("compare", cls=Command)
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True, shell_complete=complete_runs)
@click.option(
    "--align",
    type=click.Choice(["step", "progress"]),
    default="step",
    show_default=True,
    help="Hold the same steps against each other, or the same shares of each run's way.",
)
@server_url_option
@json_option
def compare(*, runs: tuple[str, ...], align: str, server_url: str, as_json: bool) -> None:
    """Compare two RUNs or more: what they were given differently, what they alerted of, and where they part.

    Every run is held against the first one. Curves part at the first step from which they stay apart by more than
    three times their own noise, in octaves.
    """
    if len(runs) < 2:
        raise UsageError("runs compare needs two runs at least: `seismograd runs list` shows those there are")
    with Remote(server_url) as remote:
        keys = [remote.find(run) for run in runs]
        query = [("run", _escaped(key)) for key in keys]
        answer = remote.json("GET", f"/api/v1/compare?{urlencode([*query, ('align', align)])}")
        url = f"{remote.url}/compare?{urlencode([*query, ('align', align)])}"
    if as_json:
        output.print_json(answer)
        return
    for pair in answer["partings"]:
        click.echo(printable(pair["sentence"]))
    names = [f"{run['project']}/{run['run']}" for run in answer["runs"]]
    click.echo()
    _print_runs(answer["runs"])
    click.echo()
    if answer["differences"]:
        _print_differences(answer["differences"], names)
    else:
        click.echo("Nothing differs in what they were given: configuration, tags and surroundings are the same.")
    for note in answer["notes"]:
        click.echo(f"- {printable(note)}")
    click.echo(printable(url))


def _escaped(key: RunKey) -> str:
    """Either part with its slashes escaped, so that there is one place to cut."""
    if "/" in f"{key.project}{key.run}" or "%" in f"{key.project}{key.run}":
        return f"{quote(key.project, safe='')}/{quote(key.run, safe='')}"
    return str(key)


def _print_runs(runs: list[dict[str, Any]]) -> None:
    output.table(
        ["run", "state", "severity", "steps", "ranks", "alerts"],
        [
            [
                output.name(f"{run['project']}/{run['run']}"),
                output.word(run["state"]),
                output.word(run["severity"] or "–"),
                f"{run['closed_steps']:,}",
                f"{run['world_size']}",
                output.name(_alerts(run["alerts"])),
            ]
            for run in runs
        ],
        right=["steps", "ranks"],
    )


def _alerts(alerts: list[dict[str, Any]]) -> str:
    return ", ".join(f"{each['signature']} at {each['opened_step']:,}" for each in alerts) or "none"


def _print_differences(differences: list[dict[str, Any]], names: list[str]) -> None:
    output.table(
        ["what differs", *(output.name(name).plain for name in names)],
        [
            [
                output.name(each["key"] if each["kind"] == "configuration" else f"{each['kind']} {each['key']}"),
                *(output.name("not set" if value is None else value[:_LONGEST_REASON]) for value in each["values"]),
            ]
            for each in differences
        ],
    )
