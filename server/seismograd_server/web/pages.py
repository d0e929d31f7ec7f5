"""The pages for people: the fleet and a run. No script; they load themselves again while something lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from seismograd_server.alerts.silencing import silences_run
from seismograd_server.display.charts import Mark, Moments, loss_chart, norm_chart
from seismograd_server.display.curves import curve_data
from seismograd_server.display.heat import heatmap, octaves_above_median
from seismograd_server.display.heat_chart import heat_chart
from seismograd_server.display.numbers import duration, figure, timestamp
from seismograd_server.display.text import plural, printable
from seismograd_server.errors import SeismogradError, StorageError
from seismograd_server.model import (
    BY_ALERT,
    Alert,
    AlertState,
    AskedDirective,
    Run,
    RunState,
    RunView,
    Severity,
    Snapshot,
)
from seismograd_server.reading.history import Series, damage_sentence
from seismograd_server.reading.incidents import read_incident, read_incidents
from seismograd_server.reading.layers import read_layer_window
from seismograd_server.reading.recent import RecentSeries
from seismograd_server.reading.runs import ALERTS_OF_A_RUN, firing_alerts, worst
from seismograd_server.store.damage import damaged_steps
from seismograd_server.store.database import Database
from seismograd_server.web.answers import Turns, json_answer, key_of, number_of, status_of
from seismograd_server.web.api import view_of
from seismograd_server.web.incident_values import incident_values
from seismograd_server.web.links import run_path
from seismograd_server.web.settings import WebSettings
from seismograd_server.web.silence_rows import silence_row

_TEMPLATES = Path(__file__).parent / "templates"
_RUNS_SHOWN = 100
_ALERTS_SHOWN = 12
_MARKS_SHOWN = 24
_DIRECTIVES_SHOWN = 8
_INCIDENTS_SHOWN = 10
# Layers of so many latest steps: what somebody who looks at a live run wants to see.
_LAYER_STEPS = 60
# How often a page with something live on it loads itself again.
_REFRESH_SECONDS = 5


class Pages:
    """The routes that answer with HTML."""

    def __init__(
        self,
        database: Database,
        snapshot: Callable[[], Snapshot],
        settings: WebSettings,
        clock: Callable[[], float],
        *,
        turns: Turns,
    ) -> None:
        self._turns = turns
        self._database = database
        self._series = RecentSeries(database)
        self._snapshot = snapshot
        self._settings = settings
        self._clock = clock
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["shown"] = lambda value: printable(str(value))
        self._templates.filters["figure"] = figure
        self._templates.filters["steps"] = lambda value: "–" if value is None else f"{value:,}"
        self._templates.filters["timestamp"] = timestamp
        self._templates.filters["run_path"] = run_path

    async def fleet(self, request: Request) -> Response:
        """GET /: all runs, newest first; those that fire stand above."""
        project = request.query_params.get("project") or None
        before = number_of(request, "before")
        return await self._turns(lambda: self._page("fleet.html", self._fleet(project, before)))

    def _fleet(self, project: str | None, before: int | None) -> dict[str, Any]:
        now = self._clock()
        with self._database.read() as transaction:
            runs = transaction.runs.list(project, None, _RUNS_SHOWN + 1, before)
            silences = transaction.silences.list(active_at=now)
            precision = transaction.alerts.precision(project)
        firing = firing_alerts(self._database)
        incidents = read_incidents(self._database, AlertState.FIRING, _INCIDENTS_SHOWN, None)
        snapshot = self._snapshot()
        rows = [_row(run, firing.get(run.run_id, []), view_of(snapshot, run.run_id), now) for run in runs[:_RUNS_SHOWN]]
        rows.sort(key=lambda row: -row["rank"])  # stable: newest first within a severity
        more = runs[_RUNS_SHOWN - 1].run_id if len(runs) > _RUNS_SHOWN else None
        return {
            "title": "Runs",
            "refresh": _REFRESH_SECONDS if any(row["state"] == "running" for row in rows) else None,
            "rows": rows,
            "project": project,
            "more": more,
            "first_page": before is None,
            "counts": _counts(rows),
            "grpc_address": self._settings.grpc_address,
            "silences": [silence_row(each, now) for each in silences],
            "precision": precision,
            "incidents": incidents,
        }

    async def incident(self, request: Request) -> Response:
        """GET /incidents/{id}: runs that exploded together, and what they share."""
        incident_id = request.path_params["incident_id"]

        def read() -> dict[str, Any]:
            return incident_values(read_incident(self._database, incident_id), _REFRESH_SECONDS)

        return await self._turns(lambda: self._page("incident.html", read()))

    async def run(self, request: Request) -> Response:
        """GET /runs/{project}/{run}: one run, live."""
        key = key_of(request)

        def read() -> dict[str, Any]:
            with self._database.read() as transaction:
                run = transaction.runs.get(key)
                alerts = list(transaction.alerts.list(project=key.project, run=key.run, limit=ALERTS_OF_A_RUN))
                checkpoints = transaction.runs.checkpoints(run.run_id)
                asked = transaction.directives.of_run(run.run_id, _DIRECTIVES_SHOWN)
                silences = transaction.silences.list(active_at=self._clock())
            series = self._series.read(run.run_id, 0)
            checkpoint = max((each.step for each in checkpoints), default=None)
            return self._run(run, series, alerts, checkpoint) | {
                "asked": [_asked_row(each) for each in asked],
                "silences": [silence_row(each, self._clock()) for each in silences if silences_run(each, key)],
            }

        return await self._turns(lambda: self._page("run.html", read()))

    def _run(self, run: Run, series: Series, alerts: list[Alert], checkpoint: int | None) -> dict[str, Any]:
        now = self._clock()
        view = view_of(self._snapshot(), run.run_id)
        firing = [alert for alert in alerts if alert.state is AlertState.FIRING]
        shown = [alert for alert in alerts if alert.state is not AlertState.PENDING]
        marks = _marks(shown)
        moments = Moments(onset=min((alert.since_step for alert in firing), default=None))
        data = curve_data(series, int(series.steps[0]), int(series.steps[-1]), moments.onset) if series.count else None
        layers, layer_note = self._layers(run, series)
        return {
            "title": str(run.key),
            "refresh": _REFRESH_SECONDS if run.state is RunState.RUNNING else None,
            "run": run,
            "row": _row(run, firing, view, now),
            "norm_chart": _drawn(norm_chart(data, marks, moments, "norm")) if data else "",
            "loss_chart": _drawn(loss_chart(data, marks, moments, "loss")) if data else "",
            "heat_chart": layers,
            "layer_note": layer_note,
            "damaged": [
                damage_sentence(run.key, first, last)
                for first, last in damaged_steps(self._database.damage.of_run(run.run_id))
            ],
            "alerts": [_alert_row(alert, now) for alert in shown[:_ALERTS_SHOWN]],
            "alert_count": len(shown),
            "statuses": view.statuses if view else (),
            "checkpoint": checkpoint,
            "started": timestamp(run.started_at),
            "now": timestamp(now),
        }

    def _layers(self, run: Run, series: Series) -> tuple[Markup | str, str]:
        if not series.count:
            return "", ""
        last = int(series.steps[-1])
        first = int(series.steps[max(0, series.count - _LAYER_STEPS)])
        try:
            composed = read_layer_window(self._database, run, 0, first, last)
        except StorageError as error:
            return "", printable(str(error))
        if composed is None:
            return "", "No layer was captured in the latest steps."
        octaves = octaves_above_median(composed.layers, None)
        picture = heatmap(composed.layers, octaves, [], composed.nonfinite)
        return (_drawn(heat_chart(picture, Moments(), "heat")) if picture else "", "")

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
        return self._page("error.html", {"title": "Not found", "refresh": None, "message": message}, status)

    def _page(self, template: str, values: dict[str, Any], status: int = 200) -> Response:
        text = self._templates.get_template(template).render(**values)
        return HTMLResponse(text.encode("utf-8", errors="backslashreplace"), status)


def _drawn(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 - drawings escape every text they hold (display.svg.escaped)


def _row(run: Run, firing: list[Alert], view: RunView | None, now: float) -> dict[str, Any]:
    severity = worst(firing)
    tally = view.tally if view else None
    norm = tally.grad_norm if tally else None
    baseline = tally.grad_norm_baseline if tally else None
    newest = max(firing, key=lambda alert: (alert.severity, alert.opened_at), default=None)
    return {
        "key": run.key,
        "rank": int(severity),
        "severity": severity.label if severity > Severity.NONE else "",
        "state": run.state.value,
        "step": run.last_step,
        "steps": run.closed_steps,
        "norm": norm,
        "baseline": baseline,
        "loss": tally.loss if tally else None,
        "age": duration(max(0.0, now - run.last_record_at)) if run.last_record_at else "never",
        "firing": len(firing),
        "reason": newest.reason if newest else run.failure_reason,
        "world_size": run.world_size,
        "attempts": run.attempts,
        "framework": run.framework,
    }


def _counts(rows: list[dict[str, Any]]) -> str:
    running = sum(1 for row in rows if row["state"] == "running")
    firing = sum(1 for row in rows if row["firing"])
    return f"{plural(len(rows), 'run')}, {running:,} running, {firing:,} firing"


def _marks(alerts: list[Alert]) -> list[Mark]:
    grave_first = sorted(alerts, key=lambda alert: -alert.severity)[:_MARKS_SHOWN]
    ordered = sorted(grave_first, key=lambda alert: alert.opened_step)
    return [
        Mark(alert.opened_step, str(number), alert.severity.label, f"{alert.signature.value}: {alert.reason}")
        for number, alert in enumerate(ordered, start=1)
    ]


def _asked_row(asked: AskedDirective) -> dict[str, Any]:
    directive = asked.directive
    outcomes = Counter(each.outcome.value if each.outcome else "no answer" for each in asked.addressees)
    return {
        "kind": directive.kind.word,
        "by": "an alert" if directive.asked_by == BY_ALERT else directive.asked_by,
        "when": timestamp(directive.asked_at),
        "reason": directive.reason,
        "outcomes": ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())),
    }


def _alert_row(alert: Alert, now: float) -> dict[str, Any]:
    evidence = alert.evidence
    return {
        "alert_id": alert.alert_id,
        "signature": alert.signature.value,
        "severity": alert.severity.label,
        "state": alert.state.value if alert.resolution is None else f"resolved, {alert.resolution.value}",
        "firing": alert.state is AlertState.FIRING,
        "step": alert.opened_step,
        "ago": duration(max(0.0, now - alert.opened_at)),
        "reason": alert.reason,
        "layer": evidence.leading_layer,
        "leading_rank": evidence.leading_rank,
        "checkpoint_step": evidence.details.get("checkpoint_step"),
        "checkpoint_path": evidence.details.get("checkpoint_path"),
        "data": evidence.details.get("data"),
        "acknowledged_by": alert.acknowledged_by,
        "silenced": bool(alert.silenced_by) and alert.state is AlertState.FIRING,
        "verdict": alert.verdict.value if alert.verdict else "",
    }
