"""A server that is killed anywhere, and the one that takes over: the same steps, the same alerts, nothing twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import update

from seismograd_server.errors import StorageBusyError
from seismograd_server.model import RunState
from seismograd_server.pipeline import Pipeline, PipelineSettings
from seismograd_server.pipeline.series import SavedState
from seismograd_server.store.database import Database
from seismograd_server.store.detectors import DetectorCheckpoint
from seismograd_server.store.schema import closed_blocks, segments
from tests.support.synthetic import (
    NOW,
    SyntheticRun,
    exploding_losses,
    exploding_norms,
    new_pipeline,
    outline,
)

STEPS = 200
NORMS = exploding_norms(STEPS, 140)
LOSSES = exploding_losses(STEPS, 140)
POINTS = ("ingest.before_commit", "ingest.after_commit", "detect.before_commit", "detect.after_commit")


Entry = tuple[str, str, int, int, int, str]


class Killed(BaseException):
    """The process is gone: nothing catches this."""


class Machine:
    """Servers on one machine, one after the other: a kill leaves the files as they are at that moment."""

    def __init__(self, folder: Path, settings: PipelineSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._stack = ExitStack()
        self._lives = 0
        self.kill_at = ""
        self.database, self.pipeline = self._start()

    def _start(self, now: float = NOW) -> tuple[Database, Pipeline]:
        path = self._folder / f"life-{self._lives}" / "seismograd.db"
        database = self._stack.enter_context(Database.open(f"sqlite:///{path}", owner="test"))
        return database, new_pipeline(database, now, settings=self._settings, failure_point=self._reach)

    def _reach(self, point: str) -> None:
        if point == self.kill_at:
            self.kill_at = ""
            raise Killed(point)

    def kill(self, now: float = NOW) -> None:
        """SIGKILL, and start again: what was written survives, what was in memory does not."""
        old = self._folder / f"life-{self._lives}"
        self._lives += 1
        new = self._folder / f"life-{self._lives}"
        new.mkdir()
        for name in ("seismograd.db", "seismograd.db-wal"):
            if (old / name).exists():
                shutil.copyfile(old / name, new / name)
        self.database, self.pipeline = self._start(now)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    built = Machine(tmp_path, PipelineSettings(checkpoint_seconds=20.0))
    yield built
    built.close()


def reopened(machine: Machine, run: SyntheticRun, now: float) -> SyntheticRun:
    """The same processes, connected to the server that is there now."""
    run.pipeline = machine.pipeline
    return run.open(now)


def durable(run: SyntheticRun, rank: int) -> int:
    return next((mark.durable for mark in run.opened[rank].watermarks), 0)


def train(machine: Machine, interrupt: Callable[[int], None], every: int = 10) -> SyntheticRun:
    """Send everything; `interrupt` may arrange for a kill before each round. Clients send again what is not durable."""
    run = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    for start in range(0, STEPS, every):
        interrupt(start)
        now = NOW + start
        try:
            run.pipeline = machine.pipeline
            run.send(start, start + every, now)
            machine.pipeline.detect(now)
        except Killed:
            machine.kill(now)
            reopened(machine, run, now)
            for rank in range(run.world_size):
                first = durable(run, rank)
                assert first in {start, start + every}
                if first < start + every:
                    run.send(first, start + every, now, ranks=[rank])
            machine.pipeline.detect(now)
    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    machine = Machine(tmp_path_factory.mktemp("undisturbed"), PipelineSettings())
    train(machine, lambda _start: None)
    result = outline(machine.database)
    machine.close()
    assert "runaway" in {entry[0] for entry in result}
    return result


def closed_steps(database: Database) -> list[int]:
    with database.read() as transaction:
        return [step for chunk in transaction.steps.read(1, 0, all_branches=True) for step in chunk.steps.tolist()]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_of_any_round_changes_no_alert_and_no_step(
    machine: Machine, undisturbed: list[Entry], point: str
) -> None:
    def interrupt(start: int) -> None:
        if start % 30 == 10:
            machine.kill_at = point

    train(machine, interrupt)
    assert outline(machine.database) == undisturbed
    assert closed_steps(machine.database) == list(range(STEPS))
    tally = machine.pipeline.snapshot().runs[0].tally
    assert tally.steps == STEPS
    assert sum(tally.signatures.values()) == len(undisturbed)


def test_a_restart_goes_on_with_the_very_state_that_was_lost(machine: Machine) -> None:
    run = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    for start in range(0, 150, 10):
        run.send(start, start + 10, NOW + start)
        machine.pipeline.detect(NOW + start)
    before = engine_state(machine.pipeline)
    view = machine.pipeline.snapshot().runs[0]
    machine.kill()
    after = engine_state(machine.pipeline)
    assert after.watch == before.watch
    assert after.tally == before.tally
    assert (after.attempt, after.frontier, after.versions) == (before.attempt, before.frontier, before.versions)
    assert machine.pipeline.snapshot().runs[0] == view


def test_a_restart_reads_nothing_that_lies_before_the_last_checkpoint(machine: Machine) -> None:
    run = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    for start in range(0, 150, 10):
        run.send(start, start + 10, NOW + start)
        machine.pipeline.detect(NOW + start)
    before = engine_state(machine.pipeline)
    with machine.database.begin() as transaction:
        (saved,) = transaction.compaction.positions(1)
        # Whoever reads any of it now would note the damage, and come to another state.
        for table, covered in (
            (closed_blocks, closed_blocks.c.ordinal <= saved.ordinal),
            (segments, segments.c.segment_id <= saved.segment),
        ):
            spoilt = transaction.connection.execute(update(table).where(covered).values(payload=b"gone"))
            assert spoilt.rowcount > 1, "the checkpoint covers most of the run"
        behind = [closing.ordinal for closing in transaction.steps.closings(1, 0, saved.ordinal)]
    assert behind, "there is something to replay"
    machine.kill()
    after = engine_state(machine.pipeline)
    assert (after.watch, after.tally, after.frontier) == (before.watch, before.tally, before.frontier)
    assert machine.database.damage.of_run(1) == []


def test_a_store_that_is_busy_is_asked_again_and_the_alerts_are_the_same(
    tmp_path: Path, undisturbed: list[Entry]
) -> None:
    refused = 0

    def refuse(point: str) -> None:
        nonlocal refused
        if point == "detect.before_commit" and refused < 5:
            refused += 1
            raise StorageBusyError("the disk is full")

    with Database.open(f"sqlite:///{tmp_path / 'full.db'}", owner="test") as database:
        pipeline = new_pipeline(database, failure_point=refuse)
        run = SyntheticRun(pipeline, norms=NORMS, losses=LOSSES).open()
        for start in range(0, STEPS, 10):
            run.send(start, start + 10, NOW + start)
            pipeline.detect(NOW + start)
            pipeline.detect(NOW + start + 0.5)  # too early to ask again, when it has just refused
        assert refused == 5
        assert outline(database) == undisturbed
        assert closed_steps(database) == list(range(STEPS))
        registry = pipeline._instruments.registry
        assert registry.get_sample_value("seismograd_storage_errors_total", {"op": "detect"}) == 5


def test_a_graceful_stop_leaves_nothing_to_replay(machine: Machine) -> None:
    run = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    run.send(0, 100)
    machine.pipeline.stop(NOW + 1)
    with machine.database.read() as transaction:
        saved = transaction.detectors.load(1, 0)
        closings = [closing.ordinal for closing in transaction.steps.closings(1, 0)]
    assert saved is not None
    assert saved[0] == closings[-1]


def test_what_was_durable_and_not_judged_is_judged_after_the_restart(machine: Machine) -> None:
    run = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    run.send(0, STEPS)  # and the server dies before it looks
    machine.kill()
    machine.pipeline.detect(NOW + 1)
    assert closed_steps(machine.database) == list(range(STEPS))
    assert "runaway" in {entry[0] for entry in outline(machine.database)}


def test_a_late_rank_stays_late_in_the_replay(machine: Machine) -> None:
    run = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    run.send(0, 50, ranks=[0])
    machine.pipeline.detect(NOW + 6)
    run.send(0, 60, NOW + 7, ranks=[1])
    run.send(50, 60, NOW + 7, ranks=[0])
    machine.pipeline.detect(NOW + 7)
    before = engine_state(machine.pipeline)
    machine.kill()
    after = engine_state(machine.pipeline)
    assert after.watch == before.watch
    assert after.tally.missing_records == before.tally.missing_records == 50


def test_a_step_that_waits_for_a_rank_goes_on_waiting_after_the_restart(machine: Machine) -> None:
    run = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    run.send(0, 10, ranks=[0])
    machine.pipeline.detect(NOW)
    machine.kill()
    machine.pipeline.detect(NOW)
    assert closed_steps(machine.database) == []
    reopened(machine, run, NOW + 1).send(0, 10, NOW + 1, ranks=[1])
    machine.pipeline.detect(NOW + 1)
    assert closed_steps(machine.database) == list(range(10))
    assert machine.pipeline.snapshot().runs[0].tally.missing_records == 0


def killed_amid_a_run(machine: Machine) -> SyntheticRun:
    """A run of which ten steps are closed, on a server that began a hundred seconds later."""
    run = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    run.send(0, 10)
    machine.pipeline.detect(NOW)
    machine.kill(NOW + 100)
    run.pipeline = machine.pipeline
    return run


def test_ranks_that_come_back_one_by_one_after_a_restart_are_all_in_their_steps(machine: Machine) -> None:
    run = killed_amid_a_run(machine)
    run.pipeline.open_rank(run.identity(0), [], NOW + 101)
    run.send(10, 60, NOW + 101, ranks=[0])
    for seconds in range(102, 140):
        machine.pipeline.detect(NOW + seconds)

    run.pipeline.open_rank(run.identity(1), [], NOW + 140)
    run.send(10, 60, NOW + 140, ranks=[1])
    machine.pipeline.detect(NOW + 141)

    assert closed_steps(machine.database) == list(range(60))
    assert machine.pipeline.snapshot().runs[0].tally.missing_records == 0


def test_without_room_nobody_is_waited_for_after_a_restart(machine: Machine) -> None:
    run = killed_amid_a_run(machine)
    run.send(10, 60, NOW + 101, ranks=[0])
    machine.pipeline.detect(NOW + 110)
    assert closed_steps(machine.database) == list(range(10))

    machine.pipeline.detect(NOW + 110, crowded=True)

    assert closed_steps(machine.database) == list(range(60))


def test_a_run_that_ended_unjudged_ends_after_the_restart(machine: Machine) -> None:
    run = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    run.send(0, STEPS)
    for opened in run.opened:
        machine.pipeline.close_rank(opened.handle, "failed", "killed by a test", NOW + 1)
    machine.kill()
    machine.pipeline.detect(NOW + 2)
    view = machine.pipeline.snapshot().runs[0]
    assert view.run.state is RunState.FAILED
    assert view.tally.steps == STEPS
    assert "runaway" in {entry[0] for entry in outline(machine.database)}


def test_a_run_is_not_lost_because_the_server_was_down(machine: Machine) -> None:
    run = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    run.send(0, 10)
    machine.pipeline.detect(NOW)
    machine.kill()  # the fixture's server starts at NOW; the clock of the run says otherwise
    machine.pipeline.detect(NOW + 30)
    assert machine.pipeline.snapshot().runs[0].run.state is RunState.RUNNING


def test_a_checkpoint_that_cannot_be_read_costs_a_replay_from_the_start_and_nothing_else(machine: Machine) -> None:
    run = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    for start in range(0, 100, 10):
        run.send(start, start + 10, NOW + start)
        machine.pipeline.detect(NOW + start)
    before = engine_state(machine.pipeline)
    with machine.database.begin() as transaction:
        transaction.detectors.save_all([DetectorCheckpoint(1, 0, 3, b"of another version")], NOW)
    machine.kill()
    after = engine_state(machine.pipeline)
    assert after.watch == before.watch
    assert after.tally == before.tally


def test_attempts_are_replayed_one_after_the_other(machine: Machine) -> None:
    first = SyntheticRun(machine.pipeline, norms=NORMS, losses=LOSSES).open()
    first.send(0, 40)
    machine.pipeline.detect(NOW)
    second = SyntheticRun(machine.pipeline, launch="launch-2", norms=NORMS, losses=LOSSES).open(NOW + 1)
    second.send(0, 60, NOW + 1)
    machine.pipeline.detect(NOW + 1)
    before = engine_state(machine.pipeline)
    machine.kill()
    after = engine_state(machine.pipeline)
    assert (after.attempt, after.tally.steps) == (2, 100)
    assert after.watch == before.watch


def engine_state(pipeline: Pipeline) -> SavedState:
    engine = pipeline._fleet.get(1)
    assert engine is not None
    return engine.series[0].state(0)


def test_what_an_old_launch_sends_beside_the_new_one_is_not_judged_by_a_restart_either(tmp_path: Path) -> None:
    with ExitStack() as stack:
        database = stack.enter_context(Database.open(f"sqlite:///{tmp_path / 'seismograd.db'}", owner="test"))
        pipeline = new_pipeline(database)
        old = SyntheticRun(pipeline, world_size=1, norms=NORMS, losses=LOSSES).open()
        old.send(0, 32)
        pipeline.detect(NOW)
        new = SyntheticRun(pipeline, world_size=1, launch="launch-2", norms=NORMS).open(NOW + 1)
        new.send(0, 16, NOW + 2)
        old.send(32, STEPS, NOW + 3)
        pipeline.detect(NOW + 3)
        (before,) = pipeline.snapshot().runs
        again = new_pipeline(database)
        again.detect(NOW + 4)
        (after,) = again.snapshot().runs
        assert after.tally.steps == before.tally.steps == 48
        assert outline(database) == []
