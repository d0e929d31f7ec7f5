"""The JSON API under `/api/v1`: runs, what recorders handed over, directives, post-mortems."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.errors import StorageError
from seismograd_server.model import RunKey, RunState, RunView, Snapshot
from seismograd_server.pipeline.people import People
from seismograd_server.reading.details import detail_json, read_details
from seismograd_server.reading.encoding import (
    Json,
    checkpoint_json,
    directive_json,
    launch_json,
    number,
    rank_json,
    run_json,
    status_json,
)
from seismograd_server.reading.runs import DIRECTIVES_OF_A_RUN, firing_alerts
from seismograd_server.store.database import Database
from seismograd_server.web.answers import LARGEST_PAGE, Turns, choice_of, json_answer, key_of, limit_of, number_of
from seismograd_server.web.bodies import directive_of, small_body
from seismograd_server.web.links import run_path
from seismograd_server.web.settings import Ask, Document, Postmortem, WebSettings
from seismograd_server.web.tallies import Tallies

_log = structlog.get_logger("seismograd.web")
# Of one transaction: tens of milliseconds each, in which nobody else can write.
_DELETED_AT_ONCE = 8 * 2**20
_RECLAIMED_AT_ONCE = 8 * 2**20
# Numbers in the answer: some five megabytes of JSON. A model of very many layers gets fewer steps.
_MOST_VALUES = 2**19


class Api:
    """The routes of the API; each reads the store in a worker thread."""

    def __init__(
        self,
        database: Database,
        snapshot: Callable[[], Snapshot],
        postmortem: Postmortem,
        settings: WebSettings,
        clock: Callable[[], float],
        *,
        people: People,
        tallies: Tallies,
        ask: Ask,
        turns: Turns,
    ) -> None:
        self._turns = turns
        self._database = database
        self._people = people
        self._snapshot = snapshot
        self._tallies = tallies
        self._postmortem = postmortem
        self._ask = ask
        self._settings = settings
        self._clock = clock

    async def runs(self, request: Request) -> Response:
        """GET /api/v1/runs: newest first; `project`, `state`, `limit` and `before` (from `next`)."""
        project = request.query_params.get("project") or None
        state = choice_of(request, "state", RunState, [each.value for each in RunState])
        limit = limit_of(request, 100, LARGEST_PAGE)
        before = number_of(request, "before")

        def answer() -> Json:
            with self._database.read() as transaction:
                runs = transaction.runs.list(project, state, limit + 1, before)
            firing = firing_alerts(self._database)
            shown = runs[:limit]
            return {
                "runs": [self._linked(run_json(run, firing.get(run.run_id, [])), run.key) for run in shown],
                "next": str(shown[-1].run_id) if len(runs) > limit else None,
            }

        return await self._turns.json(answer)

    def _linked(self, values: Json, key: RunKey) -> Json:
        return {**values, "url": f"{self._settings.external_url}{run_path(key)}"}

    async def run(self, request: Request) -> Response:
        """GET /api/v1/runs/{project}/{run}: the run with its attempts, ranks, checkpoints, directives, detectors."""
        key = key_of(request)

        def answer() -> Json:
            with self._database.read() as transaction:
                run = transaction.runs.get(key)
                launches = transaction.runs.launches(run.run_id)
                ranks = transaction.runs.ranks(launches[-1].launch_row) if launches else []
                checkpoints = transaction.runs.checkpoints(run.run_id)
                health = transaction.runs.health(run.run_id)
                asked = transaction.directives.of_run(run.run_id, DIRECTIVES_OF_A_RUN)
            view, tally = view_of(self._snapshot(), run.run_id), self._tallies.of([run]).get(run.run_id)
            return {
                **self._linked(run_json(run, firing_alerts(self._database).get(run.run_id, [])), key),
                "launches": [launch_json(launch) for launch in launches],
                "ranks": [rank_json(rank) for rank in ranks],
                "checkpoints": [checkpoint_json(checkpoint) for checkpoint in checkpoints],
                "directives": [directive_json(each) for each in asked],
                "dropped_records": sum(sum(each.dropped_records.values()) for each in health),
                "detectors": [status_json(status) for status in view.statuses] if view else [],
                "grad_norm": number(tally.grad_norm) if tally else None,
                "grad_norm_baseline": number(tally.grad_norm_baseline) if tally else None,
                "loss": number(tally.loss) if tally else None,
                "disagreeing_steps": tally.disagreeing_steps if tally else None,
                "replica_gap": number(tally.replica_gap) if tally else None,
            }

        return await self._turns.json(answer)

    async def delete(self, request: Request) -> Response:
        """DELETE /api/v1/runs/{project}/{run}: the run and everything of it, unless it is still running."""
        key = key_of(request)

        # Each part is a piece of work of its own, so that whoever waits to write comes in between.
        while await self._turns(lambda: self._people.delete_part(key, _DELETED_AT_ONCE)):
            pass
        response = json_answer({"deleted": True, "project": key.project, "run": key.run})
        response.background = BackgroundTask(self._reclaim)
        return response

    async def _reclaim(self) -> None:
        """Give the space of what was deleted back to the file system, a little at a time."""
        try:
            while await self._turns(lambda: self._database.reclaim(_RECLAIMED_AT_ONCE)):
                pass
        except StorageError as error:  # the next deletion will do it
            _log.warning("space of deleted runs was not given back", reason=str(error))

    async def recorder(self, request: Request) -> Response:
        """GET .../recorder: what the flight recorder of one `rank` handed over, step by step and layer by layer."""
        key = key_of(request)
        rank, optimizer = number_of(request, "rank", 0) or 0, number_of(request, "optimizer", 0) or 0
        first, last = number_of(request, "first_step"), number_of(request, "last_step")

        def answer() -> Json:
            with self._database.read() as transaction:
                run = transaction.runs.get(key)
            details = read_details(self._database, run, optimizer, rank=rank, first_step=first, last_step=last)
            return {"project": key.project, "run": key.run, "rank": rank, **detail_json(details, _MOST_VALUES)}

        return await self._turns.json(answer)

    async def directives(self, request: Request) -> Response:
        """POST .../directives with {"kind", "by"}: asks the job to stop, to save, or to hand over its recorder."""
        key, asked = key_of(request), directive_of(await small_body(request))
        return json_answer(directive_json(await self._ask(key, asked)))

    async def postmortem(self, request: Request) -> Response:
        """GET .../postmortem?format=html|md|json: the report as a file."""
        key = key_of(request)
        file_format = request.query_params.get("format") or "html"
        return _file(await self._turns(lambda: self._postmortem(key, file_format, self._clock())))

    async def incident_postmortem(self, request: Request) -> Response:
        """GET .../postmortem?format=html|md|json: the report of runs that exploded together, as a file."""
        incident_id, file_format = request.path_params["incident_id"], request.query_params.get("format") or "html"
        return _file(await self._turns(lambda: self._postmortem.incident(incident_id, file_format, self._clock())))


def _file(document: Document) -> Response:
    headers = {"content-disposition": f'inline; filename="{document.file_name}"'}
    if document.content_security_policy:
        headers["content-security-policy"] = document.content_security_policy
    return Response(document.body, media_type=document.media_type, headers=headers)


def view_of(snapshot: Snapshot, run_id: int) -> RunView | None:
    """The live view of a run; None when it is not live."""
    return next((view for view in snapshot.runs if view.run.run_id == run_id), None)
