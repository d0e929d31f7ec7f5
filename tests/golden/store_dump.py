"""How the golden databases of PostgreSQL are made, and put back: as what `pg_dump` says of them."""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from seismograd_server.store.database import Database, Transaction
from tests.support.postgresql import Cluster, PostgresqlVersion

# Of the oldest one that we support: what it says, every later one understands.
_VERSION: PostgresqlVersion = "15"
# Rows as statements, so that a driver can put them back; nobody's but whose database it is.
_OPTIONS = ("--inserts", "--no-owner", "--no-privileges", "--no-comments")
# What is for `psql` alone, and remarks.
_NOT_SQL = re.compile(r"^(?:\\.*|--.*|)\n", re.MULTILINE)


def make(target: Path, fills: Sequence[Callable[[Transaction], None]], source: Path | None = None) -> None:
    """Writes `target`: the database of `source`, or an empty one, brought up to date and filled."""
    with ExitStack() as stack:
        cluster = Cluster.make(_VERSION, stack)
        url = cluster.new_database(empty=True)
        if source is not None:
            load(cluster, url, source)
        with Database.open(url, owner="golden") as database:
            for fill in fills:
                with database.begin() as transaction:
                    fill(transaction)
        command = [str(cluster.programs / "pg_dump"), *_OPTIONS, "--host", str(cluster.directory)]
        command += ["--username", "postgres", cluster.name_of(url)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    target.write_bytes(gzip.compress(_NOT_SQL.sub("", said).encode(), mtime=0))


def load(cluster: Cluster, url: str, source: Path) -> None:
    """Puts a database back into an empty one."""
    with cluster.connect(cluster.name_of(url)) as connection:
        connection.execute(gzip.decompress(source.read_bytes()))
