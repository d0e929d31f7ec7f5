"""`seismograd alerts`: what the detectors have said."""

from __future__ import annotations

from urllib.parse import quote

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Group
from seismograd_server.commands.remote import Remote, json_option, login_name, run_path, server_url_option
from seismograd_server.display.numbers import timestamp
from seismograd_server.model import AlertState


@click.group(cls=Group)
def alerts() -> None:
    """Alerts."""


@alerts.command("list")
@click.option("--project", help="Only this project.")
@click.option("--run", help="Only this run (project/run, or the run alone when its name is unique).")
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
                alert["state"] + (" (acknowledged)" if alert["acknowledged_by"] else ""),
                timestamp(alert["opened_at"]),
                output.name(alert["reason"]),
            ]
            for alert in answer["alerts"]
        ],
        right=["step"],
    )


@alerts.command("ack")
@click.argument("alert_id")
@click.option("--by", default=None, help="Who acknowledges; by default your login name.")
@server_url_option
@json_option
def acknowledge(alert_id: str, by: str | None, server_url: str, as_json: bool) -> None:
    """Acknowledge the alert ALERT_ID: somebody has taken it on."""
    with Remote(server_url) as remote:
        path = f"/api/v1/alerts/{quote(alert_id, safe='')}/ack"
        answer = remote.json("POST", path, json={"by": by or login_name()})
    if as_json:
        output.print_json(answer)
    else:
        click.echo(f"Acknowledged by {output.name(answer['acknowledged_by']).plain}.")
