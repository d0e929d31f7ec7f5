"""Sockets, the event loop and the HTTP server: what the process needs of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from seismograd_server.config import Address
from seismograd_server.errors import StartError

# Running calls get so long when the server stops; what they have sent is durable or will be sent again.
GRACE_SECONDS = 1.0


class HttpServer(uvicorn.Server):
    """Signals belong to the program, not to its web part."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


def http_server(app: Starlette) -> HttpServer:
    """A server for an application; the caller serves it on a socket of his own."""
    return HttpServer(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=int(GRACE_SECONDS),
        )
    )


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Take uvloop where it is installed: at many streams it halves what a message costs."""
    try:
        import uvloop  # noqa: PLC0415 (not there on every platform)
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextlib.contextmanager
def listening(name: str, address: Address) -> Iterator[socket.socket]:
    """A socket that listens there.

    Raises:
        StartError: names the setting, the address and the fix.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        opened = socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        flag = f"--{name.replace('_', '-')}"
        fix = {
            errno.EADDRINUSE: f"the port is in use: stop the other program, or choose another port with {flag}",
            errno.EACCES: f"this user may not listen there: choose a port above 1023 with {flag}",
            errno.EADDRNOTAVAIL: f"this machine has no such address: choose another one with {flag}",
        }.get(error.errno or 0, f"cannot listen there: {error.strerror or error}; choose another address with {flag}")
        raise StartError(f"{name} {address}: {fix}") from error
    with opened:
        yield opened


def reachable(address: Address) -> str:
    """The address as somebody on this machine would write it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104 (not a bind)
    return str(Address(host, address.port))


def host_of(url: str) -> tuple[str, ...]:
    """The host of a URL, or nothing."""
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return (host.rpartition(":")[0] or host,) if host else ()
