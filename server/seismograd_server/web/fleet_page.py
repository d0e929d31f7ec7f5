"""The first page: all runs, and what is wrong with which of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.display.text import plural
from seismograd_server.model import Alert, AlertState, Run, RunState
from seismograd_server.reading.incidents import read_incidents
from seismograd_server.reading.runs import firing_alerts
from seismograd_server.store.database import Database
from seismograd_server.web.answers import Turns, choice_of, number_of
from seismograd_server.web.rendering import REFRESH_SECONDS, Renderer
from seismograd_server.web.rows import run_row
from seismograd_server.web.settings import WebSettings
from seismograd_server.web.silence_rows import silence_row
from seismograd_server.web.tallies import Tallies

_RUNS_SHOWN = 100
_INCIDENTS_SHOWN = 10
# Where nothing runs, a new run is what is waited for.
_IDLE_REFRESH_SECONDS = 10


@dataclass(frozen=True, slots=True)
class _Asked:
    project: str | None
    state: RunState | None
    search: str
    before: int | None

    @property
    def everything(self) -> bool:
        """Whether no run is left out."""
        return self.project is None and self.state is None and not self.search

    def address(self, **changes: str) -> str:
        """The address of the same list with some parameters changed."""
        names = {
            "project": self.project or "",
            "search": self.search,
            "state": self.state.value if self.state else "",
        }
        kept = {name: value for name, value in (names | changes).items() if value}
        return f"/?{urlencode(kept, errors='surrogatepass')}" if kept else "/"


class FleetPage:
    """The route."""

    def __init__(
        self,
        database: Database,
        tallies: Tallies,
        renderer: Renderer,
        settings: WebSettings,
        clock: Callable[[], float],
        *,
        turns: Turns,
    ) -> None:
        self._turns = turns
        self._database = database
        self._tallies = tallies
        self._renderer = renderer
        self._settings = settings
        self._clock = clock

    async def fleet(self, request: Request) -> Response:
        """GET /: all runs, newest first, those that fire above; of a `project`, in a `state`, `search` in its name."""
        asked = _Asked(
            project=request.query_params.get("project") or None,
            state=choice_of(request, "state", RunState, [each.value for each in RunState]),
            search=request.query_params.get("search", "").strip(),
            before=number_of(request, "before"),
        )
        return await self._turns(lambda: self._renderer.page("fleet.html", self._values(asked)))

    def _values(self, asked: _Asked) -> dict[str, Any]:
        now = self._clock()
        alerts = firing_alerts(self._database)
        chosen = asked.project, asked.state
        with self._database.read() as transaction:
            rest = transaction.runs.list(*chosen, _RUNS_SHOWN + 1, asked.before, search=asked.search)
            # What fires stands above everything, however old it is, and on the first page alone.
            firing = transaction.runs.list(*chosen, _RUNS_SHOWN, asked.before, search=asked.search, among=alerts)
            silences = transaction.silences.list(active_at=now)
            precision = transaction.alerts.precision(asked.project)
            states = transaction.runs.states(asked.project, asked.search)
        above = {run.run_id for run in firing}
        runs = [*firing, *(run for run in rest[:_RUNS_SHOWN] if run.run_id not in above)]
        count, running = sum(states.values()), states.get(RunState.RUNNING, 0)
        return {
            "title": "Runs",
            "here": "runs",
            "refresh": REFRESH_SECONDS if running else _IDLE_REFRESH_SECONDS,
            "rows": self._rows(runs, alerts, now),
            "asked": asked,
            "states": [each.value for each in RunState],
            "older": asked.address(before=str(rest[_RUNS_SHOWN - 1].run_id)) if len(rest) > _RUNS_SHOWN else "",
            "counts": f"{plural(count, 'run')}, {running:,} running, {len(above):,} firing",
            "grpc_address": self._settings.grpc_address,
            "silences": [silence_row(each, now) for each in silences],
            "precision": precision,
            "incidents": read_incidents(self._database, AlertState.FIRING, _INCIDENTS_SHOWN, None),
        }

    def _rows(self, runs: list[Run], alerts: dict[int, list[Alert]], now: float) -> list[dict[str, Any]]:
        tallies = self._tallies.of(runs)
        rows = [run_row(run, alerts.get(run.run_id, []), tallies.get(run.run_id), now) for run in runs]
        rows.sort(key=lambda row: -row["rank"])  # stable: newest first within a severity
        return rows
