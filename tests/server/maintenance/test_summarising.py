from __future__ import annotations

import numpy as np
import pytest

from seismograd_server.errors import StorageBusyError
from seismograd_server.maintenance import summarising
from seismograd_server.maintenance.summarising import Summarising
from seismograd_server.model import Catalog, RunKey, SummaryKind
from seismograd_server.pipeline import Arrival
from seismograd_server.reading.stored import Asked, lines_of
from seismograd_server.reading.summaries import read_summary
from tests.support.reading import Stocked
from tests.support.synthetic import NOW, SyntheticRun, healthy_norms, make_batch, parameters

LAYERS = Asked(1, 0, SummaryKind.LAYERS)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of a hundred steps instead of a thousand."""
    monkeypatch.setattr(summarising, "_PIECE_STEPS", 100)
    monkeypatch.setattr(summarising, "_MOVED_STEPS", 50)


def test_a_run_that_goes_on_is_summarised_in_whole_pieces_and_at_its_end_to_the_last_step(empty_store: Stocked) -> None:
    database, pipeline = empty_store.database, empty_store.pipeline
    norms = healthy_norms(350)
    run = SyntheticRun(pipeline, world_size=2, norms=norms).open()
    chore = Summarising(database)
    assert not chore.step(NOW)
    run.send(0, 250)
    pipeline.detect(NOW)
    assert not chore.step(NOW + 1), "it looked a moment ago"

    assert [chore.step(NOW + 20) for _ in range(3)] == [True, True, False]
    assert [line.summarised_to for line in lines_of(database, 1, 0)] == [199]

    run.send(250, 350)
    pipeline.detect(NOW + 20)
    run.close(NOW + 21)
    while chore.step(NOW + 40):
        pass
    (line,) = lines_of(database, 1, 0)
    assert line.summarised_to == line.last_step == 349
    summary = read_summary(database, LAYERS, 256)
    assert summary is not None
    assert summary.steps.tolist() == [256, 94]
    np.testing.assert_array_equal(summary.maximum, [norms[:256].max(axis=0), norms[256:].max(axis=0)])


def test_another_optimizer_is_summarised_while_the_first_one_rests(empty_store: Stocked) -> None:
    database, pipeline = empty_store.database, empty_store.pipeline
    norms = healthy_norms(250)
    run = SyntheticRun(pipeline, world_size=1, norms=norms)
    catalogs = [Catalog(optimizer, 0, parameters()) for optimizer in (0, 1)]
    run.opened = [pipeline.open_rank(run.identity(0), catalogs, NOW)]
    run.send(0, 10)
    pipeline.detect(NOW, hurry=True)
    chore = Summarising(database)
    chore.step(NOW)

    pipeline.ingest([Arrival(batches=(make_batch(run.handle(0), 0, norms, optimizer=1),))], NOW)
    pipeline.detect(NOW, hurry=True)
    while chore.step(NOW + 20):
        pass

    assert [line.summarised_to for line in lines_of(database, 1, 1)] == [199]


def test_runs_take_turns(empty_store: Stocked) -> None:
    for name in ("one", "two"):
        empty_store.add(name, steps=250, world_size=1)
    chore = Summarising(empty_store.database)
    chore.step(NOW)
    chore.step(NOW)
    assert [lines_of(empty_store.database, run, 0)[0].summarised_to for run in (1, 2)] == [99, 99]


def test_a_run_that_is_deleted_meanwhile_is_left_alone(empty_store: Stocked) -> None:
    for name in ("one", "two"):
        empty_store.add(name, steps=250, world_size=1)
    chore = Summarising(empty_store.database)
    chore.step(NOW)
    with empty_store.database.begin() as transaction:
        transaction.runs.delete(transaction.runs.get(RunKey("mt", "one")).run_id)
    while chore.step(NOW):
        pass
    assert lines_of(empty_store.database, 1, 0) == []
    assert lines_of(empty_store.database, 2, 0)[0].summarised_to == 249


def test_a_piece_for_which_the_store_was_busy_is_done_later(
    empty_store: Stocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_store.add("one", steps=150, world_size=1)
    chore = Summarising(empty_store.database)
    with monkeypatch.context() as patch:
        patch.setattr(empty_store.database, "begin", _busy)
        with pytest.raises(StorageBusyError):
            chore.step(NOW)
    assert lines_of(empty_store.database, 1, 0)[0].summarised_to is None
    while chore.step(NOW):
        pass
    assert lines_of(empty_store.database, 1, 0)[0].summarised_to == 149


def _busy() -> None:
    raise StorageBusyError("another transaction")


def test_a_run_of_totals_alone_has_a_series_and_no_rows_of_layers(empty_store: Stocked) -> None:
    run = SyntheticRun(empty_store.pipeline, world_size=2, norms=healthy_norms(300)).open()
    run.send(0, 300, ranks=[1])
    empty_store.pipeline.detect(NOW + 60)
    run.close(NOW + 61)
    chore = Summarising(empty_store.database)
    while chore.step(NOW):
        pass
    (line,) = lines_of(empty_store.database, 1, 0)
    with empty_store.database.read() as transaction:
        rows = transaction.summaries.read(1, line, SummaryKind.LAYERS, 256, first_step=0, last_step=300)
    assert rows == []
    series = read_summary(empty_store.database, Asked(1, 0, SummaryKind.SERIES), 64)
    assert series is not None
    assert series.steps.sum() == 300


@pytest.mark.parametrize("point", ["summarise.before_commit", "summarise.after_commit"])
def test_a_piece_that_a_crash_interrupted_is_there_once(empty_store: Stocked, point: str) -> None:
    norms = healthy_norms(700)
    empty_store.add("one", world_size=1, norms=norms)
    failures = [point] * 3

    def die(name: str) -> None:
        if failures and name == failures[-1]:
            failures.pop()
            raise _DeadError

    for at in range(10):  # servers, one after the other; three of them die at the point
        chore = Summarising(empty_store.database, die)
        try:
            while chore.step(NOW + at):
                pass
        except _DeadError:
            continue
        break
    assert failures == []
    for kind, size in ((SummaryKind.LAYERS, 256), (SummaryKind.LAYERS, 4096), (SummaryKind.SERIES, 64)):
        summary = read_summary(empty_store.database, Asked(1, 0, kind), size)
        assert summary is not None
        assert summary.steps.sum() == 700
        if kind is SummaryKind.LAYERS:
            largest = [norms[first : first + size].max(axis=0) for first in range(0, 700, size)]
            np.testing.assert_array_equal(summary.maximum, largest)
            assert summary.known.sum() == norms.size


class _DeadError(Exception):
    """Stands for the end of the process."""
