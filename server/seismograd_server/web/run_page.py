"""The page of one run: any range of its steps in curves and layers, its alerts, and what its detectors see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.alerts.silencing import silences_run
from seismograd_server.display.charts import (
    Mark,
    Moments,
    learning_rate_chart,
    loss_chart,
    loss_scale_chart,
    norm_chart,
    ranks_chart,
)
from seismograd_server.display.curves import CurveData, curve_data, curve_table, curves_of_buckets
from seismograd_server.display.heat import heatmap_of_buckets
from seismograd_server.display.heat_chart import heat_chart
from seismograd_server.display.numbers import timestamp
from seismograd_server.display.text import printable
from seismograd_server.display.tree import LayerRow, layer_rows
from seismograd_server.errors import StorageError
from seismograd_server.model import Alert, AlertState, Run, RunState, Snapshot, Summary
from seismograd_server.reading.history import damage_sentence
from seismograd_server.reading.runs import ALERTS_OF_A_RUN
from seismograd_server.reading.series import read_rank_window
from seismograd_server.reading.view import extent_of, read_curves, read_layer_columns
from seismograd_server.store.damage import damaged_steps
from seismograd_server.store.database import Database
from seismograd_server.web.answers import Turns, key_of, number_of
from seismograd_server.web.api import view_of
from seismograd_server.web.clip_panel import ClipPanels
from seismograd_server.web.links import run_path
from seismograd_server.web.ranges import StepRange, chosen_range, range_links, range_query
from seismograd_server.web.rendering import REFRESH_SECONDS, Renderer, drawn
from seismograd_server.web.rows import alert_row, asked_row, run_row
from seismograd_server.web.settings import ClipAdvice
from seismograd_server.web.silence_rows import silence_row
from seismograd_server.web.tallies import Tallies

_ALERTS_SHOWN = 12
_MARKS_SHOWN = 24
_DIRECTIVES_SHOWN = 8
# Ranks are kept step by step only: of a longer range they would be read one by one.
_RANK_STEPS = 4096


class RunPage:
    """The route."""

    def __init__(
        self,
        database: Database,
        snapshot: Callable[[], Snapshot],
        renderer: Renderer,
        clock: Callable[[], float],
        clip_advice: ClipAdvice,
        *,
        tallies: Tallies,
        turns: Turns,
    ) -> None:
        self._turns = turns
        self._database = database
        self._snapshot = snapshot
        self._tallies = tallies
        self._renderer = renderer
        self._clock = clock
        self._clip_panels = ClipPanels(clip_advice)

    async def run_page(self, request: Request) -> Response:
        """GET /runs/{project}/{run}: one run, live. Steps first_step to last_step, or the `latest` so many."""
        key = key_of(request)
        asked = number_of(request, "first_step"), number_of(request, "last_step"), number_of(request, "latest")
        layers = {
            name: request.query_params[name] for name in ("first_layer", "last_layer") if request.query_params.get(name)
        }

        def values() -> dict[str, Any]:
            now = self._clock()
            with self._database.read() as transaction:
                run = transaction.runs.get(key)
                alerts = transaction.alerts.list(project=key.project, run=key.run, limit=ALERTS_OF_A_RUN)
                checkpoints = transaction.runs.checkpoints(run.run_id)
                directives = transaction.directives.of_run(run.run_id, _DIRECTIVES_SHOWN)
                silences = transaction.silences.list(active_at=now)
            shown = [alert for alert in alerts if alert.state is not AlertState.PENDING]
            return {
                **self._facts(run, shown, now),
                **self._charts(run, shown, asked, layers),
                "checkpoint": max((each.step for each in checkpoints), default=None),
                "asked": [asked_row(each) for each in directives],
                "silences": [silence_row(each, now) for each in silences if silences_run(each, key)],
                "clip": self._clip_panels.of(run, len(shown)),
            }

        return await self._turns(lambda: self._renderer.page("run.html", values()))

    def _facts(self, run: Run, shown: Sequence[Alert], now: float) -> dict[str, Any]:
        view = view_of(self._snapshot(), run.run_id)
        firing = [alert for alert in shown if alert.state is AlertState.FIRING]
        numbers = {alert.alert_id: number for number, alert in _marked(shown)}
        return {
            "title": str(run.key),
            "refresh": REFRESH_SECONDS if run.state is RunState.RUNNING else None,
            "run": run,
            "row": run_row(run, firing, self._tallies.of([run]).get(run.run_id), now),
            "alerts": [alert_row(alert, now, numbers.get(alert.alert_id, "")) for alert in shown[:_ALERTS_SHOWN]],
            "alert_count": len(shown),
            "statuses": view.statuses if view else (),
            "started": timestamp(run.started_at),
            "now": timestamp(now),
        }

    def _charts(
        self, run: Run, shown: Sequence[Alert], asked: tuple[int | None, int | None, int | None], layers: dict[str, str]
    ) -> dict[str, Any]:
        empty = {"norm_chart": "", "range_links": [], "damaged": []}
        extent = extent_of(self._database, run.run_id, 0)
        if extent is None:
            return empty
        steps = chosen_range(extent, *asked)
        firing = [alert for alert in shown if alert.state is AlertState.FIRING]
        moments = Moments(onset=min((alert.since_step for alert in firing), default=None))
        data = self._curves(run, steps, moments)
        if data is None:
            return {**empty, "damaged": self._damaged(run)}
        marks = [
            Mark(alert.opened_step, number, alert.severity.label, f"{alert.signature.value}: {alert.reason}")
            for number, alert in _marked(shown)
        ]
        worst = max(shown, key=lambda alert: (alert.severity, -alert.opened_step), default=None)
        path = run_path(run.key)
        return {
            "steps": steps,
            "bucketed": bool(len(np.unique(data.steps)) < len(data.steps)),
            "range_links": range_links(path, steps, worst.opened_step if worst else None, layers),
            "norm_chart": drawn(norm_chart(data, marks, moments, "norm")),
            "norm_table": curve_table(data),
            "loss_chart": drawn(loss_chart(data, marks, moments, "loss")),
            "learning_rate_chart": drawn(learning_rate_chart(data, marks, moments, "learning-rate")),
            "loss_scale_chart": drawn(loss_scale_chart(data, marks, moments, "loss-scale")),
            "ranks_chart": drawn(self._ranks(run, steps, moments, worst)),
            **self._layers(run, steps, moments, layers),
            "damaged": self._damaged(run),  # known when all of the range has been tried
        }

    def _damaged(self, run: Run) -> list[str]:
        found = damaged_steps(self._database.damage.of_run(run.run_id))
        return [damage_sentence(run.key, first, last) for first, last in found]

    def _curves(self, run: Run, steps: StepRange, moments: Moments) -> CurveData | None:
        read = read_curves(self._database, run.run_id, 0, steps.first, steps.last)
        if read is None or isinstance(read, Summary):
            return curves_of_buckets(read, moments.onset) if read is not None and read.count else None
        return curve_data(read, steps.first, steps.last, moments.onset)

    def _ranks(self, run: Run, steps: StepRange, moments: Moments, worst: Alert | None) -> str:
        """Each rank's own norm before the all-reduce, where it was sampled; a long range has none."""
        if run.world_size < 2 or steps.last - steps.first >= _RANK_STEPS:
            return ""
        window = read_rank_window(self._database, run.run_id, 0, steps.first, steps.last, hostnames=())
        if window is None:
            return ""
        suspect = worst.evidence.leading_rank if worst is not None else None
        title = "Norm of each rank's own gradients, logarithmic"
        return ranks_chart(window.steps, window.norm, suspect, moments, title=title, identifier="ranks")

    def _layers(self, run: Run, steps: StepRange, moments: Moments, layers: dict[str, str]) -> dict[str, Any]:
        nothing = {"heat_chart": "", "opened": "", "all_layers": ""}
        try:
            summary = read_layer_columns(self._database, run.run_id, 0, steps.first, steps.last)
        except StorageError as error:
            return {**nothing, "layer_note": printable(str(error))}
        if summary is None:
            return {**nothing, "layer_note": ""}
        first, last = layers.get("first_layer"), layers.get("last_layer")
        rows = layer_rows(summary.names, first, last)
        picture = heatmap_of_buckets(summary, rows, moments.onset)
        if picture is None:
            return {**nothing, "layer_note": "No layer was captured in these steps."}
        path, range_of = run_path(run.key), range_query(steps, {})

        def inside(row: LayerRow) -> str:
            """Leads from a row of several layers to a page of these."""
            ends = {"first_layer": summary.names[row.layers[0]], "last_layer": summary.names[row.layers[-1]]}
            return f"{path}?{_query({**range_of, **ends})}" if len(row.layers) > 1 else ""

        links = [inside(row) for row in rows]
        opened = f"{first} to {last}" if first in summary.names and last in summary.names else ""
        return {
            "heat_chart": drawn(heat_chart(picture, moments, "heat", links)),
            "layer_note": "",
            "opened": opened,
            "all_layers": f"{path}?{_query(range_of)}",
        }


def _query(parameters: dict[str, str]) -> str:
    return urlencode(parameters, errors="surrogatepass")


def _marked(alerts: Sequence[Alert]) -> list[tuple[str, Alert]]:
    """The gravest alerts, numbered by the step at which they opened."""
    grave_first = sorted(alerts, key=lambda alert: -alert.severity)[:_MARKS_SHOWN]
    ordered = sorted(grave_first, key=lambda alert: alert.opened_step)
    return [(str(number), alert) for number, alert in enumerate(ordered, start=1)]
