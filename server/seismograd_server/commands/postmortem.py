"""`seismograd postmortem`: the report of a run, finished or still going."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Command
from seismograd_server.commands.remote import Remote, complete_runs, json_option, run_path, server_url_option
from seismograd_server.display.text import file_stem, printable
from seismograd_server.errors import UsageError
from seismograd_server.model import RunKey

_SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md", ".json": "json"}


@click.command(cls=Command)
@click.argument("run", required=False, shell_complete=complete_runs)
@click.option("--incident", metavar="ID", help="Of the runs that exploded together, instead of one.")
@click.option("-o", "--output", "target", metavar="FILE", help="Where to write it; - is standard output.")
@click.option(
    "--format", "file_format", type=click.Choice(["html", "md", "json"]), help="By default that of FILE, or html."
)
@server_url_option
@json_option
def postmortem(
    *,
    run: str | None,
    incident: str | None,
    target: str | None,
    file_format: str | None,
    server_url: str,
    as_json: bool,
) -> None:
    """Write the post-mortem of RUN (project/run, or the run alone when its name is unique), or of an incident.

    Without -o, HTML goes to a file named after the run; md and json go to standard output.
    """
    if (run is None) == (incident is None):
        raise click.UsageError("name a run, or an incident with --incident")
    chosen = file_format or _SUFFIXES.get(Path(target).suffix.lower() if target else "", "html")
    with Remote(server_url) as remote:
        key = None if run is None else remote.find(run)
        about = f"/api/v1/incidents/{quote(incident or '', safe='')}" if key is None else run_path(key)
        response = remote.checked("GET", f"{about}/postmortem", params={"format": chosen})
    if target == "-" or (target is None and chosen != "html"):
        click.echo(response.content, nl=False)
        return
    otherwise = f"incident-{file_stem(incident or '')}" if key is None else _stem(key)
    path = Path(target) if target else Path(_file_name(response.headers.get("content-disposition", ""), otherwise))
    try:
        path.write_bytes(response.content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another file with -o") from error
    if as_json:
        output.print_json(
            {
                "project": "" if key is None else key.project,
                "run": "" if key is None else key.run,
                "incident": incident or "",
                "format": chosen,
                "path": str(path),
                "bytes": len(response.content),
            }
        )
    else:
        click.echo(f"Post-mortem of {printable(str(key or f'incident {incident}'))}: {path}")


def _file_name(disposition: str, otherwise: str) -> str:
    """The name that the server gives, when it is a plain one: what comes over the wire chooses no path."""
    match = re.search(r'filename="([A-Za-z0-9][A-Za-z0-9._-]*)"', disposition)
    return match[1] if match else f"{otherwise}.html"


def _stem(key: RunKey) -> str:
    return f"postmortem-{file_stem(key.project)}-{file_stem(key.run)}"
