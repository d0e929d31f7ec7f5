"""`seismograd postmortem`: the report of a run, finished or still going."""

from __future__ import annotations

import re
from pathlib import Path

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Command
from seismograd_server.commands.remote import Remote, json_option, run_argument, run_path, server_url_option
from seismograd_server.display.text import file_stem, printable
from seismograd_server.errors import UsageError
from seismograd_server.model import RunKey

_SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md", ".json": "json"}


@click.command(cls=Command)
@run_argument
@click.option("-o", "--output", "target", metavar="FILE", help="Where to write it; - is standard output.")
@click.option(
    "--format", "file_format", type=click.Choice(["html", "md", "json"]), help="By default that of FILE, or html."
)
@server_url_option
@json_option
def postmortem(run: str, target: str | None, file_format: str | None, server_url: str, as_json: bool) -> None:
    """Write the post-mortem of RUN (project/run, or the run alone when its name is unique).

    Without -o, HTML goes to a file named after the run; md and json go to standard output.
    """
    chosen = file_format or _SUFFIXES.get(Path(target).suffix.lower() if target else "", "html")
    with Remote(server_url) as remote:
        key = remote.find(run)
        response = remote.checked("GET", f"{run_path(key)}/postmortem", params={"format": chosen})
    if target == "-" or (target is None and chosen != "html"):
        click.echo(response.content, nl=False)
        return
    path = Path(target) if target else Path(_file_name(response.headers.get("content-disposition", ""), key))
    try:
        path.write_bytes(response.content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another file with -o") from error
    if as_json:
        output.print_json(
            {
                "project": key.project,
                "run": key.run,
                "format": chosen,
                "path": str(path),
                "bytes": len(response.content),
            }
        )
    else:
        click.echo(f"Post-mortem of {printable(str(key))}: {path}")


def _file_name(disposition: str, key: RunKey) -> str:
    """The name that the server gives, when it is a plain one: what comes over the wire chooses no path."""
    match = re.search(r'filename="([A-Za-z0-9][A-Za-z0-9._-]*)"', disposition)
    return match[1] if match else f"postmortem-{file_stem(key.project)}-{file_stem(key.run)}.html"
