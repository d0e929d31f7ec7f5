"""The pages for people beside the fleet and the runs: incidents, and what cannot be shown."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.errors import SeismogradError
from seismograd_server.reading.incidents import read_incident
from seismograd_server.store.database import Database
from seismograd_server.web.answers import Turns, json_answer, status_of
from seismograd_server.web.incident_values import incident_values
from seismograd_server.web.rendering import REFRESH_SECONDS, Renderer


class Pages:
    """The routes, and the answers to requests that have none."""

    def __init__(self, database: Database, renderer: Renderer, *, turns: Turns) -> None:
        self._turns = turns
        self._database = database
        self._renderer = renderer

    async def incident(self, request: Request) -> Response:
        """GET /incidents/{id}: runs that exploded together, and what they share."""
        incident_id = request.path_params["incident_id"]

        def read() -> dict[str, Any]:
            return incident_values(read_incident(self._database, incident_id), REFRESH_SECONDS)

        return await self._turns(lambda: self._renderer.page("incident.html", read()))

    async def failed(self, request: Request, error: Exception) -> Response:
        """An error of ours as a page for browsers and as JSON for programs."""
        message = str(error)
        return self._error(request, status_of(error) if isinstance(error, SeismogradError) else 500, message)

    async def refused(self, request: Request, error: Exception) -> Response:
        """What the router refuses: no such page, no such method."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        message = {404: "there is no such page", 405: "this address does not take that method"}.get(status, "refused")
        return self._error(request, status, message)

    def _error(self, request: Request, status: int, message: str) -> Response:
        accepts = request.headers.get("accept", "")
        if request.url.path.startswith("/api/") or "text/html" not in accepts:
            return json_answer({"error": message}, status)
        title = {400: "That cannot be asked", 404: "Not found"}.get(status, "This failed")
        return self._renderer.page("error.html", {"title": title, "refresh": None, "message": message}, status)
