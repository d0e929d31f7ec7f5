"""`seismograd ask`: ask a running job to stop, to save, or to hand over what its flight recorder holds."""

from __future__ import annotations

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Command
from seismograd_server.commands.remote import Remote, json_option, login_name, run_argument, run_path, server_url_option
from seismograd_server.display.text import plural


@click.command(cls=Command)
@run_argument
@click.argument("kind", type=click.Choice(["stop", "checkpoint", "capture"]))
@click.option("--reason", default="", help="Why; whoever looks at the job reads it.")
@click.option("--by", default=None, help="Who asks; by default your login name.")
@click.option("--first-step", type=int, help="First step of a capture; by default some before the last one.")
@click.option("--last-step", type=int, help="Last step of a capture; by default some after the last one.")
@click.option("--all-ranks", is_flag=True, help="A capture of every rank, not of one replica of every shard.")
@server_url_option
@json_option
def ask(
    *,
    run: str,
    kind: str,
    reason: str,
    by: str | None,
    first_step: int | None,
    last_step: int | None,
    all_ranks: bool,
    server_url: str,
    as_json: bool,
) -> None:
    """Ask the job of a RUN to stop, to write a checkpoint, or to hand over its flight recorder (capture).

    It is a hint: the job stops or saves only if it calls `should_stop` or `should_checkpoint`. `seismograd runs show`
    tells what became of it.
    """
    wanted = {"kind": kind, "by": by or login_name(), "reason": reason, "all_ranks": all_ranks}
    steps = {"first_step": first_step, "last_step": last_step}
    with Remote(server_url) as remote:
        key = remote.find(run)
        answer = remote.json("POST", f"{run_path(key)}/directives", json=wanted | steps)
    if as_json:
        output.print_json(answer)
        return
    window = f", steps {answer['first_step']:,} to {answer['last_step']:,}" if kind == "capture" else ""
    name = output.name(str(key)).plain
    click.echo(f"Asked {plural(len(answer['ranks']), 'rank')} of {name} to {_VERBS[kind]}{window}.")


_VERBS = {"stop": "stop", "checkpoint": "write a checkpoint", "capture": "hand over the flight recorder"}
