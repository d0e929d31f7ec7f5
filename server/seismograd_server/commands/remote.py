"""A running server over its JSON API, as the commands use it."""

from __future__ import annotations

import getpass
import os
import re
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import click
import httpx
from click.shell_completion import CompletionItem

from seismograd_server.display.text import nearest, printable
from seismograd_server.errors import NotFoundError, SeismogradError, UsageError
from seismograd_server.model import RunKey

DEFAULT_URL = "http://127.0.0.1:7451"
# A post-mortem of a long run is read and drawn in seconds; lists answer at once.
_TIMEOUT_SECONDS = 60.0
_CONNECT_SECONDS = 5.0
# Runs looked through for a name without its project, and for "did you mean".
_NAMES_COMPARED = 1000

server_url_option = click.option(
    "--server-url",
    envvar="SEISMOGRAD_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    metavar="URL",
    help="Where the server's pages are.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")


# Names that a shell takes as they are: what stands on a command line is run, and a run may be called anything.
_SHELL_SAFE = re.compile(r"[A-Za-z0-9._/@+=,-]+")
# Whoever presses the tabulator waits for it.
_COMPLETING_SECONDS = 2.0


def complete_runs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of runs that begin so, for a shell; none when the server does not answer at once."""
    url = ctx.params.get("server_url") or os.environ.get("SEISMOGRAD_URL") or DEFAULT_URL
    try:
        with Remote(url) as remote:
            known = remote.runs(timeout=_COMPLETING_SECONDS)
    except SeismogradError:
        return []
    names = [str(key) for key in known] + [key.run for key in known if incomplete]
    unique = dict.fromkeys(name for name in names if name.startswith(incomplete) and _SHELL_SAFE.fullmatch(name))
    return [CompletionItem(name) for name in unique]


run_argument = click.argument("run", shell_complete=complete_runs)


class RemoteError(SeismogradError):
    """The server does not answer, or not as a seismograd server does."""


class Remote:
    """A server; use it as a context manager."""

    def __init__(self, url: str) -> None:
        """Take its address.

        Raises:
            UsageError: it is no http(s) address.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(f"--server-url: {url!r} is not an address such as {DEFAULT_URL}")
        self.url = parts.geturl().rstrip("/")
        self.host = parts.hostname
        # A proxy for the internet knows nothing of this machine's own ports.
        is_local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
        self._client = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(_TIMEOUT_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=not is_local,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def request(self, method: str, path: str, **settings: Any) -> httpx.Response:
        """Send a request; any answer of a seismograd server comes back.

        Raises:
            RemoteError: nobody answers; the message names the address and how to start a server.
        """
        try:
            return self._client.request(method, path, **settings)
        except httpx.HTTPError as error:
            raise RemoteError(
                f"no seismograd server answers at {self.url} ({_reason(error)}): start one with `seismograd serve`, or "
                "name another with --server-url or SEISMOGRAD_URL"
            ) from error

    def json(self, method: str, path: str, **settings: Any) -> Any:
        """The JSON answer to a request.

        Raises:
            NotFoundError, UsageError: the server says so, in its words.
            RemoteError: nobody answers, or something else than a seismograd server.
        """
        response = self.checked(method, path, **settings)
        try:
            return response.json()
        except ValueError as error:
            raise self._stranger() from error

    def checked(self, method: str, path: str, **settings: Any) -> httpx.Response:
        """The answer to a request when it is a good one; errors as `json`."""
        response = self.request(method, path, **settings)
        if response.is_success:
            return response
        try:
            message = str(response.json()["error"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._stranger() from error
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotFoundError(message)
        if response.is_client_error:
            raise UsageError(message)
        raise RemoteError(f"the server at {self.url} failed: {message}")

    def _stranger(self) -> RemoteError:
        return RemoteError(f"what answers at {self.url} is not a seismograd server: check --server-url")

    def find(self, name: str) -> RunKey:
        """The run that a person means: `project/run`, or the run alone when only one project has it.

        Raises:
            NotFoundError: there is none; names the nearest one.
            UsageError: several projects have it.
        """
        for index, letter in enumerate(name):
            # Either part may hold slashes itself: every split is tried, the first one that exists is meant.
            if letter == "/" and 0 < index < len(name) - 1:
                key = RunKey(name[:index], name[index + 1 :])
                if self.request("GET", run_path(key)).status_code == httpx.codes.OK:
                    return key
        known = self.runs()
        matches = [key for key in known if key.run == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            shown = ", ".join(printable(str(key)) for key in matches[:5])
            raise UsageError(f'several projects have a run "{printable(name)}": write one of {shown}')
        names = [str(key) for key in known] if "/" in name else [key.run for key in known]
        meant = nearest(name, names)
        hint = f'; did you mean "{printable(meant)}"?' if meant else "; `seismograd runs list` shows those there are"
        raise NotFoundError(f'no run "{printable(name)}"{hint}')

    def runs(self, **settings: Any) -> list[RunKey]:
        """The newest thousand runs; errors as `json`."""
        runs = self.json("GET", "/api/v1/runs", params={"limit": _NAMES_COMPARED}, **settings)["runs"]
        return [RunKey(run["project"], run["run"]) for run in runs]

    def require_project(self, project: str | None) -> None:
        """Nothing, when there is a run of that project, or when none was named: for lists that turned out empty.

        Raises:
            NotFoundError: there is none; names the nearest one.
        """
        if not project or self.json("GET", "/api/v1/runs", params={"project": project, "limit": 1})["runs"]:
            return
        meant = nearest(project, {key.project for key in self.runs()})
        hint = f'; did you mean "{printable(meant)}"?' if meant else "; `seismograd runs list` shows those there are"
        raise NotFoundError(f'no project "{printable(project)}"{hint}')


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx.ConnectError):
        return "connection refused" if "refused" in str(error).lower() else str(error).lower()
    return str(error).lower() or type(error).__name__


def run_path(key: RunKey) -> str:
    """Path of a run in the API."""
    return f"/api/v1/runs/{quote(key.project, safe='')}/{quote(key.run, safe='')}"


def login_name() -> str:
    """Who does something, when he does not say so himself."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
