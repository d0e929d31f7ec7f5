"""Compaction over real runs: fewer rows with the same records, whatever is read, sent or killed meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select, update

from seismograd_server.errors import StorageDamageError
from seismograd_server.instruments import Instruments
from seismograd_server.maintenance.compaction import Compaction, CompactionSettings
from seismograd_server.maintenance.summarising import Summarising
from seismograd_server.maintenance.tiers import Sizes
from seismograd_server.model import Catalog, Float32, RankIdentity, RecordKind, RunKey, RunState, StepBatch, StreamKey
from seismograd_server.pipeline import Arrival, Pipeline, PipelineSettings
from seismograd_server.reading.layers import composed_blocks
from seismograd_server.reading.runs import read_history
from seismograd_server.reading.series import step_pages
from seismograd_server.store.codec import ENCODING_COLUMNS, ENCODING_DENSE, slice_batch
from seismograd_server.store.database import Database
from seismograd_server.store.detectors import DetectorCheckpoint
from seismograd_server.store.mantissa import round_mantissa
from seismograd_server.store.schema import closed_blocks, runs, segments
from tests.golden import make_store_revision_6 as dense
from tests.support.synthetic import (
    NOW,
    SyntheticRun,
    exploding_losses,
    exploding_norms,
    healthy_norms,
    make_batch,
    new_pipeline,
    outline,
    parameters,
    stored_alerts,
)

# So small that a short run reaches every tier.
SMALL = Sizes(full_records=100, full_bytes=2**20, tail_records=20, most_rows=50, lookback_records=60)
LONG_AFTER = NOW + 10_000.0
STEPS = 400


class World:
    """A database, and a server of it."""

    def __init__(self, path: Path) -> None:
        self.database = Database.open(f"sqlite:///{path}", owner="test")
        self.instruments = Instruments(CollectorRegistry())
        self.database.damage.listen(lambda row: self.instruments.storage_damaged.labels(what=row.what).inc())
        self.pipeline = self.restart()

    def restart(self) -> Pipeline:
        """A server that begins with what is stored; the one before has not said farewell."""
        self.pipeline = new_pipeline(self.database, settings=PipelineSettings(checkpoint_seconds=0.0))
        return self.pipeline

    def run(self, norms: Float32, **changes: Any) -> SyntheticRun:
        """A run whose records have come in tens, and have been judged."""
        run = SyntheticRun(self.pipeline, norms=norms, **changes).open()
        for first in range(0, len(norms), 10):
            run.send(first, first + 10, NOW + first)
            self.pipeline.detect(NOW + first)
        return run

    def compaction(self, **changes: Any) -> Compaction:
        """A compactor in small sizes."""
        given = {"failure_point": changes.pop("failure_point")} if "failure_point" in changes else {}
        settings = CompactionSettings(**({"sizes": SMALL} | changes))
        return Compaction(self.database, self.instruments, settings, **given)

    def compact(self, now: float = LONG_AFTER, **changes: Any) -> None:
        """Compact until nothing is left to do."""
        compaction = self.compaction(**changes)
        while compaction.step(now):
            pass

    def rows(self) -> list[tuple[int, int, int]]:
        """(records, encoding, settled) of every segment."""
        with self.database.read() as transaction:
            columns = segments.c
            found = transaction.connection.execute(
                select(columns.records, columns.encoding, columns.settled).order_by(columns.segment_id)
            )
            return [(row.records, row.encoding, row.settled) for row in found]

    def batches(self, kind: RecordKind = RecordKind.STEP) -> list[StepBatch]:
        with self.database.read() as transaction:
            return [batch for _, batch in transaction.segments.read(1, 0, kind)]

    def norms(self, handle: int) -> Float32:
        """The norms of a rank by sequence, without regard to how they are stored."""
        own = sorted(
            (each for each in self.batches() if each.rank_handle == handle), key=lambda each: each.first_sequence
        )
        return np.concatenate([each.gradient_norms for each in own if each.gradient_norms is not None])

    def count(self, name: str, **labels: str) -> float:
        value = self.instruments.registry.get_sample_value(name, labels)
        assert value is not None
        return value


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    built = World(tmp_path / "seismograd.db")
    yield built
    built.database.close()


def test_a_run_that_is_long_over_becomes_a_few_settled_rows(world: World) -> None:
    norms = healthy_norms(STEPS)
    run = world.run(norms)
    run.close(NOW + STEPS)
    assert len(world.rows()) == 80

    world.compact()

    assert world.rows() == [(100, ENCODING_DENSE, 1)] * 8
    assert world.norms(run.handle(0)).tobytes() == round_mantissa(norms, 12).tobytes()
    with world.database.read() as transaction:
        (chunks, dense) = transaction.connection.execute(
            select(func.count(), func.sum(closed_blocks.c.dense)).select_from(closed_blocks)
        ).one()
        steps = [step for chunk in transaction.steps.read(1, 0) for step in chunk.steps.tolist()]
    assert chunks == dense == 4
    assert steps == list(range(STEPS))
    assert world.count("seismograd_compaction_rows_total", kind="step") == 80
    assert world.count("seismograd_compaction_rows_total", kind="closed") == 40
    before = world.count("seismograd_compaction_bytes_total", kind="step", when="before")
    assert world.count("seismograd_compaction_bytes_total", kind="step", when="after") < before


def test_a_run_that_has_just_ended_keeps_every_bit_for_a_while(world: World) -> None:
    norms = healthy_norms(STEPS)
    run = world.run(norms)
    run.close(NOW + STEPS)
    compaction = world.compaction(sizes=Sizes())
    while compaction.step(NOW + STEPS + 1.0):
        pass
    assert {encoding for _, encoding, _ in world.rows()} == {ENCODING_COLUMNS}
    while compaction.step(NOW + STEPS + 901.0):
        pass
    assert world.rows() == [(STEPS, ENCODING_DENSE, 1)] * 2


def test_a_project_may_keep_every_bit_for_ever(world: World) -> None:
    norms = healthy_norms(STEPS)
    run = world.run(norms)
    run.close(NOW + STEPS)
    world.compact(lossless_projects=frozenset({"mt"}))
    assert world.rows() == [(100, ENCODING_DENSE, 1)] * 8
    assert world.norms(run.handle(0)).tobytes() == norms.tobytes()


def test_norms_around_an_alert_stay_exact(world: World) -> None:
    norms = exploding_norms(STEPS, 300)
    run = world.run(norms, losses=exploding_losses(STEPS, 300))
    run.close(NOW + STEPS, "failed", "it exploded")
    alerts = stored_alerts(world.database)
    assert alerts
    world.compact()
    found, rounded = world.norms(run.handle(0)), round_mantissa(norms, 12)
    exact = np.zeros(STEPS, np.bool_)
    for alert in alerts:
        exact[max(0, alert.since_step - 64) : alert.last_step + 65] = True
    assert 0 < exact.sum() < STEPS
    assert found[exact].tobytes() == norms[exact].tobytes()
    assert found[~exact].tobytes() == rounded[~exact].tobytes()


def test_of_a_running_run_only_what_no_restart_replays_is_touched(world: World) -> None:
    norms = healthy_norms(STEPS)
    run = world.run(norms[:350])
    run.norms = norms
    for first in range(350, STEPS, 10):
        run.send(first, first + 10, NOW + first)  # stored, and not judged
    world.compact()
    assert [row for row in world.rows() if row[2]] == [(100, ENCODING_DENSE, 1)] * 4, "what is old enough"
    assert world.rows()[-10:] == [(10, ENCODING_COLUMNS, 0)] * 10, "what a restart would judge"
    kept = norms[350 - SMALL.lookback_records :]
    found = world.norms(run.handle(0))
    assert len(found) == STEPS
    assert found[-len(kept) :].tobytes() == kept.tobytes(), "what an alert may still look back on"


def test_records_that_wait_for_another_rank_are_left_alone(world: World) -> None:
    run = SyntheticRun(world.pipeline, norms=healthy_norms(STEPS)).open()
    for first in range(0, STEPS, 10):
        run.send(first, first + 10, NOW, ranks=[0])  # the other rank is silent, so that nothing closes
        world.pipeline.detect(NOW)
    world.compact(NOW)
    assert world.rows() == [(10, ENCODING_COLUMNS, 0)] * 40


def test_what_has_been_received_is_untouched_and_sent_again_in_vain(world: World) -> None:
    run = world.run(healthy_norms(STEPS))
    run.close(NOW + STEPS)
    stream = StreamKey(run.handle(0), 0, RecordKind.STEP)
    world.compact()
    with world.database.read() as transaction:
        assert list(transaction.segments.received([run.handle(0)])[stream]) == [(0, STEPS)]
    before = world.rows()
    run.send(0, STEPS, LONG_AFTER)
    assert world.rows() == before


def test_details_are_merged_to_the_bit(world: World) -> None:
    norms = healthy_norms(STEPS)
    run = world.run(norms[:10])
    for first in range(0, 40, 10):
        detail = make_batch(run.handle(0), first, norms[first : first + 10], kind=RecordKind.DETAIL)
        world.pipeline.ingest([Arrival(batches=(detail,))], NOW)
    world.compact()
    (whole,) = world.batches(RecordKind.DETAIL)
    assert whole.gradient_norms is not None
    assert whole.gradient_norms.tobytes() == norms[:40].tobytes()


@pytest.mark.parametrize("point", ["compact.before_commit", "compact.after_commit"])
def test_a_kill_at_any_commit_leaves_every_record_once(world: World, point: str) -> None:
    norms = healthy_norms(STEPS)
    run = world.run(norms)
    run.close(NOW + STEPS)

    class Killed(BaseException):
        pass

    def kill(reached: str) -> None:
        if reached == point:
            raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            world.compact(failure_point=kill)
        assert sum(records for records, _, _ in world.rows()) == 2 * STEPS
        assert len(world.norms(run.handle(0))) == STEPS
    world.compact()
    assert world.norms(run.handle(0)).tobytes() == round_mantissa(norms, 12).tobytes()
    with world.database.read() as transaction:
        assert transaction.connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


def test_a_run_that_is_deleted_between_reading_and_writing_stays_deleted(world: World) -> None:
    run = world.run(healthy_norms(STEPS))
    run.close(NOW + STEPS)
    with world.database.read() as transaction:
        batches = transaction.compaction.read_segment(1)
        chunk = transaction.compaction.read_block(1)
    assert chunk is not None
    with world.database.begin() as transaction:
        transaction.runs.delete(1)
    with world.database.begin() as transaction:
        assert not transaction.compaction.replace_segments([1, 3], batches, b"", settled=True)
        assert not transaction.compaction.replace_blocks([1, 2], 1, 0, chunk, b"")
        assert transaction.compaction.read_segment(1) == []
        assert transaction.compaction.read_block(1) is None
    world.compact()
    assert world.rows() == []


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damage_is_reported_and_left_alone_while_all_else_goes_on(world: World, damage: str) -> None:
    run = world.run(healthy_norms(STEPS))
    run.close(NOW + STEPS)
    world.compact(lossless_projects=frozenset({"mt"}), sizes=Sizes(full_records=100, lookback_records=60))
    columns = segments.c
    with world.database.begin() as transaction:
        first = transaction.connection.execute(select(columns.segment_id, columns.payload)).first()
        assert first is not None
        payload = bytearray(first.payload)
        if damage == "flip":
            payload[len(payload) // 2] ^= 4
        else:
            del payload[-3:]
        broken = update(segments).where(columns.segment_id == first.segment_id)
        transaction.connection.execute(broken.values(payload=bytes(payload)))
        transaction.connection.execute(update(segments).values(settled=0))

    world.compact(sizes=Sizes(full_records=400))

    assert sorted(world.rows()) == [(100, ENCODING_DENSE, 0), (300, ENCODING_DENSE, 1), (400, ENCODING_DENSE, 1)]
    assert world.count("seismograd_storage_damaged_total", what="segment") == 1
    with (
        pytest.raises(StorageDamageError, match=f"segment {first.segment_id} cannot be read"),
        world.database.read() as transaction,
    ):
        list(transaction.segments.read(1, 0))


def test_a_restart_goes_on_without_a_damaged_segment(world: World) -> None:
    norms = healthy_norms(STEPS)
    run = world.run(norms[:350])
    run.norms = norms
    for first in range(350, STEPS, 10):
        run.send(first, first + 10, NOW + first)  # stored, and not judged
    with world.database.begin() as transaction:
        last = update(segments).where(segments.c.segment_id == transaction.segments.last_id())
        transaction.connection.execute(last.values(payload=b"nothing"))
    run.pipeline = world.restart()
    run.open(NOW)
    run.close(NOW + 1.0)
    with world.database.read() as transaction:
        steps = [step for chunk in transaction.steps.read(1, 0) for step in chunk.steps.tolist()]
        key = transaction.runs.by_id(1).key
    assert steps == list(range(STEPS)), "the other rank's records are whole"
    assert world.pipeline.snapshot().runs[0].run.state is RunState.FINISHED
    history = read_history(world.database, key, lambda _series, _alerts: (STEPS - 50, STEPS))
    assert history.layers is not None, "what is whole is shown"
    assert history.damaged == ((STEPS - 10, STEPS - 1),), "what is missing is said"


def test_a_restart_goes_on_without_a_damaged_block_and_closes_no_step_twice(world: World) -> None:
    norms = healthy_norms(STEPS)
    run = world.run(norms[:350])
    with world.database.begin() as transaction:
        transaction.detectors.save_all([DetectorCheckpoint(1, 0, 0, b"of another version")], NOW)
        damaged = update(closed_blocks).where(closed_blocks.c.ordinal == 7)
        transaction.connection.execute(damaged.values(payload=b"nothing"))
    run.norms, run.pipeline = norms, world.restart()
    run.open(NOW)
    run.send(350, STEPS, NOW + 1.0)
    run.close(NOW + 2.0)
    with world.database.read() as transaction:
        noting = transaction.damage.noting(1)
        steps = [step for chunk in transaction.steps.read(1, 0, on_damage=noting) for step in chunk.steps.tolist()]
        ended = transaction.runs.by_id(1)
    assert steps == [*range(60), *range(70, STEPS)]
    assert ended.state is RunState.FINISHED
    assert [(row.first_step, row.last_step) for row in world.database.damage.of_run(1)] == [(60, 69)]


def test_damaged_closed_steps_are_left_alone(world: World) -> None:
    run = world.run(healthy_norms(STEPS))
    run.close(NOW + STEPS)
    with world.database.begin() as transaction:
        damaged = update(closed_blocks).where(closed_blocks.c.ordinal == 7)
        transaction.connection.execute(damaged.values(payload=b"nothing"))
    world.compact()
    world.compact()
    with world.database.read() as transaction:
        kept = transaction.connection.execute(
            select(closed_blocks.c.ordinal, closed_blocks.c.dense).order_by(closed_blocks.c.ordinal)
        ).all()
    assert (7, 0) in [tuple(row) for row in kept]
    assert len(kept) < 10
    assert world.count("seismograd_storage_damaged_total", what="closed_block") == 1, "once, though two looked at it"


def test_whoever_reads_by_steps_sees_each_once_with_a_compaction_before_every_page(world: World) -> None:
    norms = healthy_norms(STEPS)
    world.run(norms)
    compaction = world.compaction()
    found = []
    for page in step_pages(world.database, 1, 0, page_steps=7):
        found += [step for chunk in page for step in chunk.steps.tolist()]
        compaction.step(LONG_AFTER)
    assert found == list(range(STEPS))


def test_whoever_reads_layers_sees_each_once_with_a_compaction_before_every_page(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seismograd_server.reading.layers._SPAN_STEPS", 23)
    norms = healthy_norms(STEPS)
    world.run(norms)
    compaction = world.compaction(mantissa_bits=23)
    with world.database.read() as transaction:
        run = transaction.runs.by_id(1)
    blocks = []
    for block in composed_blocks(world.database, run, 0):
        blocks.append(block)
        compaction.step(LONG_AFTER)
    assert [step for block in blocks for step in block.steps.tolist()] == list(range(STEPS))
    assert np.concatenate([block.layer_norms for block in blocks]).tobytes() == norms.tobytes()
    assert len(world.rows()) < 40, "it was compacted meanwhile"


def test_a_restart_without_a_checkpoint_replays_what_was_compacted(world: World) -> None:
    norms, losses = exploding_norms(STEPS, 300), exploding_losses(STEPS, 300)
    run = world.run(norms, losses=losses)
    before, alerts = world.pipeline.snapshot().runs[0], outline(world.database)
    world.compact()
    assert any(settled for _, _, settled in world.rows())
    with world.database.begin() as transaction:
        transaction.detectors.save_all([DetectorCheckpoint(1, 0, 40, b"of another version")], NOW)
    run.pipeline = world.restart()
    now = NOW + 60.0  # since the restart: nothing has stalled
    run.open(now)
    after = world.pipeline.snapshot().runs[0]
    assert after.tally.steps == before.tally.steps == STEPS
    assert after.tally.disagreeing_steps == before.tally.disagreeing_steps
    assert after.tally.grad_norm == pytest.approx(before.tally.grad_norm, rel=2.0**-13)
    assert after.active == before.active
    run.send(0, STEPS, now)
    world.pipeline.detect(now)
    assert outline(world.database) == alerts, "nothing is found twice"


def test_free_pages_beyond_a_reserve_are_given_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seismograd_server.maintenance.compaction._RESERVE_BYTES", 64 * 2**10)
    run = world.run(healthy_norms(STEPS, layers=200)[:, :3])
    run.close(NOW + STEPS)
    world.compact()
    with world.database.read() as transaction:
        free = transaction.connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        page = transaction.connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    assert free * page <= 64 * 2**10


def test_between_two_passes_it_rests(world: World) -> None:
    world.run(healthy_norms(STEPS))
    compaction = world.compaction()
    assert compaction.step(NOW)
    while compaction.step(NOW):
        pass
    assert not compaction.step(NOW + 9.0)
    assert compaction.step(NOW + 10.0), "looks whether any run has changed"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql-18"])
def test_steps_at_both_ends_of_their_range_are_compacted_and_summarised(
    store_url: Callable[[str], str], kind: str
) -> None:
    ends = np.array([-(2**63), 0, 2**63 - 2])
    with Database.open(store_url(kind), owner="test") as database:
        with database.begin() as transaction:
            identity = RankIdentity(RunKey("mt", "far"), "launch", rank=0, world_size=1, session_id="session")
            opened = transaction.runs.open_rank(identity, NOW)
            transaction.runs.save_catalog(opened.rank.handle, Catalog(0, 0, parameters()))
            sent = slice_batch(dense.batch(opened.rank.handle), 0, 3)
            totals: dict[str, Any] = {
                "gradient_norms": None,
                "total_norms": np.ones(3),
                "nonfinite": None,
                "tensors": {},
            }
            sent = replace(sent, steps=ends, **totals)
            transaction.segments.append([slice_batch(sent, 0, 2), slice_batch(sent, 2, 3)], NOW)
            whole = dense.block()
            columns = {each.name: getattr(whole, each.name) for each in fields(whole)}
            few = {name: column[:3] for name, column in columns.items() if isinstance(column, np.ndarray)}
            closed = replace(whole, **few | {"steps": ends}, replica_gaps=())
            ordinal = transaction.steps.append(opened.run.run_id, opened.launch.launch_row, 0, closed)
            saved = DetectorCheckpoint(opened.run.run_id, 0, ordinal, b"state", attempt=1, segment=2)
            transaction.detectors.save_all([saved], NOW)
            transaction.connection.execute(update(runs).values(state="finished", ended_at=NOW, closed_steps=3))
        compaction = Compaction(database, Instruments(CollectorRegistry()), CompactionSettings())
        while compaction.step(LONG_AFTER):
            pass
        summarising = Summarising(database)
        while summarising.step(LONG_AFTER):
            pass
        with database.read() as transaction:
            (stored,) = transaction.segments.read(opened.launch.launch_row, 0)
            (chunk,) = transaction.steps.read(opened.run.run_id, 0)
            (line,) = transaction.steps.lines(opened.run.run_id)
            encodings = transaction.connection.scalars(select(closed_blocks.c.dense)).all()
    assert stored[1].steps.tolist() == chunk.steps.tolist() == ends.tolist()
    assert (list(encodings), line.summarised_to) == ([1], 2**63 - 2)
