from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from seismograd_server.display.distribution import distribution_chart
from seismograd_server.model import RankIdentity, RunKey
from seismograd_server.reading.sampling import read_sample
from seismograd_server.report import ClipAdviser
from seismograd_server.store.progress import Progress
from seismograd_server.web.clip_panel import ClipPanels
from tests.support.closed import run_of
from tests.support.long_run import KEY, LongRun, write
from tests.support.reading import EXPLODING, Stocked
from tests.support.synthetic import NOW

Connect = Callable[..., httpx.AsyncClient]
PATH = "/api/v1/runs/mt/exploding/clip"


def get(app: Starlette, connect: Connect, path: str, **headers: str) -> httpx.Response:
    async def request() -> httpx.Response:
        async with connect(app, headers=headers) as client:
            return await client.get(path)

    return asyncio.run(request())


def test_the_api_says_what_the_study_says(stocked: Stocked, connect: Connect) -> None:
    answer = get(stocked.app(), connect, f"{PATH}?at=0.5&at=2").json()
    assert answer == ClipAdviser(stocked.database)(EXPLODING, [0.5, 2.0])
    assert (answer["looked_at"], answer["closed_steps"]) == (200, 200)
    assert answer["left_out"]["exploding"] > 0
    assert len(answer["formulas"]) == 3


def test_a_long_run_is_looked_at_in_a_sample_and_whole_when_somebody_asks(
    empty_store: Stocked, connect: Connect
) -> None:
    write(empty_store.database, LongRun(steps=80_000, layers=1, ranks=1), NOW)
    path, app = f"/api/v1/runs/{KEY.project}/{KEY.run}/clip", empty_store.app()
    sample, whole = get(app, connect, path).json(), get(app, connect, f"{path}?steps=100000").json()
    assert (sample["looked_at"], sample["closed_steps"]) == (65_536, 80_000)
    assert (whole["looked_at"], whole["closed_steps"]) == (80_000, 80_000)
    assert sample["recommended"]["threshold"] == pytest.approx(whole["recommended"]["threshold"], rel=0.05)


@pytest.mark.parametrize("query", ["at=nan", "at=-1", "at=0", "at=1e999", "at=much", "steps=0", "steps=x"])
def test_what_is_no_threshold_is_refused_by_name(stocked: Stocked, connect: Connect, query: str) -> None:
    response = get(stocked.app(), connect, f"{PATH}?{query}")
    assert response.status_code == 400
    assert response.json()["error"].startswith(query.split("=", maxsplit=1)[0])


def test_too_many_thresholds_are_refused(stocked: Stocked, connect: Connect) -> None:
    response = get(stocked.app(), connect, PATH + "?" + "&".join(f"at={each}" for each in range(1, 40)))
    assert (response.status_code, "39 thresholds" in response.json()["error"]) == (400, True)


def test_the_page_shows_the_recommended_threshold_among_the_norms(stocked: Stocked, connect: Connect) -> None:
    page = get(stocked.app(), connect, "/runs/mt/exploding", accept="text/html").text
    recommended = ClipAdviser(stocked.database)(EXPLODING)["recommended"]
    assert "(recommended)" in page
    assert recommended["reason"].split(".")[0] in page
    assert 'class="recommended-line"' in page
    assert "What this cannot know" in page


def test_a_panel_is_made_again_when_a_run_has_gone_on_or_alerted(stocked: Stocked) -> None:
    asked = []

    def advice(key: RunKey, thresholds: Sequence[float] = (), most_steps: int | None = None) -> Any:
        asked.append(key)
        return ClipAdviser(stocked.database)(key, thresholds, most_steps)

    panels = ClipPanels(advice)
    with stocked.database.read() as transaction:
        run, other = (transaction.runs.get(RunKey("mt", name)) for name in ("exploding", "healthy"))
    first = panels.of(run, 2)
    assert first is panels.of(run, 2)
    assert first is panels.of(replace(run, closed_steps=202), 2)
    assert asked == [run.key]
    panels.of(replace(run, closed_steps=203), 2)
    panels.of(run, 2)
    panels.of(run, 3)
    panels.of(other, 3)
    assert asked == [run.key] * 4 + [other.key]
    for place in range(200):
        panels.of(replace(other, run_id=1000 + place), 0)
    panels.of(run, 3)
    assert asked[-1] == run.key


def test_a_page_of_a_run_without_a_step_has_no_panel(empty_store: Stocked, connect: Connect) -> None:
    empty_store.add("new", norms=np.zeros(0), finish=False)
    page = get(empty_store.app(), connect, "/runs/mt/new", accept="text/html")
    assert page.status_code == 200
    assert "Clipping" not in page.text


def test_a_chart_of_nothing_is_empty_and_one_of_a_single_norm_is_not() -> None:
    settings: dict[str, Any] = {"in_force": None, "recommended": 1.0, "identifier": "x"}
    assert distribution_chart(np.zeros(0, np.int64), 0.0, 0.25, **settings) == ""
    assert 'class="bar"' in distribution_chart(np.array([3]), 0.0, 0.25, **settings)


def test_a_sample_of_steps_numbered_far_apart_has_its_share_of_them(empty_store: Stocked) -> None:
    key = RunKey("mt", "sparse")
    with empty_store.database.begin() as transaction:
        transaction.runs.open_rank(RankIdentity(key, "launch", 0, 1, "session"), NOW)
        run_id = transaction.runs.get(key).run_id
        launch = transaction.runs.launches(run_id)[-1]
        for first in range(0, 600, 60):
            steps = 1000 * np.arange(first, first + 60, dtype=np.int64)
            transaction.steps.append(run_id, launch.launch_row, 0, run_of(np.ones(60), steps=steps))
        transaction.runs.progress([Progress(run_id, 599_000, 600, NOW)])
        run = transaction.runs.get(key)
    series = read_sample(empty_store.database, run, 0, 256)
    assert run.closed_steps == 600
    assert 200 <= series.count <= 320
    assert (series.steps[0], series.steps[-1]) == (0, 599_000)


LONG = LongRun(steps=10_000, layers=3, ranks=1)


def test_a_sample_of_a_long_run_says_nearly_the_same_as_all_of_it(empty_store: Stocked) -> None:
    write(empty_store.database, LONG, NOW)
    adviser = ClipAdviser(empty_store.database)
    whole, sample = adviser(KEY), adviser(KEY, most_steps=2048)
    assert (whole["looked_at"], whole["closed_steps"]) == (10_000, 10_000)
    assert (sample["looked_at"], sample["closed_steps"]) == (2048, 10_000)
    assert any("Of 10,000 steps 2,048 were looked at" in limit for limit in sample["cannot_know"])
    assert [tenth["steps"] > 0 for tenth in sample["tenths"]] == [True] * 10
    assert sample["recommended"]["threshold"] == pytest.approx(whole["recommended"]["threshold"], rel=0.05)
    assert sample["now"]["mean_coefficient"] == pytest.approx(whole["now"]["mean_coefficient"], rel=0.01)
    with empty_store.database.read() as transaction:
        run = transaction.runs.get(KEY)
    steps = read_sample(empty_store.database, run, 0, 2048).steps
    assert (np.diff(steps) > 0).all()
    assert (steps[0], steps[-1]) == (0, 9_999)
