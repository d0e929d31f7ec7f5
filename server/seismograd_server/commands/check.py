"""`seismograd check`: whether a run is healthy, as an exit code for pipelines."""

from __future__ import annotations

import time
from typing import Any

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Command
from seismograd_server.commands.remote import (
    Remote,
    RemoteError,
    json_option,
    run_argument,
    run_path,
    server_url_option,
)
from seismograd_server.commands.since import Span
from seismograd_server.errors import NotFoundError, SeismogradError
from seismograd_server.model import RunState, Severity, Verdict

# Apart from 1 and 2, with which every program fails: what breaks on the way to the answer is no explosion.
FIRING, UNKNOWN = 3, 4
# An alert is found within a second of its step; nobody gains from a closer look.
_POLL_SECONDS = 2.0
_SEVERITIES = {each.label: each for each in Severity if each is not Severity.NONE}


class UnknownError(click.ClickException):
    """There is no such run."""

    exit_code = UNKNOWN


@click.command(cls=Command)
@run_argument
@click.option(
    "--fail-on",
    "severity",
    type=click.Choice(list(_SEVERITIES)),
    default="critical",
    show_default=True,
    help="Fail from here on.",
)
@click.option("--wait", is_flag=True, help="Wait for the run to appear and to end; fail as soon as it fires.")
@click.option(
    "--timeout", type=Span(), default="24h", show_default=True, help="How long to wait at most (30s, 2h, 1d)."
)
@server_url_option
@json_option
def check(*, run: str, severity: str, wait: bool, timeout: float, server_url: str, as_json: bool) -> None:
    """Tell by the exit code whether a RUN is healthy.

    \b
    0  nothing fires at this severity or above
    3  something does
    4  there is no such run
    1  nothing can be said: no server answers, or the wait was over first
    2  a question that cannot be meant

    An explosion that ended its run fires until somebody acknowledges it, or for a day. What somebody has called wrong
    (`seismograd alerts judge`) does not count. The state of the job itself, failed or not, is not judged here.
    """  # noqa: D301 (click wants the character itself)
    try:
        with Remote(server_url) as remote:
            found = _at_last(remote, run, severity, timeout) if wait else look(remote, run, severity)
    except NotFoundError as error:
        raise UnknownError(" ".join(str(error).split())) from error
    if as_json:
        output.print_json(found)
    else:
        _print(found)
    if not found["healthy"]:
        click.get_current_context().exit(FIRING)


def look(remote: Remote, run: str, severity: str) -> dict[str, Any]:
    """What fires of a run at this severity or above, now.

    Raises:
        SeismogradError: nothing can be said.
    """
    path = run_path(remote.find(run))
    answer = remote.json("GET", path)
    alerts = remote.json("GET", f"{path}/alerts", params={"state": "firing", "limit": 1000})["alerts"]
    least = _SEVERITIES[severity]
    firing = [
        alert for alert in alerts if _SEVERITIES[alert["severity"]] >= least and alert["verdict"] != Verdict.WRONG
    ]
    return {
        "project": answer["project"],
        "run": answer["run"],
        "state": answer["state"],
        "last_step": answer["last_step"],
        "severity": severity,
        "healthy": not firing,
        "firing": firing,
    }


def _at_last(remote: Remote, run: str, severity: str, timeout: float) -> dict[str, Any]:
    """As `look`, once the run is over or fires.

    Raises:
        NotFoundError: it has not appeared in time.
        RemoteError: no server has answered in time, or it has not ended.
    """
    until = time.monotonic() + timeout
    while True:
        try:
            found = look(remote, run, severity)
        except (NotFoundError, RemoteError) as error:  # it may come, and a server may be restarted meanwhile
            why: SeismogradError = error
        else:
            if not found["healthy"] or found["state"] != RunState.RUNNING:
                return found
            why = RemoteError(f"run {output.name(run).plain} is still running")
        if time.monotonic() >= until:
            raise type(why)(f"{why}; waited for {timeout:g} s")
        time.sleep(min(_POLL_SECONDS, timeout))


def _print(found: dict[str, Any]) -> None:
    name = output.name(f"{found['project']}/{found['run']}").plain
    last = "" if found["last_step"] is None else f" at step {found['last_step']:,}"
    if found["healthy"]:
        click.echo(f"{name}: healthy, {found['state']}{last}")
    for alert in found["firing"]:
        reason = output.name(alert["reason"]).plain
        click.echo(f"{name}: {alert['severity']} {alert['signature']} since step {alert['since_step']:,}: {reason}")
