"""`seismograd doctor`: what works between here and the server, and what to mend."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import grpc
from google.protobuf.internal import api_implementation
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.text import Text

from seismograd_server.commands import output
from seismograd_server.commands.failures import Command
from seismograd_server.commands.remote import Remote, RemoteError, json_option, server_url_option
from seismograd_server.display.numbers import duration
from seismograd_server.display.text import printable
from seismograd_server.errors import SeismogradError

_CONNECT_SECONDS = 5.0
# Below it, times on charts of two machines still read as the same; steps are ordered by number anyway.
_SKEW_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


@click.command(cls=Command)
@click.option(
    "--server",
    envvar="SEISMOGRAD_SERVER",
    default="localhost:7450",
    show_default=True,
    show_envvar=True,
    metavar="HOST:PORT",
    help="Where training jobs ship to.",
)
@server_url_option
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("seismograd-data"),
    show_default=True,
    metavar="DIR",
    help="Where a server started here keeps its data.",
)
@click.option(
    "--database-url",
    envvar="SEISMOGRAD_SERVER_DATABASE_URL",
    metavar="URL",
    help="Database of a server started here, instead of SQLite in the data directory.",
)
@json_option
def doctor(server: str, server_url: str, data_dir: Path, database_url: str | None, as_json: bool) -> int:
    """Check connectivity, versions, clock and permissions; exit code 1 when something has to be mended."""
    checks = [
        *_software(),
        *_pages(server_url),
        _guarded("gRPC", lambda: _telemetry(server)),
        _data_directory(data_dir) if not database_url else _guarded("database", lambda: _database(database_url)),
    ]
    healthy = all(check.ok for check in checks)
    if as_json:
        output.print_json({"ok": healthy, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            _print(check)
    if not healthy:
        click.get_current_context().exit(1)
    return 0


def _print(check: Check) -> None:
    mark = Text("ok      ", "green") if check.ok else Text("problem ", "bold red")
    line = Text.assemble(mark, f"{check.name}: ", printable(check.detail))
    console = output.console()
    console.print(line, soft_wrap=True)
    if check.fix and not check.ok:
        console.print(Text.assemble("        fix: ", printable(check.fix)), soft_wrap=True)


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except (SeismogradError, OSError, ValueError) as error:
        return Check(name, False, " ".join(str(error).split()), "see the message")


def _software() -> Iterator[Check]:
    yield Check("seismograd", True, version("seismograd"))
    implementation = api_implementation.Type()
    yield Check(
        "protobuf",
        implementation == "upb",
        f"{version('protobuf')}, implementation {implementation}",
        "install the binary wheel of protobuf (pip install --force-reinstall protobuf), and unset "
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION: the pure Python one is slow and less safe",
    )
    yield Check("gRPC library", True, version("grpcio"))
    # Looked up, not imported: the server must not load torch, and loading it takes seconds.
    found = importlib.util.find_spec("torch") is not None
    yield Check(
        "torch",
        found,
        _version_of("torch") if found else "not installed in this environment",
        "install it where training runs (pip install torch); a machine that only serves does not need it",
    )


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "version unknown"


def _pages(server_url: str) -> Iterator[Check]:
    try:
        with Remote(server_url) as remote:
            before = time.time()
            health = remote.json("GET", "/healthz")
            after = time.time()
            ready = remote.request("GET", "/readyz").is_success
    except SeismogradError as error:
        unreachable = isinstance(error, RemoteError)
        fix = (
            "start a server with `seismograd serve`, or name it with --server-url" if unreachable else "see the message"
        )
        yield Check("pages", False, " ".join(str(error).split()), fix)
        return
    yield Check("pages", True, f"{remote.url} answers in {duration(after - before)}")
    yield Check("readiness", ready, "ready" if ready else "the server is up but not ready", "look at the server's log")
    yield _same_version(str(health.get("version", "")))
    yield _skew(float(health.get("time", 0.0)), before, after)


def _same_version(server_version: str) -> Check:
    own = version("seismograd")
    if not server_version:
        return Check(
            "server version", False, "the server does not tell", "check --server-url: is it a seismograd server?"
        )
    same = server_version.split(".")[:2] == own.split(".")[:2]
    fix = f"neighbouring versions work together; bring both to the same one (pip install seismograd=={server_version})"
    return Check("server version", same, f"{server_version} (here {own})", fix)


def _skew(server_time: float, before: float, after: float) -> Check:
    skew = (before + after) / 2 - server_time
    uncertainty = (after - before) / 2
    ok = abs(skew) <= _SKEW_SECONDS + uncertainty
    detail = f"this machine is {duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} the server"
    return Check("clock", ok, detail, "set both clocks by NTP; steps keep their order, but times on charts are off")


def _telemetry(server: str) -> Check:
    with grpc.insecure_channel(server, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_CONNECT_SECONDS)
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            return Check(
                "gRPC",
                False,
                f"nothing answers at {server} within {duration(_CONNECT_SECONDS)}",
                "start a server with `seismograd serve`, or name it with --server or SEISMOGRAD_SERVER",
            )
        except grpc.RpcError as error:
            code = getattr(error, "code", None)
            status = code().name if callable(code) else type(error).__name__
            return Check("gRPC", False, f"{server} answers {status}", "is it a seismograd server's gRPC port?")
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return Check(
        "gRPC", serving, f"{server} {'is serving' if serving else 'is not serving'}", "look at the server's log"
    )


def _database(url: str) -> Check:
    from seismograd_server.store.database import look_at  # noqa: PLC0415 (takes a second that other checks need not)

    return Check("database", True, look_at(url))


def _data_directory(data_dir: Path) -> Check:
    nearest = data_dir.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        return Check("data directory", False, f"{nearest} is a file", "name another with --data-dir")
    writable = os.access(nearest, os.W_OK | os.X_OK)
    detail = f"{data_dir} {'is writable' if nearest == data_dir.absolute() else 'can be made'}"
    return Check(
        "data directory",
        writable,
        detail if writable else f"{nearest} is not writable",
        "give yourself the right to write there, or name another with --data-dir",
    )
