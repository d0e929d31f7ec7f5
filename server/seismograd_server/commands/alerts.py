"""`seismograd alerts`: what the detectors have said."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Group
from seismograd_server.commands.remote import (
    Remote,
    complete_runs,
    json_option,
    login_name,
    run_path,
    server_url_option,
)
from seismograd_server.display.numbers import timestamp
from seismograd_server.model import AlertState, Verdict


@click.group(cls=Group)
def alerts() -> None:
    """Alerts."""


@alerts.command("list")
@click.option("--project", help="Only this project.")
@click.option(
    "--run",
    help="Only this run (project/run, or the run alone when its name is unique).",
    shell_complete=complete_runs,
)
@click.option("--state", type=click.Choice([state.value for state in AlertState]), help="Only alerts in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Most alerts shown.")
@server_url_option
@json_option
def list_alerts(
    *, project: str | None, run: str | None, state: str | None, limit: int, server_url: str, as_json: bool
) -> None:
    """List alerts, newest first."""
    with Remote(server_url) as remote:
        path = f"{run_path(remote.find(run))}/alerts" if run else "/api/v1/alerts"
        wanted = {"project": project, "state": state, "limit": limit}
        answer = remote.json("GET", path, params={key: value for key, value in wanted.items() if value})
        if not answer["alerts"]:
            remote.require_project(project)
    if as_json:
        output.print_json(answer)
        return
    if not answer["alerts"]:
        click.echo("No alert.")
        return
    output.table(
        ["id", "severity", "signature", "run", "step", "state", "opened", "reason"],
        [
            [
                output.name(alert["alert_id"]),
                output.word(alert["severity"]),
                alert["signature"],
                output.name(f"{alert['project']}/{alert['run']}"),
                f"{alert['opened_step']:,}",
                _state(alert),
                timestamp(alert["opened_at"]),
                output.name(alert["reason"]),
            ]
            for alert in answer["alerts"]
        ],
        right=["step"],
    )


def _state(alert: dict[str, Any]) -> str:
    firing = alert["state"] == AlertState.FIRING
    remarks = [
        "acknowledged" if alert["acknowledged_by"] else "",
        "silenced" if alert["silenced_by"] and firing else "",
        f"called {alert['verdict']}" if alert["verdict"] else "",
    ]
    said = ", ".join(remark for remark in remarks if remark)
    return f"{alert['state']} ({said})" if said else str(alert["state"])


@alerts.command("show")
@click.argument("alert_id")
@server_url_option
@json_option
def show(alert_id: str, server_url: str, as_json: bool) -> None:
    """Show the alert ALERT_ID and its history: what happened when, who did it, and why."""
    with Remote(server_url) as remote:
        answer = remote.json("GET", f"/api/v1/alerts/{quote(alert_id, safe='')}")
    if as_json:
        output.print_json(answer)
        return
    run = output.name(f"{answer['project']}/{answer['run']}").plain
    click.echo(f"{answer['severity']} {answer['signature']} of {run}, {_state(answer)}")
    click.echo(output.name(answer["reason"]).plain)
    output.table(
        ["when", "what", "state", "severity", "step", "told", "by", "why"],
        [
            [
                timestamp(event["at"]),
                event["cause"],
                event["state"],
                output.word(event["severity"]),
                f"{event['step']:,}",
                "yes" if event["told"] else "",
                output.name(event["by"]),
                output.name(event["note"]),
            ]
            for event in answer["history"]
        ],
        right=["step"],
    )


@alerts.command("ack")
@click.argument("alert_id")
@click.option("--by", default=None, help="Who acknowledges; by default your login name.")
@click.option("--note", default="", help="What is being done about it.")
@server_url_option
@json_option
def acknowledge(*, alert_id: str, by: str | None, note: str, server_url: str, as_json: bool) -> None:
    """Acknowledge the alert ALERT_ID: somebody has taken it on."""
    with Remote(server_url) as remote:
        path = f"/api/v1/alerts/{quote(alert_id, safe='')}/ack"
        answer = remote.json("POST", path, json={"by": by or login_name(), "note": note})
    if as_json:
        output.print_json(answer)
    else:
        click.echo(f"Acknowledged by {output.name(answer['acknowledged_by']).plain}.")


@alerts.command("judge")
@click.argument("alert_id")
@click.argument("verdict", type=click.Choice([verdict.value for verdict in Verdict]))
@click.option("--by", default=None, help="Who says so; by default your login name.")
@click.option("--note", default="", help="Why.")
@server_url_option
@json_option
def judge(*, alert_id: str, verdict: str, by: str | None, note: str, server_url: str, as_json: bool) -> None:
    """Say whether the alert ALERT_ID was right or wrong; the last word counts."""
    with Remote(server_url) as remote:
        path = f"/api/v1/alerts/{quote(alert_id, safe='')}/verdict"
        said = {"verdict": verdict, "by": by or login_name(), "note": note}
        answer = remote.json("POST", path, json=said)
    if as_json:
        output.print_json(answer)
    else:
        click.echo(f"Called {answer['verdict']}.")


@alerts.command("precision")
@click.option("--project", help="Only this project.")
@server_url_option
@json_option
def precision(project: str | None, server_url: str, as_json: bool) -> None:
    """How often alerts were called right, by project and signature."""
    with Remote(server_url) as remote:
        answer = remote.json("GET", "/api/v1/precision", params={"project": project} if project else {})
        if not answer["precision"]:
            remote.require_project(project)
    if as_json:
        output.print_json(answer)
    elif not answer["precision"]:
        click.echo("No alert has been judged: `seismograd alerts judge ALERT_ID right|wrong` does.")
    else:
        output.table(
            ["project", "signature", "right", "wrong", "precision"],
            [
                [
                    output.name(each["project"]),
                    each["signature"],
                    str(each["right"]),
                    str(each["wrong"]),
                    f"{each['precision']:.0%}",
                ]
                for each in answer["precision"]
            ],
            right=["right", "wrong", "precision"],
        )
