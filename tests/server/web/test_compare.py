from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from seismograd_server.display.comparison import Curves, comparison_chart
from seismograd_server.model import RunKey
from seismograd_server.report import RunComparer
from seismograd_server.web.links import compare_name
from tests.support.reading import Stocked
from tests.support.synthetic import healthy_norms

Connect = Callable[..., httpx.AsyncClient]
HOSTILE = "<img src=x>/{{ 7*7 }}%2F&run=x"


def get(app: Starlette, connect: Connect, path: str, **settings: object) -> httpx.Response:
    async def request() -> httpx.Response:
        async with connect(app, headers={"accept": "text/html"}) as client:
            return await client.get(path, **settings)  # type: ignore[arg-type] # as a caller gives it

    return asyncio.run(request())


def test_the_api_gives_what_the_comparer_finds(stocked: Stocked, connect: Connect) -> None:
    names = ["mt/healthy", "mt/exploding"]
    response = get(stocked.app(), connect, "/api/v1/compare", params={"run": names, "align": "progress"})
    assert response.json() == RunComparer(stocked.database)(names, "progress")
    refused = get(stocked.app(), connect, "/api/v1/compare", params={"run": "mt/nothing"})
    assert (refused.status_code, "nothing" in refused.json()["error"]) == (404, True)
    assert get(stocked.app(), connect, "/api/v1/compare").status_code == 400


def test_the_page_begins_with_a_choice_and_leads_to_a_comparison(stocked: Stocked, connect: Connect) -> None:
    app = stocked.app()
    assert 'href="/compare?run=mt%2Fexploding"' in get(app, connect, "/compare").text
    one = get(app, connect, "/compare?run=mt/exploding").text
    assert 'href="/compare?run=mt%2Fexploding&amp;run=mt%2Fhealthy"' in one
    both = get(app, connect, "/compare?run=mt/healthy&run=mt/exploding").text
    assert 'class="run-0"' in both
    assert 'class="run-1"' in both
    assert "What they were given differently" in both
    assert 'href="/compare?run=mt%2Fhealthy&amp;run=mt%2Fexploding&amp;align=progress"' in both
    assert "runaway" in both
    assert "of the way" in get(app, connect, "/compare?run=mt/healthy&run=mt/exploding&align=progress").text
    assert "/compare?run=mt/exploding" in get(app, connect, "/runs/mt/exploding").text
    assert get(app, connect, "/compare?run=mt/nothing").status_code == 404


def test_names_from_outside_are_no_markup_and_lead_where_they_say(stocked: Stocked, connect: Connect) -> None:
    stocked.add(HOSTILE, norms=healthy_norms(30))
    app = stocked.app()
    name = compare_name(RunKey("mt", HOSTILE))
    page = get(app, connect, "/compare", params={"run": ["mt/healthy", name]})
    assert page.status_code == 200
    assert "<img" not in page.text
    assert "49" not in page.text.split("<h1>")[1].split("Gradient norm")[0]
    assert get(app, connect, "/compare", params={"run": "mt/healthy"}).text.count("&amp;lt;") == 0


@pytest.mark.parametrize("by_progress", [True, False])
def test_a_chart_of_runs_is_empty_without_a_value_and_draws_lost_ones(by_progress: bool) -> None:
    def chart(*values: list[float]) -> str:
        columns = [np.array(each) for each in values]
        names = [f"run {place}" for place in range(len(values))]
        position = np.linspace(0.0, 1.0, 3) if by_progress else np.arange(3.0)
        return comparison_chart(Curves("Loss", position, columns, names, [(0, 1.0)], by_progress, False), "loss")

    assert chart([np.nan] * 3, [np.inf] * 3) == ""
    drawn = chart([1.0, 2.0, np.inf], [np.nan, 1.0, 1.0])
    assert "1 point that are not finite" in drawn
    assert 'class="run-1"' in drawn
