from __future__ import annotations

import numpy as np
import pytest

from seismograd_server.errors import NotFoundError
from seismograd_server.model import RunKey
from seismograd_server.pipeline import Arrival
from seismograd_server.reading import layers
from seismograd_server.reading.layers import read_layer_window
from seismograd_server.reading.runs import find_run, read_history
from seismograd_server.reading.series import read_series, series_of, step_pages
from tests.support.reading import EXPLODING, Stocked
from tests.support.synthetic import NOW, SyntheticRun, healthy_norms


def test_pages_of_any_size_make_the_same_series(stocked: Stocked) -> None:
    run = find_run(stocked.database, EXPLODING)
    whole = read_series(stocked.database, run.run_id, 0)
    assert whole.count == 200
    for size in (1, 13, 64, 200, 4096):
        pages = [series_of(page) for page in step_pages(stocked.database, run.run_id, 0, page_steps=size)]
        assert max(page.count for page in pages) <= size
        np.testing.assert_array_equal(np.concatenate([page.norm for page in pages]), whole.norm)
        assert np.concatenate([page.steps for page in pages]).tolist() == list(range(200))


def test_a_second_attempt_takes_over_the_steps_that_it_repeats(empty_store: Stocked) -> None:
    pipeline = empty_store.pipeline
    first = SyntheticRun(pipeline, name="again", launch="one", world_size=1, norms=healthy_norms(40)).open()
    first.send(0, 40, NOW)
    pipeline.detect(NOW)
    first.close(NOW, outcome="failed", reason="preempted")
    second = SyntheticRun(pipeline, name="again", launch="two", world_size=2, norms=2 * healthy_norms(60)).open(NOW + 9)
    batches = [second.batch(rank, 0, 30, steps=np.arange(30, 60, dtype=np.int64)) for rank in range(2)]

    pipeline.ingest([Arrival(batches=tuple(batches))], NOW + 10)
    pipeline.detect(NOW + 10)
    run = find_run(empty_store.database, RunKey("mt", "again"))
    series = read_series(empty_store.database, run.run_id, 0)
    assert series.steps.tolist() == list(range(60))
    assert series.attempts.tolist() == [1] * 30 + [2] * 30
    composed = read_layer_window(empty_store.database, run, 0, 0, 59)
    assert composed is not None
    assert composed.layers.steps.tolist() == list(range(60))
    np.testing.assert_allclose(composed.layers.norms[:30], healthy_norms(40)[:30])
    np.testing.assert_allclose(composed.layers.norms[30:], 2 * healthy_norms(60)[:30])


def test_layers_composed_again_agree_with_the_global_norm_that_was_stored(stocked: Stocked) -> None:
    run = find_run(stocked.database, EXPLODING)
    composed = read_layer_window(stocked.database, run, 0, 0, 199)
    assert composed is not None
    again = np.sqrt((composed.layers.norms.astype(np.float64) ** 2).sum(axis=1))
    np.testing.assert_allclose(again, read_series(stocked.database, run.run_id, 0).norm, rtol=1e-6)


def test_a_window_that_memory_cannot_hold_is_cut_at_its_end_and_says_so(
    stocked: Stocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = find_run(stocked.database, EXPLODING)
    whole = read_layer_window(stocked.database, run, 0, 0, 199)
    assert whole is not None
    assert whole.whole
    assert read_history(stocked.database, EXPLODING, lambda *_: (0, 199)).notes == {}
    for name in ("_SPAN_STEPS", "_LEAST_STEPS"):
        monkeypatch.setattr(layers, name, 40)
    monkeypatch.setattr(layers, "_WINDOW_VALUES", 3 * 80)
    cut = read_layer_window(stocked.database, run, 0, 0, 199)
    assert cut is not None
    assert not cut.whole
    assert cut.layers.steps.tolist() == list(range(80))
    exact = read_layer_window(stocked.database, run, 0, 0, 79)
    assert exact is not None
    assert exact.whole, "nothing is behind it"
    (note,) = read_history(stocked.database, EXPLODING, lambda *_: (0, 199)).notes
    assert note == "The layers behind step 79 were not looked at"


def test_a_run_that_shipped_totals_only_has_no_layers(empty_store: Stocked) -> None:
    run = SyntheticRun(empty_store.pipeline, name="totals", launch="totals", world_size=2).open()
    run.send(0, 20, NOW, ranks=[1])
    empty_store.pipeline.detect(NOW + 60)
    assert (
        read_layer_window(empty_store.database, find_run(empty_store.database, RunKey("mt", "totals")), 0, 0, 19)
        is None
    )


def test_an_unknown_run_is_not_found(stocked: Stocked) -> None:
    with pytest.raises(NotFoundError, match="mt/exploding"):
        find_run(stocked.database, RunKey("mt", "explodin"))


def test_a_history_knows_what_each_alert_said_when_it_opened(stocked: Stocked) -> None:
    history = read_history(stocked.database, EXPLODING, lambda *_: (0, 10))
    assert {alert.alert_id for alert in history.alerts} == history.openings.keys()
    with stocked.database.read() as transaction:
        for alert in history.alerts:
            first = transaction.alerts.history(alert.alert_id)[0]
            opening = history.openings[alert.alert_id]
            assert (opening.severity, opening.reason) == (first.severity, first.reason)
    assert any(history.openings[alert.alert_id].reason != alert.reason for alert in history.alerts)
