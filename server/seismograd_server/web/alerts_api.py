"""The part of the JSON API that is about alerts."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.model import AlertState, RunKey
from seismograd_server.reading.encoding import Json, alert_json
from seismograd_server.store.database import Database
from seismograd_server.web.answers import LARGEST_PAGE, Turns, choice_of, key_of, limit_of
from seismograd_server.web.bodies import person_of, small_body


class AlertsApi:
    """The routes; each reads the store in a worker thread."""

    def __init__(self, database: Database, clock: Callable[[], float], *, turns: Turns) -> None:
        self._database = database
        self._clock = clock
        self._turns = turns

    async def run_alerts(self, request: Request) -> Response:
        """GET .../alerts: the alerts of one run."""
        return await self._alerts(request, key_of(request))

    async def alerts(self, request: Request) -> Response:
        """GET /api/v1/alerts: newest first; `project`, `state`, `limit` and `before` (from `next`)."""
        return await self._alerts(request, None)

    async def _alerts(self, request: Request, key: RunKey | None) -> Response:
        project = key.project if key else request.query_params.get("project") or None
        state = choice_of(request, "state", AlertState, [each.value for each in AlertState])
        limit = limit_of(request, 100, LARGEST_PAGE)
        before = request.query_params.get("before") or None

        def answer() -> Json:
            with self._database.read() as transaction:
                if key is not None:
                    transaction.runs.get(key)
                alerts = transaction.alerts.list(project, key.run if key else None, state, limit + 1, before)
            shown = alerts[:limit]
            return {
                "alerts": [alert_json(alert) for alert in shown],
                "next": shown[-1].alert_id if len(alerts) > limit else None,
            }

        return await self._turns.json(answer)

    async def alert(self, request: Request) -> Response:
        """GET /api/v1/alerts/{id}: the alert with its history."""
        alert_id = request.path_params["alert_id"]

        def answer() -> Json:
            with self._database.read() as transaction:
                alert, history = transaction.alerts.get(alert_id), transaction.alerts.history(alert_id)
            events = [
                {
                    "before": event.before.value if event.before else None,
                    "state": event.state.value,
                    "severity": event.severity.label,
                    "step": event.step,
                    "cause": event.cause,
                    "at": event.at,
                    "reason": event.reason,
                }
                for event in history
            ]
            return {**alert_json(alert), "history": events}

        return await self._turns.json(answer)

    async def acknowledge(self, request: Request) -> Response:
        """POST /api/v1/alerts/{id}/ack with {"by": "name"}: somebody has taken it on."""
        person = person_of(await small_body(request))
        alert_id = request.path_params["alert_id"]

        def answer() -> Json:
            with self._database.begin() as transaction:
                return alert_json(transaction.alerts.acknowledge(alert_id, person, self._clock()))

        return await self._turns.json(answer)
