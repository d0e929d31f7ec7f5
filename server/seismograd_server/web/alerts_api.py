"""The part of the JSON API that is about alerts, and what people do to them."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.model import AlertState, RunKey
from seismograd_server.pipeline.people import People
from seismograd_server.reading.encoding import Json, alert_json, precision_json, silence_json
from seismograd_server.store.database import Database
from seismograd_server.web.answers import LARGEST_PAGE, Turns, choice_of, key_of, limit_of
from seismograd_server.web.bodies import person_of, silence_of, small_body, verdict_of


class AlertsApi:
    """The routes; each reads the store in a worker thread."""

    def __init__(self, database: Database, people: People, clock: Callable[[], float], *, turns: Turns) -> None:
        self._database = database
        self._people = people
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
                    "told": event.notify,
                    "by": event.author,
                    "note": event.note,
                }
                for event in history
            ]
            return {**alert_json(alert), "history": events}

        return await self._turns.json(answer)

    async def acknowledge(self, request: Request) -> Response:
        """POST /api/v1/alerts/{id}/ack with {"by": "name"}: somebody has taken it on."""
        person, note = person_of(await small_body(request))
        alert_id = request.path_params["alert_id"]
        return await self._turns.json(lambda: alert_json(self._people.acknowledge(alert_id, person, note)))

    async def verdict(self, request: Request) -> Response:
        """POST /api/v1/alerts/{id}/verdict with {"verdict", "by"}: somebody says whether it was right or wrong."""
        verdict, person, note = verdict_of(await small_body(request))
        alert_id = request.path_params["alert_id"]
        return await self._turns.json(lambda: alert_json(self._people.judge(alert_id, verdict, person, note)))

    async def precision(self, request: Request) -> Response:
        """GET /api/v1/precision: how often alerts were called right, by project and signature."""
        project = request.query_params.get("project") or None

        def answer() -> Json:
            with self._database.read() as transaction:
                found = transaction.alerts.precision(project)
            return {"precision": [precision_json(each) for each in found]}

        return await self._turns.json(answer)

    async def silences(self, request: Request) -> Response:
        """GET /api/v1/silences: newest first, those that are over too unless `active` is given; `limit`."""
        limit, now = limit_of(request, 100, LARGEST_PAGE), self._clock()
        active_at = now if request.query_params.get("active") else None

        def answer() -> Json:
            with self._database.read() as transaction:
                found = transaction.silences.list(active_at=active_at, limit=limit)
            return {"silences": [silence_json(each, now) for each in found]}

        return await self._turns.json(answer)

    async def silence(self, request: Request) -> Response:
        """POST /api/v1/silences with {"by", "seconds"}: nobody is told of a project, run or signature for a while."""
        wanted, seconds = silence_of(await small_body(request))
        return await self._turns.json(lambda: silence_json(self._people.silence(wanted, seconds), self._clock()))

    async def end_silence(self, request: Request) -> Response:
        """POST /api/v1/silences/{id}/expire with {"by": "name"}: ends it; what still fires is told."""
        person, _ = person_of(await small_body(request))
        silence_id = request.path_params["silence_id"]
        return await self._turns.json(lambda: silence_json(self._people.end_silence(silence_id, person), self._clock()))
