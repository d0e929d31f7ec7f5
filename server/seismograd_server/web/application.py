"""The ASGI application: which route is answered by whom, behind which guards."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from seismograd_server.model import Snapshot
from seismograd_server.store.database import Database
from seismograd_server.web.settings import Postmortem, WebSettings


def create_app(
    *,
    database: Database,
    snapshot: Callable[[], Snapshot],
    metrics_page: Callable[[str], tuple[bytes, str]],
    ready: Callable[[], bool],
    postmortem: Postmortem,
    settings: WebSettings,
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """Everything that the server answers over HTTP.

    Args:
        database: read in worker threads, never on the event loop.
        snapshot: the live runs; must not block.
        metrics_page: (Accept header) -> (body, Content-Type) of `/metrics`; called in a worker thread.
        ready: whether `/readyz` should say yes; must not block.
        postmortem: writes reports; called in a worker thread.
        settings: see WebSettings.
        clock: Unix seconds.
    """

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(routes=[Route("/healthz", health)])
