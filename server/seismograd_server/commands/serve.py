"""`seismograd serve`: the server in the foreground."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog

from seismograd_server.commands import output
from seismograd_server.commands.failures import Command
from seismograd_server.commands.remote import json_option

if TYPE_CHECKING:
    from seismograd_server.app import Server


@click.command(cls=Command)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML configuration.")
@click.option("--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where the data go.")
@click.option("--grpc-listen", metavar="HOST:PORT", help="For training jobs [default: 127.0.0.1:7450]; port 0 = any.")
@click.option("--http-listen", metavar="HOST:PORT", help="For pages and metrics [default: 127.0.0.1:7451].")
@click.option("--database-url", metavar="URL", help="Database, instead of SQLite in the data directory.")
@click.option("--standby", is_flag=True, help="Wait until the server that has the database is gone, then take over.")
@click.option("--check", is_flag=True, help="Say whether a server would start with this configuration, and end.")
@json_option
def serve(
    *,
    config: Path | None,
    data_dir: Path | None,
    grpc_listen: str | None,
    http_listen: str | None,
    database_url: str | None,
    standby: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Run the server until SIGINT or SIGTERM. With --json, one line with its ports when it is ready."""
    # Settings and everything that serves take a second to import; no other command should wait for them.
    from seismograd_server.app import run, try_out  # noqa: PLC0415 - as above
    from seismograd_server.config import load_settings  # noqa: PLC0415 - as above

    settings = load_settings(
        config,
        data_dir=data_dir,
        grpc_listen=grpc_listen,
        http_listen=http_listen,
        database_url=database_url,
        standby=standby or None,
    )
    configure_logging(as_json=as_json)
    if check:
        try_out(settings)
        if as_json:
            output.print_json({"event": "checked", "version": version("seismograd")})
        else:
            click.echo(f"{config or 'the environment and the defaults'}: this configuration can be used.")
        return
    run(settings, lambda server: _announce(server, as_json=as_json))


def _announce(server: Server, *, as_json: bool) -> None:
    grpc_address = server.grpc_address
    # Nobody can connect to "every interface"; on this machine, loopback reaches it.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(grpc_address.host, grpc_address.host)  # noqa: S104 - compared
    shown = f"[{host}]:{grpc_address.port}" if ":" in host else f"{host}:{grpc_address.port}"
    if as_json:
        output.print_json(
            {
                "event": "ready",
                "version": version("seismograd"),
                "pid": os.getpid(),
                "grpc": shown,
                "http": server.external_url,
                "grpc_port": grpc_address.port,
                "http_port": server.http_address.port,
                "data_dir": str(server.settings.data_dir),
                "database": server.database_name,
            }
        )
        sys.stdout.flush()
        return
    console = output.console()
    console.print(f"[bold]seismograd {version('seismograd')}[/bold] is watching")
    for label, value in (
        ("pages", server.external_url),
        ("metrics", f"{server.external_url}/metrics"),
        ("training jobs ship to", shown),
        ("data", server.database_name),
        ("stop with", "Ctrl-C"),
    ):
        console.print(f"  [dim]{label:<22}[/dim]", output.name(value), soft_wrap=True)


def configure_logging(*, as_json: bool) -> None:
    """Log to stderr: lines for people on a terminal, JSON otherwise asked for. Libraries speak from warnings up."""
    # Plain tracebacks: the pretty ones print local variables, and with them whatever secret one of them holds.
    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    if as_json:
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([structlog.processors.format_exc_info] if as_json else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
