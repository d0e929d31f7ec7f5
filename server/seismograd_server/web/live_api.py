"""What is live right now, in one small answer that reads nothing from the store: for those who look every second."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.model import RunView, Severity, Snapshot
from seismograd_server.reading.encoding import Json, number
from seismograd_server.web.answers import json_answer
from seismograd_server.web.links import run_path
from seismograd_server.web.settings import WebSettings


class LiveApi:
    """The route."""

    def __init__(self, snapshot: Callable[[], Snapshot], settings: WebSettings) -> None:
        self._snapshot = snapshot
        self._settings = settings

    async def live(self, request: Request) -> Response:
        """GET /api/v1/live: the runs that are live, those that fire first; of a `project`."""
        project = request.query_params.get("project") or None
        snapshot = self._snapshot()
        views = [view for view in snapshot.runs if project in {None, view.run.key.project}]
        views.sort(key=lambda view: (-_severity(view), -(view.run.last_record_at or 0.0)))
        url = self._settings.external_url
        return json_answer({"taken_at": snapshot.taken_at, "runs": [_view_json(view, url) for view in views]})


def _severity(view: RunView) -> Severity:
    return max(view.active.values(), default=Severity.NONE)


def _view_json(view: RunView, external_url: str) -> Json:
    run, tally = view.run, view.tally
    severity = _severity(view)
    firing = sorted(view.active.items(), key=lambda each: (-each[1], each[0].value))
    return {
        "project": run.key.project,
        "run": run.key.run,
        "state": run.state.value,
        "severity": severity.label if severity else "",
        "firing": [{"signature": signature.value, "severity": each.label} for signature, each in firing],
        "step": tally.step,
        "steps": tally.steps,
        "grad_norm": number(tally.grad_norm),
        "grad_norm_baseline": number(tally.grad_norm_baseline),
        "times_usual": number(_times_usual(view)),
        "loss": number(tally.loss),
        "learning_rate": number(tally.learning_rate),
        "world_size": run.world_size,
        "ranks_reporting": tally.ranks_reporting,
        "started_at": run.started_at,
        "last_record_at": run.last_record_at,
        "url": f"{external_url}{run_path(run.key)}",
    }


def _times_usual(view: RunView) -> float | None:
    """The norm over its usual level; None = one of them is not known, or nothing is usual."""
    norm, usual = view.tally.grad_norm, view.tally.grad_norm_baseline
    return norm / usual if norm is not None and usual else None
