"""What is in memory of live runs: what it costs when they are over, and what it makes of clocks that are set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from seismograd_server.model import Health, RunState, RunView, Signature, Visibility
from seismograd_server.pipeline import Arrival, Pipeline, PipelineSettings
from seismograd_server.store.database import Database
from tests.support.synthetic import LAYERS, NOW, SyntheticRun, healthy_norms, new_pipeline

HOUR = 3600.0


@pytest.fixture
def database() -> Iterator[Database]:
    with Database.open("sqlite://", owner="test") as opened:
        yield opened


@pytest.fixture
def pipeline(database: Database) -> Pipeline:
    return new_pipeline(database)


def finished(pipeline: Pipeline, name: str) -> SyntheticRun:
    run = SyntheticRun(pipeline, name=name, launch=name, world_size=1).open()
    run.send(0, 16)
    run.close(NOW)
    return run


def sample(pipeline: Pipeline, name: str, **labels: str) -> float | None:
    return pipeline._instruments.registry.get_sample_value(name, labels)


def view(pipeline: Pipeline) -> RunView:
    (found,) = pipeline.snapshot().runs
    return found


def test_runs_that_are_over_cost_no_transaction(
    pipeline: Pipeline, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        finished(pipeline, f"run-{index}")
    with monkeypatch.context() as patched:
        patched.setattr(database, "begin", None)  # a write transaction would raise
        for second in range(1, 60):
            pipeline.detect(NOW + second)
    assert len(pipeline.snapshot().runs) == 3, "still shown"


def test_norms_by_layer_are_in_a_view_when_they_are_to_be_exported(database: Database) -> None:
    pipeline = new_pipeline(database, settings=PipelineSettings(view_layers=True))
    run = SyntheticRun(pipeline, world_size=1).open()
    run.send(0, 64)
    pipeline.detect(NOW)
    layers = view(pipeline).layers
    assert layers is not None
    assert layers.names == LAYERS
    assert np.linalg.norm(layers.norms.astype(float)) == pytest.approx(view(pipeline).tally.grad_norm)
    assert np.abs(np.log(layers.norms / layers.usual)).max() < 1.0, "noise around a steady level"


def test_norms_by_layer_are_not_held_for_nothing(pipeline: Pipeline) -> None:
    finished(pipeline, "calm")
    pipeline.detect(NOW)
    assert view(pipeline).layers is None


def test_what_detectors_can_see_is_asked_with_the_chores_once_all_are_armed(pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline, world_size=1, norms=healthy_norms(640)).open()
    run.send(0, 600)
    pipeline.detect(NOW)
    armed = view(pipeline).statuses
    assert {each.visibility for each in armed if each.signature is Signature.SPIKE} == {Visibility.ARMED}

    run.send(600, 616, now=NOW + 1.0)
    pipeline.detect(NOW + 1.0)
    assert view(pipeline).tally.steps == 616
    assert view(pipeline).statuses is armed, "nothing has happened since"

    run.send(616, 632, now=NOW + 6.0)
    pipeline.detect(NOW + 6.0)
    assert view(pipeline).statuses is not armed
    assert view(pipeline).statuses == armed


def test_a_young_run_says_at_each_step_how_far_its_detectors_are(pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline, world_size=1).open()
    for first in (0, 3):
        run.send(first, first + 3)
        pipeline.detect(NOW)
        because = {each.because for each in view(pipeline).statuses if each.signature is Signature.SPIKE}
        assert any(str(view(pipeline).tally.steps) in reason for reason in because), because


def test_a_deleted_run_is_forgotten_and_the_others_are_left_alone(pipeline: Pipeline, database: Database) -> None:
    finished(pipeline, "deleted")
    living = SyntheticRun(pipeline, name="living", launch="living", world_size=1).open()
    living.send(0, 16)
    pipeline.detect(NOW)
    engine = pipeline._fleet.get(2)
    with database.begin() as transaction:
        transaction.runs.delete(1)
    pipeline.detect(NOW + 6)
    assert view(pipeline).run.key.run == "living"
    assert pipeline._fleet.get(2) is engine, "was not rebuilt"


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_clock_that_is_set_neither_closes_a_step_nor_holds_it_up(pipeline: Pipeline, jump: float) -> None:
    run = SyntheticRun(pipeline).open()
    run.send(0, 16, ranks=[0])
    pipeline.detect(NOW)
    pipeline.follow_clock(jump)
    pipeline.detect(NOW + jump + 4)
    assert view(pipeline).tally.steps == 0, "the other rank has a second left"
    pipeline.detect(NOW + jump + 6)
    assert view(pipeline).tally.steps == 16


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_clock_that_is_set_neither_loses_a_run_nor_keeps_it(pipeline: Pipeline, jump: float) -> None:
    run = SyntheticRun(pipeline, world_size=1).open()
    run.send(0, 16)
    pipeline.detect(NOW)
    pipeline.follow_clock(jump)
    pipeline.detect(NOW + jump + 50)
    assert view(pipeline).run.state is RunState.RUNNING
    pipeline.detect(NOW + jump + 61)
    assert view(pipeline).run.state is RunState.LOST


def test_the_last_record_is_dated_by_the_clock_of_the_server(pipeline: Pipeline, database: Database) -> None:
    run = SyntheticRun(pipeline, world_size=1).open()
    run.send(0, 16, NOW + 5 * HOUR)  # its own stamps say NOW
    pipeline.detect(NOW + 5 * HOUR)
    assert view(pipeline).run.last_record_at == NOW + 5 * HOUR
    with database.read() as transaction:
        assert transaction.runs.by_id(1).last_record_at == NOW + 5 * HOUR


def test_what_clients_say_of_themselves_is_shown(pipeline: Pipeline, database: Database) -> None:
    run = SyntheticRun(pipeline).open()
    reports = [
        Health(run.handle(0), {}, 0, 500, 2.0, 100, 0.004, -0.5),
        Health(run.handle(1), {}, 0, 300, 3.0, 100, 0.01, -7.5),
        Health(run.handle(1), {}, 0, 300, 3.5, 150, 0.01, -7.0),
    ]
    for report in reports:
        pipeline.ingest([Arrival(health=(report,))], NOW)
    run.send(0, 16)
    pipeline.detect(NOW)
    assert sample(pipeline, "seismograd_client_hook_duration_seconds_count", project="mt") == 250
    assert sample(pipeline, "seismograd_client_hook_duration_seconds_sum", project="mt") == 5.5
    assert view(pipeline).clock_skew_seconds == -7.0
    assert view(pipeline).capture_share == 0.01
    assert view(pipeline).dtype == "float32"
    again = new_pipeline(database)
    assert (view(again).clock_skew_seconds, view(again).dtype) == (-7.0, "float32")


def test_spools_of_ranks_that_have_ended_are_no_longer_shown(pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline).open()
    for rank in range(2):
        pipeline.ingest([Arrival(health=(Health(run.handle(rank), {}, 0, 500, 0.0, 0, 0.0, 0.0),))], NOW)
    assert sample(pipeline, "seismograd_client_spool_bytes", project="mt") == 1000
    pipeline.close_rank(run.handle(0), "finished", "", NOW)
    assert sample(pipeline, "seismograd_client_spool_bytes", project="mt") == 500
