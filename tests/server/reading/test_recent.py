from __future__ import annotations

import numpy as np
import pytest

from seismograd_server.pipeline import Arrival
from seismograd_server.reading import recent as module
from seismograd_server.reading.history import Series
from seismograd_server.reading.recent import RecentSeries
from seismograd_server.reading.series import read_series
from seismograd_server.store.database import Database
from tests.support.reading import Stocked
from tests.support.synthetic import NOW, SyntheticRun, healthy_norms


@pytest.fixture
def firsts(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """From which step on the store was read, each time."""
    found: list[int | None] = []

    def read(database: Database, run_id: int, optimizer: int, first_step: int | None = None) -> Series:
        found.append(first_step)
        return read_series(database, run_id, optimizer, first_step)

    monkeypatch.setattr(module, "read_series", read)
    return found


def same(given: Series, store: Stocked) -> bool:
    whole = read_series(store.database, 1, 0)
    return all(
        np.array_equal(getattr(given, name), getattr(whole, name), equal_nan=getattr(whole, name).dtype.kind == "f")
        for name in Series.__dataclass_fields__
    )


def test_only_new_steps_are_read_of_a_run_that_goes_on(empty_store: Stocked, firsts: list[int | None]) -> None:
    recent, pipeline = RecentSeries(empty_store.database), empty_store.pipeline
    run = SyntheticRun(pipeline, world_size=1, norms=healthy_norms(64)).open()
    assert recent.read(1, 0).count == 0
    for first in (0, 16, 32):
        run.send(first, first + 16)
        pipeline.detect(NOW)
        assert same(recent.read(1, 0), empty_store)
        assert same(recent.read(1, 0), empty_store)
    assert firsts == [None, None, 16, 32]


def test_a_run_that_goes_back_is_read_again(empty_store: Stocked, firsts: list[int | None]) -> None:
    recent, pipeline = RecentSeries(empty_store.database), empty_store.pipeline
    run = SyntheticRun(pipeline, world_size=1, norms=healthy_norms(64)).open()
    run.send(0, 32)
    pipeline.detect(NOW)
    assert recent.read(1, 0).count == 32
    rewound = run.batch(0, 32, 40, steps=np.arange(8, 16, dtype=np.int64), branch=1)
    pipeline.ingest([Arrival(batches=(rewound,))], NOW)
    pipeline.detect(NOW)
    assert recent.read(1, 0).steps.tolist() == list(range(16))
    assert same(recent.read(1, 0), empty_store)
    assert firsts == [None, None]


def test_what_is_kept_is_bounded(stocked: Stocked, firsts: list[int | None]) -> None:
    recent = RecentSeries(stocked.database, most_steps=200)  # the first run has 200, the second 60
    for run_id in (1, 1, 2, 2, 1):
        assert recent.read(run_id, 0).count
    assert firsts == [None, None, None]
