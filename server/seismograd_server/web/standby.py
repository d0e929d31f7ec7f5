"""What a server answers over HTTP while it stands by: that it lives, and that it takes nothing yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from seismograd_server.web.answers import json_answer
from seismograd_server.web.guard import AllowedHosts, SecurityHeaders


def create_standby_app(allowed_hosts: Sequence[str], clock: Callable[[], float] = time.time) -> Starlette:
    """`/healthz` says 200, everything else 503: whoever balances load by readiness goes to the active server.

    Args:
        allowed_hosts: the names under which browsers may come.
        clock: Unix seconds.
    """

    async def health(_request: Request) -> Response:
        """GET /healthz: whether the process answers, its version and its clock."""
        return json_answer({"status": "ok", "version": version("seismograd"), "time": clock()})

    async def readiness(_request: Request) -> Response:
        """GET /readyz: a standby is not ready."""
        return json_answer({"status": "standby"}, 503)

    async def elsewhere(_request: Request) -> Response:
        """Anything else: the active server has it."""
        return json_answer({"error": "this server stands by: ask the active one"}, 503)

    return Starlette(
        routes=[
            Route("/healthz", health),
            Route("/readyz", readiness),
            Route("/{path:path}", elsewhere, methods=["GET", "POST", "PUT", "DELETE"]),
        ],
        middleware=[Middleware(SecurityHeaders), Middleware(AllowedHosts, allowed_hosts=tuple(allowed_hosts))],
    )
