"""The part of the JSON API that is about incidents: runs that explode together."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.model import AlertState
from seismograd_server.reading.encoding import Json, alert_json
from seismograd_server.reading.incidents import incident_json, read_incident, read_incidents
from seismograd_server.store.database import Database
from seismograd_server.web.answers import LARGEST_PAGE, Turns, choice_of, limit_of


class IncidentsApi:
    """The routes; each reads the store in a worker thread."""

    def __init__(self, database: Database, *, turns: Turns) -> None:
        self._database = database
        self._turns = turns

    async def incidents(self, request: Request) -> Response:
        """GET /api/v1/incidents: newest first; `state`, `limit` and `before` (from `next`)."""
        state = choice_of(request, "state", AlertState, [each.value for each in AlertState])
        limit = limit_of(request, 100, LARGEST_PAGE)
        before = request.query_params.get("before") or None

        def answer() -> Json:
            found = read_incidents(self._database, state, limit + 1, before)
            shown = found[:limit]
            return {
                "incidents": [incident_json(each) for each in shown],
                "next": shown[-1].alert.alert_id if len(found) > limit else None,
            }

        return await self._turns.json(answer)

    async def incident(self, request: Request) -> Response:
        """GET /api/v1/incidents/{id}: the incident, and what each of its runs fired."""
        incident_id = request.path_params["incident_id"]

        def answer() -> Json:
            incident = read_incident(self._database, incident_id)
            return {**incident_json(incident), "alerts": [alert_json(each) for each in incident.members]}

        return await self._turns.json(answer)
