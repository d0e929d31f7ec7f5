"""Runs side by side: the answer of the API, and its page, drawn from that answer."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlencode

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.display.comparison import Curves, comparison_chart
from seismograd_server.display.look import key_swatch
from seismograd_server.model import Float64, RunKey
from seismograd_server.reading.encoding import Json
from seismograd_server.store.database import Database
from seismograd_server.web.answers import Turns
from seismograd_server.web.links import compare_name
from seismograd_server.web.rendering import Renderer, drawn
from seismograd_server.web.settings import Compare

# Runs offered to be compared with: the newest of the project.
_OFFERED = 30
_CHARTS = (("grad_norm", "Gradient norm, logarithmic", True), ("loss", "Loss", False))


class ComparePage:
    """The routes of the comparison."""

    def __init__(self, database: Database, compare: Compare, renderer: Renderer, *, turns: Turns) -> None:
        self._database = database
        self._compare = compare
        self._renderer = renderer
        self._turns = turns

    async def compare(self, request: Request) -> Response:
        """GET /api/v1/compare: runs side by side, each `run` as project/run; `align` by step or by progress.

        What they were given differently, what each alerted of, their curves over one axis, and where each but the
        first parts from the first.
        """
        names = request.query_params.getlist("run")
        align = request.query_params.get("align") or "step"
        return await self._turns.json(lambda: self._compare(names, align))

    async def compared(self, request: Request) -> Response:
        """GET /compare: runs side by side, each `run` as project/run; `align` by step or by progress."""
        names = [name for name in request.query_params.getlist("run") if name.strip()]
        align = request.query_params.get("align") or "step"
        return await self._turns(lambda: self._renderer.page("compare.html", self._values(names, align)))

    def _values(self, names: list[str], align: str) -> dict[str, Any]:
        found = self._compare(names, align) if names else None
        runs = found["runs"] if found else []
        keys = [RunKey(run["project"], run["run"]) for run in runs]
        others = self._others(keys)
        return {
            "title": " and ".join(str(key) for key in keys) or "Compare",
            "here": "runs",
            "refresh": None,
            "runs": [
                {**run, "key": key, "swatch": drawn(key_swatch(f"run-{place}")), "without": _address(keys, align, key)}
                for place, (run, key) in enumerate(zip(runs, keys, strict=True))
            ],
            "differences": found["differences"] if found else [],
            "sentences": [pair["sentence"] for pair in found["partings"]] if found else [],
            "notes": found["notes"] if found else [],
            "charts": _charts(found) if found and len(runs) > 1 else [],
            "align": align,
            "other_align": "progress" if align == "step" else "step",
            "realigned": _address(keys, "progress" if align == "step" else "step"),
            "offers": [(key, _address([*keys, key], align)) for key in others],
        }

    def _others(self, keys: list[RunKey]) -> list[RunKey]:
        project = keys[0].project if keys else None
        with self._database.read() as transaction:
            runs = transaction.runs.list(project, None, _OFFERED + len(keys), None)
        return [run.key for run in runs if run.key not in keys][:_OFFERED]


def _address(keys: list[RunKey], align: str, without: RunKey | None = None) -> str:
    query = [("run", compare_name(key)) for key in keys if key != without]
    query += [("align", align)] if align != "step" else []
    return f"/compare?{urlencode(query, errors='surrogatepass')}" if query else "/compare"


def _charts(found: Json) -> list[dict[str, Any]]:
    series, align = found["series"], found["align"]
    position = np.array(series[align], np.float64)
    if not len(position):
        return []
    names = [f"{run['project']}/{run['run']}" for run in found["runs"]]
    charts = []
    for quantity, title, logarithmic in _CHARTS:
        partings = [
            (pair["run"], pair["position"])
            for pair in found["partings"]
            if pair["quantity"] == quantity and pair["parted"]
        ]
        values = [_values(column) for column in series[quantity]]
        curves = Curves(title, position, values, names, partings, align == "progress", logarithmic)
        if svg := comparison_chart(curves, quantity.replace("_", "-")):
            charts.append({"title": title, "svg": drawn(svg)})
    return charts


def _values(column: list[Any]) -> Float64:
    """A column of the API as numbers; null and what is not a number = NaN, infinities as they are."""
    return np.array([math.nan if value is None else float(value) for value in column], np.float64)
