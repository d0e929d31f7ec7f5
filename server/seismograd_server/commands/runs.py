"""`seismograd runs`: what has been recorded."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import click

from seismograd_server.commands import output
from seismograd_server.commands.compare import compare
from seismograd_server.commands.failures import Group
from seismograd_server.commands.remote import Remote, json_option, run_argument, run_path, server_url_option
from seismograd_server.display.numbers import duration, timestamp
from seismograd_server.model import RunState


@click.group(cls=Group)
def runs() -> None:
    """Recorded runs."""


runs.add_command(compare)


@runs.command("list")
@click.option("--project", help="Only this project.")
@click.option("--state", type=click.Choice([state.value for state in RunState]), help="Only runs in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Most runs shown.")
@server_url_option
@json_option
def list_runs(project: str | None, state: str | None, limit: int, server_url: str, as_json: bool) -> None:
    """List runs, newest first."""
    with Remote(server_url) as remote:
        wanted = {"project": project, "state": state, "limit": limit}
        answer = remote.json("GET", "/api/v1/runs", params={key: value for key, value in wanted.items() if value})
        if not answer["runs"]:
            remote.require_project(project)
    if as_json:
        output.print_json(answer)
        return
    if not answer["runs"]:
        click.echo("No run yet: `seismograd demo` makes one, README.md says how to watch your own.")
        return
    output.table(
        ["run", "state", "severity", "step", "last record", "ranks", "url"],
        [_row(run, remote.url) for run in answer["runs"]],
        right=["step", "ranks"],
    )


def _row(run: dict[str, Any], server_url: str) -> list[Any]:
    last = run["last_record_at"]
    return [
        output.name(f"{run['project']}/{run['run']}"),
        output.word(run["state"]),
        output.word(run["severity"] or "–"),
        "–" if run["last_step"] is None else f"{run['last_step']:,}",
        "never" if last is None else f"{duration(max(0.0, time.time() - last))} ago",
        f"{run['world_size']}",
        output.name(_page(run["url"], server_url)),
    ]


def _page(path: str, server_url: str) -> str:
    """Where a run's page is; the server tells the path alone unless it knows its outer address."""
    return path if "://" in path else server_url + path


@runs.command("show")
@run_argument
@server_url_option
@json_option
def show_run(run: str, server_url: str, as_json: bool) -> None:
    """Show one RUN (project/run, or the run alone when its name is unique)."""
    with Remote(server_url) as remote:
        key = remote.find(run)
        answer = remote.json("GET", run_path(key))
        alerts = remote.json("GET", f"{run_path(key)}/alerts")["alerts"]
    if as_json:
        output.print_json({**answer, "alerts": alerts})
        return
    last_step = "–" if answer["last_step"] is None else f"{answer['last_step']:,}"
    rows: list[tuple[Any, Any]] = [
        ("run", output.name(str(key))),
        ("state", output.word(answer["state"])),
        ("severity", output.word(answer["severity"] or "–")),
        ("step", f"{last_step} ({answer['closed_steps']:,} closed)"),
        (
            "gradient norm",
            f"{output.number(answer['grad_norm'])} (usual {output.number(answer['grad_norm_baseline'])})",
        ),
        ("loss", output.number(answer["loss"])),
        ("ranks", f"{answer['world_size']} ({answer['strategy'] or 'strategy unknown'})"),
        ("attempts", f"{answer['attempts']}"),
        ("started", timestamp(answer["started_at"])),
        ("checkpoints", f"{len(answer['checkpoints'])}"),
        ("page", output.name(_page(answer["url"], remote.url))),
    ]
    output.table(["", ""], rows)
    if answer["directives"]:
        click.echo()
        output.table(
            ["asked for", "by", "when", "reason", "ranks"],
            [
                [
                    each["kind"],
                    output.name(each["asked_by"]),
                    timestamp(each["asked_at"]),
                    output.name(each["reason"]),
                    output.name(_answers(each["ranks"])),
                ]
                for each in answer["directives"]
            ],
        )
    if alerts:
        click.echo()
        output.table(
            ["alert", "severity", "state", "step", "reason"],
            [
                [
                    output.name(alert["signature"]),
                    output.word(alert["severity"]),
                    alert["state"],
                    f"{alert['opened_step']:,}",
                    output.name(alert["reason"]),
                ]
                for alert in alerts
            ],
            right=["step"],
        )


def _answers(ranks: list[dict[str, Any]]) -> str:
    """What became of a directive, by outcome: "2 applied, 1 no answer"."""
    counts = Counter(each["outcome"] or "no answer" for each in ranks)
    return ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items()))


@runs.command("delete")
@run_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_url_option
@json_option
def delete_run(run: str, yes: bool, server_url: str, as_json: bool) -> None:
    """Delete a RUN and everything of it; a run that is still going is refused."""
    with Remote(server_url) as remote:
        key = remote.find(run)
        if not yes:
            click.confirm(f"Delete {output.name(str(key)).plain} and everything recorded of it?", abort=True)
        answer = remote.json("DELETE", run_path(key))
    if as_json:
        output.print_json(answer)
    else:
        click.echo(f"Deleted {output.name(str(key)).plain}.")
