"""The part of the JSON API that is about series and layers: any range of a run in as many points as are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.model import TALLIES, Float32, Float64, Run, Summary, SummaryKind
from seismograd_server.reading.buckets import SERIES_NAMES, merged
from seismograd_server.reading.encoding import Json, column
from seismograd_server.reading.history import Series
from seismograd_server.reading.layer_columns import LayerColumns, LayerThinning
from seismograd_server.reading.layers import LayerQuantity
from seismograd_server.reading.lines import visible_stretches
from seismograd_server.reading.resolution import Plan, plan_for, plan_of_steps
from seismograd_server.reading.runs import find_run
from seismograd_server.reading.series import joined, series_of, step_pages
from seismograd_server.reading.stored import Asked, lines_of
from seismograd_server.reading.summaries import summary_pages
from seismograd_server.store.damage import damaged_steps
from seismograd_server.store.database import Database
from seismograd_server.web.answers import Turns, choice_of, key_of, number_of, points_of, range_of

# Points of a series: enough for any screen by default, a few megabytes of JSON at most. All of it is in QueryService.
_POINTS = 2000
_MOST_POINTS = 20_000
# Steps of the layers shown when no range is asked for, and columns of the answer.
_LAYER_STEPS = 240
_LAYER_COLUMNS = 120
_MOST_COLUMNS = 1000
# Numbers in the answer: some five megabytes of JSON. A model of very many layers gets fewer columns.
_MOST_VALUES = 2**19
_WHOLE_SERIES = {"step": "steps", "attempt": "attempts", "flags": "flags", "ranks_present": "ranks_present"}
_NUMBERS = {
    "time": "times",
    "grad_norm": "norm",
    "learning_rate": "learning_rate",
    "loss_scale": "loss_scale",
    "clip_threshold": "clip_threshold",
    "clip_coefficient": "clip_coefficient",
    "step_seconds": "step_seconds",
}


class SeriesApi:
    """The routes; each reads the store in worker threads, page by page, until it is done or nobody waits for it."""

    def __init__(self, database: Database, *, turns: Turns) -> None:
        self._database = database
        self._turns = turns

    async def series(self, request: Request) -> Response:
        """GET .../series: closed steps in columns; of a longer range the extremes and means of `resolution` steps each.

        At most `points` rows. At a resolution of 1 the columns are the numbers of each step; above it there are three
        of each number, as `grad_norm_min`, `grad_norm_max`, `grad_norm_mean`, of the steps from `step` to `last_step`.
        Where single steps have been removed that the range cannot do without, it is widened to whole buckets, `detail`
        says so, and `kept` names the ranges in which they are still there.
        """
        key, optimizer = key_of(request), number_of(request, "optimizer", 0) or 0
        first, last = range_of(request)
        points = points_of(request, "points", _POINTS, _MOST_POINTS)

        def prepared() -> Plan:
            run = find_run(self._database, key)
            return plan_for(self._database, Asked(run.run_id, optimizer, SummaryKind.SERIES, first, last), points)

        plan = await self._turns(prepared)
        head: Json = {"project": key.project, "run": key.run, "optimizer": optimizer}
        head |= {"resolution": plan.size, **_detail(plan)}
        if plan.size == 1:
            steps = await self._turns.pages(request, self._steps(plan.asked))
            return await self._turns.json(lambda: {**head, **series_json(joined(steps)), **self._damaged(plan.asked)})
        summaries = await self._turns.pages(request, summary_pages(self._database, plan.asked, plan.size))
        return await self._turns.json(
            lambda: {**head, **_summary_json(summaries, plan.size), **self._damaged(plan.asked)}
        )

    def _damaged(self, asked: Asked) -> Json:
        """The ranges of steps of which something could not be read; known when all of it has been tried."""
        found = self._database.damage.of_run(asked.run_id, asked.first_step, asked.last_step)
        return {"damaged": [{"first_step": first, "last_step": last} for first, last in damaged_steps(found)]}

    def _steps(self, asked: Asked) -> Iterator[Series]:
        for page in step_pages(self._database, asked.run_id, asked.optimizer, asked.first_step, asked.last_step):
            yield series_of(page)

    async def layers(self, request: Request) -> Response:
        """GET .../layers: one number per layer over a range of steps, the largest of each column of steps.

        `quantity` says which one (default: the gradient's norm); of `local_gradient_norm` that of one `rank`. Of the
        gradient's norm the smallest and the mean of each column are there as well. The other quantities are read step
        by step, and where steps have been removed nothing is known of them: `detail` and `kept` say so, as of series.
        """
        key, optimizer = key_of(request), number_of(request, "optimizer", 0) or 0
        first, last = range_of(request)
        columns = points_of(request, "columns", _LAYER_COLUMNS, _MOST_COLUMNS)
        known = [each.value for each in LayerQuantity]
        quantity = choice_of(request, "quantity", LayerQuantity, known) or LayerQuantity.GRAD_NORM
        rank = number_of(request, "rank", 0) or 0

        def prepared() -> tuple[Run, Plan]:
            run = find_run(self._database, key)
            lines = lines_of(self._database, run.run_id, optimizer)
            seen = visible_stretches(lines, first, last)
            start = seen[-1].last_step - _LAYER_STEPS + 1 if first is None and seen else first
            asked = Asked(run.run_id, optimizer, SummaryKind.LAYERS, start, seen[-1].last_step if seen else last)
            if quantity is LayerQuantity.GRAD_NORM:
                return run, plan_for(self._database, asked, columns)
            return run, plan_of_steps(self._database, asked)

        run, plan = await self._turns(prepared)
        asked = plan.asked
        head: Json = {"project": key.project, "run": key.run, "layers": [], "steps": [], quantity.value: []}
        head |= _detail(plan)
        if quantity is LayerQuantity.GRAD_NORM:
            parts = await self._turns.pages(request, summary_pages(self._database, asked, plan.size))
            return await self._turns.json(lambda: {**head, **_layers_json(parts, plan.size), **self._damaged(asked)})

        thinning = LayerThinning(quantity, rank, columns, _MOST_VALUES)
        if asked.first_step is not None and asked.last_step is not None:
            read = thinning.read(self._database, run, optimizer, asked.first_step, asked.last_step)
            await self._turns.pages(request, read)
        return await self._turns.json(
            lambda: {**head, **_columns_json(thinning.found, quantity), **self._damaged(asked)}
        )


def series_json(series: Series) -> Json:
    """Single steps as columns."""
    columns: Json = {name: getattr(series, field).tolist() for name, field in _WHOLE_SERIES.items()}
    columns |= {name: column(getattr(series, field)) for name, field in _NUMBERS.items()}
    columns["loss"] = column(series.loss, series.loss_known)
    columns["nonfinite"] = series.nonfinite.sum(axis=1).tolist()
    return {"count": series.count, "closed_steps": series.count, "thinned": False, "series": columns}


def _detail(plan: Plan) -> Json:
    """Whether single steps are kept, and where some are not, the ranges of those that are."""
    if plan.detail_kept:
        return {"detail": "kept"}
    return {"detail": "removed", "kept": [{"first_step": first, "last_step": last} for first, last in plan.kept]}


def _summary_json(parts: Sequence[Summary], size: int) -> Json:
    """Buckets as columns."""
    summary = merged(parts, size)
    if summary is None:
        return series_json(joined([]))
    columns: Json = {
        "step": summary.first_steps.tolist(),
        "last_step": summary.last_steps.tolist(),
        "steps": summary.steps.tolist(),
        **{name: summary.tallies[:, place].tolist() for place, name in enumerate(TALLIES)},
    }
    for place, name in enumerate(SERIES_NAMES):
        columns[f"{name}_min"] = column(summary.minimum[:, place])
        columns[f"{name}_max"] = column(summary.maximum[:, place])
        columns[f"{name}_mean"] = column(summary.mean[:, place])
    # A loss that is NaN is told here: there is nothing to compare it by.
    columns["loss_nonfinite"] = summary.nonfinite[:, SERIES_NAMES.index("loss")].tolist()
    return {"count": summary.count, "closed_steps": int(summary.steps.sum()), "thinned": True, "series": columns}


def _layers_json(parts: Sequence[Summary], size: int) -> Json:
    summary = merged(parts, size)
    # Around step 0 there are two buckets of any size, and fewer there will never be.
    while summary is not None and summary.count > max(2, _MOST_VALUES // max(1, len(summary.names))):
        size *= 2
        summary = merged([summary], size)
    if summary is None or not (summary.known.any() or summary.nonfinite.any()):
        return {"resolution": size}
    return {
        "resolution": size,
        "layers": list(summary.names),
        "steps": summary.first_steps.tolist(),
        "last_steps": summary.last_steps.tolist(),
        "grad_norm": _table(summary.maximum),
        "grad_norm_min": _table(summary.minimum),
        "grad_norm_mean": _table(summary.mean),
        "nonfinite_steps": summary.nonfinite.tolist(),
    }


def _columns_json(found: LayerColumns | None, quantity: LayerQuantity) -> Json:
    if found is None:
        return {}
    return {"layers": list(found.names), "steps": found.steps.tolist(), quantity.value: _table(found.values)}


def _table(rows: Float32 | Float64) -> list[list[object]]:
    return [column(row) for row in rows]
