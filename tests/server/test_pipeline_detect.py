"""The second transaction: closed steps, alerts, progress, and how runs end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from seismograd_server.detect.facts import Facts
from seismograd_server.detect.nonfinite import NonfiniteDetector
from seismograd_server.detect.stretch import Stretch
from seismograd_server.detect.watch import Observation, RunWatch
from seismograd_server.model import AlertState, RunState, Severity, Signature, StepBatch, Transition
from seismograd_server.pipeline import Arrival, Pipeline, PipelineSettings
from seismograd_server.pipeline.people import People
from seismograd_server.store.database import Database
from seismograd_server.store.outbox import OutboxEntry
from tests.support.synthetic import (
    NOW,
    SyntheticRun,
    exploding_losses,
    exploding_norms,
    healthy_norms,
    new_pipeline,
    outline,
    stored_alerts,
)

STEPS = 220
ONSET = 150


@pytest.fixture
def database() -> Iterator[Database]:
    with Database.open("sqlite://", owner="test") as opened:
        yield opened


@pytest.fixture
def pipeline(database: Database) -> Pipeline:
    return new_pipeline(database)


def exploding(pipeline: Pipeline, **changes: object) -> SyntheticRun:
    run = SyntheticRun(pipeline, norms=exploding_norms(STEPS, ONSET), losses=exploding_losses(STEPS, ONSET))
    for name, value in changes.items():
        setattr(run, name, value)
    return run.open()


def train(run: SyntheticRun, stop: int, first: int = 0, every: int = 16) -> None:
    for start in range(first, stop, every):
        run.send(start, min(start + every, stop), NOW + start)
        run.pipeline.detect(NOW + start)


def ingest(pipeline: Pipeline, batches: Sequence[StepBatch], now: float) -> None:
    for batch in batches:
        pipeline.ingest([Arrival(batches=(batch,))], now)
    pipeline.detect(now)


def state_of(pipeline: Pipeline) -> tuple[RunState, str]:
    run = pipeline.snapshot().runs[0].run
    return run.state, run.failure_reason


def test_closed_steps_are_stored_with_the_ranks_that_were_there(database: Database, pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline).open()
    run.send(0, 16)
    run.send(16, 20, ranks=[0])
    pipeline.detect(NOW)
    pipeline.detect(NOW + 6)
    with database.read() as transaction:
        chunks = list(transaction.steps.read(1, 0))
        stored = transaction.runs.by_id(1)
    assert [step for chunk in chunks for step in chunk.steps.tolist()] == list(range(20))
    assert chunks[-1].ranks_present.tolist() == [[True, False]] * 4
    assert (stored.last_step, stored.closed_steps) == (19, 20)


def test_late_records_are_stored_and_not_judged(database: Database, pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline).open()
    run.send(0, 8, ranks=[0])
    pipeline.detect(NOW + 6)
    run.send(0, 8, NOW + 7, ranks=[1])
    pipeline.detect(NOW + 20)
    assert pipeline.snapshot().runs[0].tally.steps == 8
    with database.read() as transaction:
        assert sum(batch.count for _, batch in transaction.segments.read(1, 0)) == 16


def test_an_explosion_alerts_and_its_notices_go_to_the_run(database: Database, pipeline: Pipeline) -> None:
    run = exploding(pipeline)
    train(run, ONSET)
    assert stored_alerts(database) == []
    train(run, STEPS, ONSET)
    runaway = [alert for alert in stored_alerts(database) if alert.signature is Signature.RUNAWAY]
    assert [(alert.severity, alert.state) for alert in runaway] == [(Severity.CRITICAL, AlertState.FIRING)]
    notices = pipeline.take_notices()
    assert {notice.run_id for notice in notices} == {1}
    assert runaway[0].alert_id in {notice.alert.alert_id for notice in notices}
    view = pipeline.snapshot().runs[0]
    assert view.active[Signature.RUNAWAY] is Severity.CRITICAL
    assert view.tally.signatures["runaway"] == 1
    assert pipeline.take_notices() == []


@pytest.mark.parametrize("days_off", [-1, 1])
def test_a_clock_that_is_a_day_off_reorders_nothing_and_alerts_as_an_honest_one(days_off: int) -> None:
    outlines = []
    for off in (0.0, days_off * 86_400.0):
        with Database.open("sqlite://", owner="test") as database:
            pipeline = new_pipeline(database)
            run, other = exploding(pipeline), SyntheticRun(pipeline, name="other", launch="launch-2").open()
            for first in range(0, STEPS, 20):
                times = NOW + off + np.arange(first, first + 20)  # only rank 1's clock
                batches = (run.batch(0, first, first + 20), run.batch(1, first, first + 20, times=times))
                ingest(pipeline, batches, NOW + first)
            other.send(0, 64, NOW + STEPS)
            for each in (run, other):
                each.close(NOW + STEPS)
            with database.read() as transaction:
                steps = [step for chunk in transaction.steps.read(1, 0) for step in chunk.steps.tolist()]
                states = sorted((each.key.run, each.state) for each in transaction.runs.list())
            assert steps == list(range(STEPS))
            assert states == [("lstm", RunState.FINISHED), ("other", RunState.FINISHED)]
            outlines.append(outline(database))
    assert outlines[0] == outlines[1]
    assert outlines[0], "it alerts"


def test_outbox_rows_are_written_with_the_transition_that_causes_them(database: Database) -> None:
    def entries(transition: Transition, now: float) -> Sequence[OutboxEntry]:
        alert = transition.alert
        key = f"{alert.alert_id}/{transition.cause}/{alert.last_step}"
        return [OutboxEntry(None, "pager", alert.alert_id, now, now, 0, "{}", "", key)]

    run = exploding(new_pipeline(database, entries_for=entries))
    train(run, STEPS)
    with database.read() as transaction:
        rows = transaction.outbox.due(NOW + 1000)
    firing = {alert.alert_id for alert in stored_alerts(database) if alert.signature is Signature.RUNAWAY}
    assert firing & {row.alert_id for row in rows}


def test_a_run_ends_when_every_rank_has_said_farewell(pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline).open()
    run.send(0, 16)
    pipeline.close_rank(run.handle(0), "finished", "", NOW + 1)
    pipeline.detect(NOW + 1)
    assert state_of(pipeline)[0] is RunState.RUNNING
    pipeline.close_rank(run.handle(1), "finished", "", NOW + 1)
    pipeline.detect(NOW + 1)
    assert state_of(pipeline)[0] is RunState.FINISHED
    assert pipeline.snapshot().runs[0].tally.steps == 16


def test_a_run_failed_when_any_of_its_ranks_did(pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline).open()
    pipeline.close_rank(run.handle(0), "finished", "", NOW)
    pipeline.close_rank(run.handle(1), "failed", "ValueError: NaN in the loss", NOW)
    pipeline.detect(NOW)
    assert state_of(pipeline) == (RunState.FAILED, "rank 1: ValueError: NaN in the loss")


def test_the_last_steps_are_judged_before_the_run_ends(database: Database, pipeline: Pipeline) -> None:
    run = exploding(pipeline)
    run.send(0, STEPS)
    run.close(NOW + 5)
    assert state_of(pipeline)[0] is RunState.FINISHED
    (runaway,) = [alert for alert in stored_alerts(database) if alert.signature is Signature.RUNAWAY]
    assert runaway.state is AlertState.FIRING
    assert pipeline.snapshot().runs[0].tally.steps == STEPS


def test_a_run_that_lives_and_makes_no_step_is_stalled_until_it_does(database: Database, pipeline: Pipeline) -> None:
    def stalled() -> list[tuple[int, AlertState]]:
        found = [alert for alert in stored_alerts(database) if alert.signature is Signature.STALLED]
        return [(alert.opened_step, alert.state) for alert in found]

    run = SyntheticRun(pipeline).open()
    train(run, 32)
    for later in range(20, 160, 20):
        pipeline.hear([run.handle(0), run.handle(1)], NOW + 32 + later)
        pipeline.detect(NOW + 32 + later)
        assert stalled() == ([] if later - 16 < 120 else [(31, AlertState.FIRING)]) or later == 120
    times = NOW + 32 + 150.0 + np.arange(16)
    for rank in range(2):
        pipeline.ingest([Arrival(batches=(run.batch(rank, 32, 48, times=times),))], NOW + 200)
    pipeline.detect(NOW + 200)
    assert stalled() == [(31, AlertState.RESOLVED)]
    assert state_of(pipeline)[0] is RunState.RUNNING


def test_a_silent_run_is_lost_and_comes_back_when_it_speaks(pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline).open()
    run.send(0, 16)
    pipeline.detect(NOW + 59)
    assert state_of(pipeline)[0] is RunState.RUNNING
    pipeline.detect(NOW + 61)
    state, reason = state_of(pipeline)
    assert state is RunState.LOST
    assert "60 s" in reason
    run.send(16, 20, NOW + 100)
    pipeline.detect(NOW + 100)
    assert state_of(pipeline) == (RunState.RUNNING, "")
    assert pipeline.snapshot().runs[0].tally.steps == 20


def test_an_open_stream_keeps_a_slow_run_alive(pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline).open()
    for second in range(0, 300, 30):
        pipeline.hear([run.handle(0)], NOW + second)
        pipeline.detect(NOW + second)
    assert state_of(pipeline)[0] is RunState.RUNNING


def test_a_silent_run_of_which_a_rank_failed_has_failed(pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline).open()
    pipeline.close_rank(run.handle(0), "failed", "killed", NOW)
    pipeline.detect(NOW + 61)
    assert state_of(pipeline) == (RunState.FAILED, "rank 0: killed")


def test_records_that_come_after_the_end_are_judged_and_the_run_ends_again(
    database: Database, pipeline: Pipeline
) -> None:
    run = SyntheticRun(pipeline).open()
    run.send(0, 16)
    run.close(NOW + 1)
    run.send(16, 24, NOW + 2)
    pipeline.detect(NOW + 2)
    assert state_of(pipeline)[0] is RunState.FINISHED
    assert pipeline.snapshot().runs[0].tally.steps == 24
    with database.read() as transaction:
        assert transaction.runs.by_id(1).state is RunState.FINISHED


def test_a_new_launch_is_the_next_attempt_and_keeps_the_baselines(database: Database, pipeline: Pipeline) -> None:
    run = exploding(pipeline)
    train(run, 140)
    again = SyntheticRun(pipeline, launch="launch-2", norms=run.norms, losses=run.losses).open(NOW + 200)
    assert [opened.attempt for opened in again.opened] == [2, 2]
    # From a checkpoint at step 120 on: without what was learnt before, twenty steps would be too few to judge by.
    for start in range(120, STEPS, 10):
        batches = [again.batch(rank, start, start + 10, first_sequence=start - 120) for rank in range(2)]
        ingest(pipeline, batches, NOW + 200 + start)
    (runaway,) = [alert for alert in stored_alerts(database) if alert.signature is Signature.RUNAWAY]
    assert runaway.opened_step > ONSET
    with database.read() as transaction:
        shown = [step for chunk in transaction.steps.read(1, 0) for step in chunk.steps.tolist()]
    assert shown == list(range(STEPS))


def test_what_the_old_launch_left_open_closes_when_the_new_one_begins(database: Database, pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline).open()
    run.send(0, 16, ranks=[0])
    pipeline.detect(NOW)
    SyntheticRun(pipeline, launch="launch-2").open(NOW + 1)
    pipeline.detect(NOW + 1)
    with database.read() as transaction:
        (chunk,) = transaction.steps.read(1, 0)
    assert (chunk.attempt, chunk.count) == (1, 16)


def test_a_step_number_that_goes_back_is_stored_and_the_detectors_carry_on(
    database: Database, pipeline: Pipeline
) -> None:
    run = SyntheticRun(pipeline, norms=healthy_norms(60)).open()
    train(run, 40)
    steps = np.arange(30, 50, dtype=np.int64)
    ingest(pipeline, [run.batch(rank, 40, 60, steps=steps, branch=1) for rank in range(2)], NOW + 50)
    assert pipeline.snapshot().runs[0].tally.steps == 60
    with database.read() as transaction:
        shown = [(chunk.branch, step) for chunk in transaction.steps.read(1, 0) for step in chunk.steps.tolist()]
    assert shown == [(0, step) for step in range(30)] + [(1, step) for step in range(30, 50)]


def test_findings_of_a_second_optimizer_are_alerts_of_their_own(database: Database, pipeline: Pipeline) -> None:
    run = exploding(pipeline, world_size=1)
    catalog = pipeline.book.catalog(run.handle(0), 0, 0)
    assert catalog is not None
    pipeline.open_rank(run.identity(0), [catalog, replace(catalog, optimizer=1)], NOW)
    for start in range(0, STEPS, 20):
        quiet = run.batch(0, start, start + 20, gradient_norms=healthy_norms(20, seed=start), losses=None)
        ingest(pipeline, [quiet, run.batch(0, start, start + 20, optimizer=1)], NOW + start)
    scopes = {alert.scope for alert in stored_alerts(database) if alert.signature is Signature.RUNAWAY}
    assert scopes == {"optimizer:1"}
    assert pipeline.snapshot().runs[0].tally.steps == STEPS


def test_a_detector_that_raises_is_quarantined_and_ingest_goes_on(
    database: Database, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, step: object, context: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(NonfiniteDetector, "observe", broken)
    train(exploding(pipeline), STEPS)
    assert any(alert.signature is Signature.RUNAWAY for alert in stored_alerts(database))
    registry = pipeline._instruments.registry
    labels = {"signature": "nonfinite"}
    assert registry.get_sample_value("seismograd_detector_failures_total", labels) == 1
    assert pipeline.snapshot().runs[0].tally.steps == STEPS


def test_a_run_that_cannot_be_judged_at_all_does_not_stop_the_others(
    database: Database, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = SyntheticRun(pipeline, name="healthy", launch="healthy", world_size=1).open()
    sick = SyntheticRun(pipeline, name="sick", launch="sick", world_size=1).open()
    look = RunWatch.look

    def broken(watch: RunWatch, facts: Facts, foreseen: Stretch | None = None) -> Observation:
        if facts.steps[0] >= 16 and watch is not healthy_watch():
            raise ZeroDivisionError("a mistake of ours")
        return look(watch, facts, foreseen)

    def healthy_watch() -> RunWatch:
        engine = pipeline._fleet.get(1)
        assert engine is not None
        return engine.series[0].watch

    for run in (healthy, sick):
        run.send(0, 16)
    pipeline.detect(NOW)
    monkeypatch.setattr(RunWatch, "look", broken)
    for start in range(16, 64, 8):
        for run in (healthy, sick):
            run.send(start, start + 8, NOW + start)
        pipeline.detect(NOW + start)
    tallies = {view.run.key.run: view.tally.steps for view in pipeline.snapshot().runs}
    assert tallies == {"healthy": 64, "sick": 16}
    with database.read() as transaction:
        assert sum(batch.count for _, batch in transaction.segments.read(2, 0)) == 64


def test_a_large_backlog_is_judged_in_parts(database: Database) -> None:
    pipeline = new_pipeline(database, settings=PipelineSettings(steps_at_once=50))
    run = exploding(pipeline)
    run.send(0, STEPS)
    assert pipeline.detect(NOW)
    assert pipeline.snapshot().runs[0].tally.steps == 50
    rounds = 1
    while pipeline.detect(NOW):
        rounds += 1
    assert rounds >= STEPS // 50
    assert pipeline.snapshot().runs[0].tally.steps == STEPS


def test_an_alert_acknowledged_by_a_person_stays_acknowledged(database: Database, pipeline: Pipeline) -> None:
    run = exploding(pipeline)
    train(run, STEPS - 30)
    (alert,) = [each for each in stored_alerts(database) if each.signature is Signature.RUNAWAY]
    People(database, lambda _transition, _now: [], lambda: NOW).acknowledge(alert.alert_id, "ada")
    train(run, STEPS, STEPS - 30)
    run.close(NOW + 400)
    (alert,) = [each for each in stored_alerts(database) if each.signature is Signature.RUNAWAY]
    assert alert.acknowledged_by == "ada"


def test_an_ended_run_leaves_the_picture_once_nothing_of_it_is_open(pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline).open()
    run.send(0, 16)
    run.close(NOW + 1)
    pipeline.detect(NOW + 800)
    assert len(pipeline.snapshot().runs) == 1
    pipeline.detect(NOW + 1000)
    assert pipeline.snapshot().runs == ()
