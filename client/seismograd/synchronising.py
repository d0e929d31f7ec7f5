"""`seismograd sync`: what dead jobs have left is delivered, by whoever has the folder and can reach the server."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import click

from seismograd.options import Options, default_spool_folders, environment_names_server
from seismograd.outbox.folder import SpoolFolder
from seismograd.outbox.journal import Account
from seismograd.outbox.leftovers import Delivery, dead_folders, deliver


def synchronise(folder: Path | None, server: str | None, *, as_json: bool) -> int:
    """Delivers every folder of dead processes below `folder` (None = where this user's are), and says what came of it.

    Returns the exit code: 0 = nothing is left, 1 = something is.
    """
    # What the sender has to say is said below, in one line per folder.
    logging.getLogger("seismograd").setLevel(logging.CRITICAL)
    deliveries, alive = [], 0
    for path in dead_folders(default_spool_folders() if folder is None else [folder]):
        taken = SpoolFolder.take(path)
        if taken is None:
            alive += 1
            continue
        delivery = deliver(taken, lambda account: _options(account, server))
        deliveries.append(delivery)
        if not as_json:
            click.echo(_line(delivery), err=bool(delivery.error))
    if as_json:
        click.echo(json.dumps({"folders": [_plain(each) for each in deliveries], "running": alive}, indent=2))
    elif not deliveries:
        click.echo(f"nothing to deliver{f', {alive} still running' if alive else ''}")
    return 1 if any(delivery.error for delivery in deliveries) else 0


def _options(account: Account, server: str | None) -> Options:
    if server is None and not environment_names_server():
        server = account.server or None
    return Options.from_environment(server=server, mode="on")


def _line(delivery: Delivery) -> str:
    whose = f"{delivery.project}/{delivery.run} rank {delivery.rank}" if delivery.run else str(delivery.path)
    if delivery.error:
        return f"Error: {whose}: {delivery.error}"
    missing = f", {delivery.missing} missing" if delivery.missing else ""
    return f"{whose}: {delivery.delivered} records delivered{missing}; it {_how(delivery)}"


def _how(delivery: Delivery) -> str:
    return delivery.ending or "was killed"


def _plain(delivery: Delivery) -> dict[str, object]:
    return dataclasses.asdict(delivery) | {"path": str(delivery.path)}
