"""The small picture beside a run in the list: fetched by the browser when it comes into sight, and kept for a while."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.display.curves import curves_of_buckets
from seismograd_server.display.trail import trail_picture
from seismograd_server.model import Run, RunState
from seismograd_server.reading.runs import find_run
from seismograd_server.reading.view import read_trail
from seismograd_server.store.database import Database
from seismograd_server.web.answers import Turns, key_of
from seismograd_server.web.links import run_path

_HEADERS = {
    "cache-control": "private, max-age=600",
    # A picture brings its colours along; nothing else may be in it.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
}


class TrailPicture:
    """The route."""

    def __init__(self, database: Database, *, turns: Turns) -> None:
        self._database = database
        self._turns = turns

    async def trail(self, request: Request) -> Response:
        """GET /runs/{project}/{run}/trail.svg: the gradient norm over all steps, as a picture of a line's height."""
        key = key_of(request)

        def picture() -> str:
            summary = read_trail(self._database, find_run(self._database, key).run_id)
            return trail_picture(None if summary is None else curves_of_buckets(summary, None))

        return Response(await self._turns(picture), media_type="image/svg+xml", headers=_HEADERS)


def trail_path(run: Run) -> str:
    """Address of a run's picture: another one when there is something new to be seen in it; "" = it has no steps."""
    if not run.closed_steps:
        return ""
    steps, unit = run.closed_steps, 1
    if run.state is RunState.RUNNING:
        unit = 10 ** max(0, len(str(steps)) - 2)  # a step more in ten or more moves nothing by much
    return f"{run_path(run.key)}/trail.svg?steps={steps // unit * unit}"
