"""Whose turn it is to be judged: nobody starves, a fast run waits for more of its steps, an end never waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seismograd_server.pipeline import Pipeline, PipelineSettings
from seismograd_server.pipeline.turns import Turns
from seismograd_server.store.database import Database
from tests.support.synthetic import NOW, SyntheticRun, healthy_norms, new_pipeline

PACE = 0.2


@pytest.fixture
def database() -> Iterator[Database]:
    with Database.open("sqlite://", owner="test") as opened:
        yield opened


def run_of(pipeline: Pipeline, name: str) -> SyntheticRun:
    return SyntheticRun(pipeline, name=name, launch=name, world_size=1).open()


def judged(pipeline: Pipeline) -> dict[str, int]:
    return {view.run.key.run: view.tally.steps for view in pipeline.snapshot().runs}


def test_with_more_than_can_be_judged_at_once_every_run_has_its_turn(database: Database) -> None:
    pipeline = new_pipeline(database, settings=PipelineSettings(steps_at_once=40))
    runs = [run_of(pipeline, f"run-{index}") for index in range(4)]
    for run in runs:
        run.send(0, 32)
    assert pipeline.detect(NOW)
    assert sorted(judged(pipeline).values()) == [0, 0, 8, 32], "so many steps, and no run one step at a time"
    for run in runs[:2]:  # whoever sends more has not moved ahead of those that wait
        run.send(32, 64)
    while pipeline.detect(NOW):
        pass
    assert list(judged(pipeline).values()) == [64, 64, 32, 32]


def test_a_run_that_is_far_behind_is_judged_in_parts_though_there_is_room_for_others(database: Database) -> None:
    pipeline = new_pipeline(database, settings=PipelineSettings(steps_at_once=64, steps_of_a_run=20))
    far_behind, other = run_of(pipeline, "far behind"), run_of(pipeline, "other")
    far_behind.send(0, 32)
    other.send(0, 8)
    assert pipeline.detect(NOW)
    assert judged(pipeline) == {"far behind": 20, "other": 8}
    assert not pipeline.detect(NOW)
    assert judged(pipeline) == {"far behind": 32, "other": 8}


def test_a_fast_run_is_judged_once_in_a_while_and_a_slow_one_at_once(database: Database) -> None:
    pipeline = new_pipeline(database, settings=PipelineSettings(pace_seconds=PACE))
    fast, slow = run_of(pipeline, "fast"), run_of(pipeline, "slow")
    fast.send(0, 8)
    pipeline.detect(NOW)
    fast.send(8, 16)
    slow.send(0, 1)
    assert not pipeline.detect(NOW + 0.1), "nothing is due"
    assert judged(pipeline) == {"fast": 8, "slow": 1}
    assert pipeline.waits
    pipeline.detect(NOW + PACE)
    assert judged(pipeline) == {"fast": 16, "slow": 1}
    assert not pipeline.waits


def test_many_steps_wait_for_no_pace(database: Database) -> None:
    pipeline = new_pipeline(database, settings=PipelineSettings(pace_seconds=PACE))
    fast = run_of(pipeline, "fast")
    fast.norms = healthy_norms(600)
    fast.send(0, 8)
    pipeline.detect(NOW)
    fast.send(8, 600)
    pipeline.detect(NOW + 0.01)
    assert judged(pipeline) == {"fast": 600}


def test_a_run_that_says_farewell_is_judged_before_all_others(database: Database) -> None:
    pipeline = new_pipeline(database, settings=PipelineSettings(pace_seconds=PACE, steps_at_once=16))
    others = [run_of(pipeline, f"run-{index}") for index in range(3)]
    ending = run_of(pipeline, "ending")
    ending.send(0, 4)
    pipeline.detect(NOW)
    for run in others:
        run.send(0, 16)
    ending.send(4, 12)
    for opened in ending.opened:
        pipeline.close_rank(opened.handle, "finished", "", NOW + 0.01)
    pipeline.detect(NOW + 0.01)
    assert judged(pipeline)["ending"] == 12


def test_what_waits_for_its_pace_is_judged_when_the_server_stops(database: Database) -> None:
    pipeline = new_pipeline(database, settings=PipelineSettings(pace_seconds=PACE))
    fast = run_of(pipeline, "fast")
    fast.send(0, 8)
    pipeline.detect(NOW)
    fast.send(8, 16)
    pipeline.stop(NOW + 0.01)
    assert judged(pipeline) == {"fast": 16}


def test_time_alone_gives_every_run_a_turn_also_when_the_clock_is_set_back() -> None:
    turns = Turns()
    assert turns.sweep([1, 2], NOW)
    assert list(turns.take(lambda run_id: run_id > 0)) == [1, 2]
    assert not turns.sweep([1, 2], NOW + 0.1)
    assert turns.sweep([1, 2], NOW + 0.3)
    assert turns.sweep([1, 2, 3], NOW - 86_400)
    assert list(turns.take(lambda run_id: run_id != 2)) == [1, 3]
    assert turns.any_due(lambda run_id: run_id > 0)
    turns.forget(2)
    assert not turns


def test_states_that_are_due_at_once_are_saved_by_and_by(database: Database) -> None:
    """After a pause of the whole fleet all are due, and the first acks need not wait for that."""
    pipeline = new_pipeline(database, settings=PipelineSettings(checkpoint_seconds=15.0))
    runs = [run_of(pipeline, f"run-{index}") for index in range(10)]
    for run in runs:
        run.norms = healthy_norms(120)
        run.send(0, 100)
    pipeline.detect(NOW)

    def saved() -> int:
        with database.read() as transaction:
            return sum(transaction.detectors.load(each.opened[0].run_id, 0) is not None for each in runs)

    counts = []
    for step in range(100, 104):
        for run in runs:
            run.send(step, step + 1)
        pipeline.detect(NOW + 20.0)
        counts.append(saved())
    assert counts == [4, 8, 10, 10]


def test_of_states_that_are_due_those_are_saved_first_that_have_waited_longest(database: Database) -> None:
    """Runs come in about the same order every time: the last ones would wait for ever."""
    pipeline = new_pipeline(database, settings=PipelineSettings(checkpoint_seconds=0.0))
    runs = [run_of(pipeline, f"run-{index}") for index in range(10)]
    for turn in range(3):
        for run in runs:
            run.send(turn, turn + 1, NOW + turn)
        pipeline.detect(NOW + turn)
    with database.read() as transaction:
        assert all(transaction.detectors.load(run.opened[0].run_id, 0) is not None for run in runs)


def test_a_state_is_saved_with_the_end_of_its_run_however_many_are_due(database: Database) -> None:
    pipeline = new_pipeline(database, settings=PipelineSettings(checkpoint_seconds=15.0))
    runs = [run_of(pipeline, f"run-{index}") for index in range(10)]
    for run in runs:
        run.send(0, 4)
        pipeline.close_rank(run.opened[0].handle, "finished", "", NOW)
    pipeline.detect(NOW)
    with database.read() as transaction:
        assert all(transaction.detectors.load(run.opened[0].run_id, 0) is not None for run in runs)
