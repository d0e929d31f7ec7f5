"""Addresses of runs: names may hold anything but control characters, so each name is one escaped path segment.

Starlette matches routes on the decoded path, in which a slash inside a name would look like a separator. `EscapedPaths`
therefore keeps `/` and `%` inside a segment escaped, and `unescaped` gives the name back.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from seismograd_server.model import RunKey


def segment(name: str) -> str:
    """A name as one path segment."""
    return quote(name, safe="", errors="surrogatepass")


def run_path(key: RunKey) -> str:
    """Path of a run's page."""
    return f"/runs/{segment(key.project)}/{segment(key.run)}"


def compare_name(key: RunKey) -> str:
    """A run as a parameter of the comparison names it: with its slashes escaped, so that there is one place to cut."""
    if "/" in f"{key.project}{key.run}" or "%" in f"{key.project}{key.run}":
        return f"{segment(key.project)}/{segment(key.run)}"
    return str(key)


def api_path(key: RunKey) -> str:
    """Path of a run in the API."""
    return f"/api/v1/runs/{segment(key.project)}/{segment(key.run)}"


class EscapedPaths:
    """Middleware: the path is taken from the raw one, decoded segment by segment."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rewrite the path of a request and pass it on."""
        raw = scope.get("raw_path")
        if scope["type"] == "http" and raw:
            path = raw.split(b"?", 1)[0].decode("ascii", errors="replace")
            decoded = "/".join(_kept_apart(unquote(part, errors="replace")) for part in path.split("/"))
            scope = {**scope, "path": decoded}
        await self._app(scope, receive, send)


def _kept_apart(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


def unescaped(parameter: str) -> str:
    """The name behind a path parameter that `EscapedPaths` let through."""
    return parameter.replace("%2F", "/").replace("%25", "%")
