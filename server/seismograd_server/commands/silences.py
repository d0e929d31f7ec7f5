"""`seismograd silence`: not to be told of something for a while. Its alerts open and are kept all the same."""

from __future__ import annotations

from urllib.parse import quote

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Group
from seismograd_server.commands.remote import Remote, json_option, login_name, server_url_option
from seismograd_server.commands.since import Span
from seismograd_server.display.numbers import timestamp
from seismograd_server.model import Signature


@click.group("silence", cls=Group)
def silence() -> None:
    """Silences."""


@silence.command("add")
@click.option("--project", default="", help="Of this project only.")
@click.option("--run", default="", help="Of runs whose name matches this pattern only, such as 'sweep-*'.")
@click.option("--signature", type=click.Choice([each.value for each in Signature]), help="Of this signature only.")
@click.option("--for", "span", type=Span(), default="4h", show_default=True, help="How long, such as 30m, 4h or 2d.")
@click.option("--reason", default="", help="Why.")
@click.option("--by", default=None, help="Who silences; by default your login name.")
@server_url_option
@json_option
def add(
    *,
    project: str,
    run: str,
    signature: str | None,
    span: float,
    reason: str,
    by: str | None,
    server_url: str,
    as_json: bool,
) -> None:
    """Tell nobody of what fires in a project, in some runs, or with a signature; all that are given must fit.

    What still fires when the silence ends is told then.
    """
    wanted = {"project": project, "run": run, "signature": signature or "", "reason": reason, "seconds": span}
    with Remote(server_url) as remote:
        answer = remote.json("POST", "/api/v1/silences", json=wanted | {"by": by or login_name()})
    if as_json:
        output.print_json(answer)
    else:
        click.echo(f"Silence {answer['silence_id']} until {timestamp(answer['expires_at'])}.")


@silence.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are over.")
@server_url_option
@json_option
def list_silences(everything: bool, server_url: str, as_json: bool) -> None:
    """List silences, newest first."""
    with Remote(server_url) as remote:
        answer = remote.json("GET", "/api/v1/silences", params={} if everything else {"active": "1"})
    if as_json:
        output.print_json(answer)
        return
    if not answer["silences"]:
        click.echo("No silence.")
        return
    output.table(
        ["id", "project", "run", "signature", "by", "until", "reason"],
        [
            [
                each["silence_id"],
                output.name(each["project"] or "any"),
                output.name(each["run"] or "any"),
                each["signature"] or "any",
                output.name(each["by"]),
                timestamp(each["expires_at"]) + ("" if each["active"] else " (over)"),
                output.name(each["reason"]),
            ]
            for each in answer["silences"]
        ],
    )


@silence.command("expire")
@click.argument("silence_id")
@click.option("--by", default=None, help="Who ends it; by default your login name.")
@server_url_option
@json_option
def expire(silence_id: str, by: str | None, server_url: str, as_json: bool) -> None:
    """End the silence SILENCE_ID now; what still fires is told within seconds."""
    with Remote(server_url) as remote:
        path = f"/api/v1/silences/{quote(silence_id, safe='')}/expire"
        answer = remote.json("POST", path, json={"by": by or login_name()})
    if as_json:
        output.print_json(answer)
    else:
        click.echo(f"Silence {answer['silence_id']} is over.")
