from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete

from seismograd_server.maintenance.summarising import Summarising
from seismograd_server.model import Line, SummaryKind
from seismograd_server.pipeline import Arrival
from seismograd_server.reading.resolution import plan_for, size_for
from seismograd_server.reading.stored import Asked
from seismograd_server.reading.summaries import read_summary
from seismograd_server.reading.view import read_trail
from seismograd_server.store.schema import closed_blocks, segments
from tests.support.reading import Stocked
from tests.support.synthetic import NOW, SyntheticRun, healthy_norms

NORMS = healthy_norms(1500)
TOTALS = np.sqrt(np.square(NORMS, dtype=np.float64).sum(axis=1))
PATH = "/api/v1/runs/mt/old"


@pytest.fixture
def old(empty_store: Stocked) -> Stocked:
    """A run of 1,500 steps in blocks of a hundred, over and summarised."""
    run = SyntheticRun(empty_store.pipeline, name="old", world_size=1, norms=NORMS).open()
    for first in range(0, 1500, 100):
        run.send(first, first + 100)
        empty_store.pipeline.detect(NOW + first)
    run.close(NOW + 2000)
    chore = Summarising(empty_store.database)
    while chore.step(NOW):
        pass
    return empty_store


def forget(store: Stocked, below: int, *, blocks: bool = True) -> None:
    """As retention does: whole rows of what is older."""
    with store.database.begin() as transaction:
        transaction.connection.execute(delete(segments).where(segments.c.last_step < below))
        if blocks:
            transaction.connection.execute(delete(closed_blocks).where(closed_blocks.c.last_step < below))


def test_a_range_of_which_single_steps_are_gone_is_shown_by_its_summaries(
    old: Stocked, connect: Callable[..., Any]
) -> None:
    async def get(path: str) -> Any:
        async with connect(old.app()) as client:
            response = await client.get(path)
            assert response.status_code == 200, response.text
            return response.json()

    whole = asyncio.run(get(f"{PATH}/series?first_step=70&last_step=130"))
    assert (whole["detail"], whole["resolution"], whole["count"]) == ("kept", 1, 61)
    forget(old, 700)
    gone = asyncio.run(get(f"{PATH}/series?first_step=70&last_step=130"))
    assert (gone["detail"], gone["resolution"], gone["series"]["step"]) == ("removed", 64, [64, 128])
    assert gone["kept"] == []
    amid = asyncio.run(get(f"{PATH}/series?first_step=600&last_step=1000"))
    assert (amid["detail"], amid["kept"]) == ("removed", [{"first_step": 700, "last_step": 1023}])
    again = asyncio.run(get(f"{PATH}/series?first_step=700&last_step=1023"))
    assert (again["detail"], again["series"]["step"]) == ("kept", list(range(700, 1024)))
    assert gone["series"]["grad_norm_max"] == [TOTALS[64:128].max(), TOTALS[128:192].max()]
    layers = asyncio.run(get(f"{PATH}/layers?first_step=300&last_step=310"))
    assert (layers["detail"], layers["resolution"], layers["steps"]) == ("removed", 256, [256])
    np.testing.assert_allclose(layers["grad_norm"], [NORMS[256:512].max(axis=0)])
    kept = asyncio.run(get(f"{PATH}/layers?first_step=1300&last_step=1310"))
    assert (kept["detail"], kept["resolution"]) == ("kept", 1)
    np.testing.assert_allclose(kept["grad_norm"], NORMS[1300:1311])


def test_where_steps_are_far_apart_what_lies_between_them_is_no_hole(empty_store: Stocked) -> None:
    run = SyntheticRun(empty_store.pipeline, name="old", world_size=1, norms=NORMS[:300]).open()
    for first in range(0, 300, 50):
        every_twentieth = 20 * np.arange(first, first + 50)
        empty_store.pipeline.ingest([Arrival(batches=(run.batch(0, first, first + 50, steps=every_twentieth),))], NOW)
        empty_store.pipeline.detect(NOW + first)
    run.close(NOW + 2000)
    chore = Summarising(empty_store.database)
    while chore.step(NOW):
        pass
    forget(empty_store, 2000)
    assert plan_for(empty_store.database, Asked(1, 0, SummaryKind.SERIES, 1900, 1950), 100).kept == ()
    assert plan_for(empty_store.database, Asked(1, 0, SummaryKind.SERIES, 1900, 4100), 2300).kept == ((2000, 4140),)


def test_the_whole_run_is_in_its_summaries_when_only_they_are_left(old: Stocked) -> None:
    forget(old, 10_000)
    for kind, truth in ((SummaryKind.SERIES, TOTALS), (SummaryKind.LAYERS, NORMS)):
        plan = plan_for(old.database, Asked(1, 0, kind), 2000)
        assert not plan.detail_kept
        summary = read_summary(old.database, plan.asked, plan.size)
        assert summary is not None
        assert summary.steps.sum() == 1500
        column = 1 if kind is SummaryKind.SERIES else slice(None)
        np.testing.assert_allclose(np.max(summary.maximum[:, column], axis=0), truth.max(axis=0))


@pytest.mark.parametrize("removed_below", [0, 700, 10_000])
def test_the_picture_of_a_run_covers_all_of_it_whatever_has_been_removed(old: Stocked, removed_below: int) -> None:
    forget(old, removed_below)
    summary = read_trail(old.database, 1)
    assert summary is not None
    assert summary.steps.sum() == 1500
    assert summary.maximum[:, 1].max() == TOTALS.max()


def test_the_series_may_be_kept_when_the_layers_are_not(old: Stocked) -> None:
    forget(old, 10_000, blocks=False)
    assert plan_for(old.database, Asked(1, 0, SummaryKind.SERIES, 10, 20), 100).detail_kept
    assert not plan_for(old.database, Asked(1, 0, SummaryKind.LAYERS, 10, 20), 100).detail_kept


def test_a_gap_in_the_steps_is_nothing_that_was_removed(empty_store: Stocked) -> None:
    empty_store.add("sparse", steps=60)
    plan = plan_for(empty_store.database, Asked(1, 0, SummaryKind.SERIES, 500, 600), 100)
    assert plan.detail_kept
    assert read_summary(empty_store.database, plan.asked, plan.size) is None


@pytest.mark.parametrize(
    ("first", "last", "points", "size"),
    [
        (0, 999, 1000, 1),
        (0, 999, 999, 2),
        (3, 1002, 500, 4),  # aligned, so that an end falls into one bucket more
        (0, 8191, 1000, 16),  # read step by step
        (0, 9999, 1000, 64),  # from the finest buckets that are stored, however few they are
        (0, 999_999, 2000, 512),
        (0, 2**62, 10, 2**59),
        (-10, 9, 2, 16),
        (-10, 9, 1, 16),  # one bucket ends before step 0, and another begins there
        (-1, 0, 1, 1),
        (-10, -1, 1, 16),
        (1 - 2**62, 2**62 - 1, 1, 2**62),
        (0, 2**62 + 9, 1, 2**62),  # larger ones could not be counted
    ],
)
def test_buckets_are_as_long_as_the_points_ask_for(first: int, last: int, points: int, size: int) -> None:
    line = Line(0, 1, 0, first, last, None)
    assert size_for(Asked(1, 0, SummaryKind.SERIES), [line], points) == size
