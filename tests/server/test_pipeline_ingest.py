"""The first transaction: stored exactly once, whatever a client sends again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from seismograd_server.errors import (
    InvalidBatchError,
    LaunchConflictError,
    RankTakenError,
    StorageBusyError,
    UnknownRankError,
)
from seismograd_server.model import Catalog, Checkpoint, DroppedRange, Health, RecordKind, StreamKey
from seismograd_server.pipeline import Arrival, Pipeline, Rejection, receiving
from seismograd_server.store.database import Database
from tests.support.synthetic import NOW, SyntheticRun, make_batch, new_pipeline, parameters


@pytest.fixture
def database() -> Iterator[Database]:
    with Database.open("sqlite://", owner="test") as opened:
        yield opened


@pytest.fixture
def pipeline(database: Database) -> Pipeline:
    return new_pipeline(database)


@pytest.fixture
def run(pipeline: Pipeline) -> SyntheticRun:
    return SyntheticRun(pipeline, world_size=1).open()


def stored_sequences(database: Database, launch_row: int = 1) -> list[int]:
    """Every sequence stored, in the order of storing."""
    with database.read() as transaction:
        return [
            sequence
            for _, batch in transaction.segments.read(launch_row, 0)
            for sequence in range(batch.first_sequence, batch.end_sequence)
        ]


def stream_of(run: SyntheticRun, rank: int = 0) -> StreamKey:
    return StreamKey(run.handle(rank), 0, RecordKind.STEP)


def count(pipeline: Pipeline, result: str) -> float:
    value = pipeline._instruments.registry.get_sample_value("seismograd_ingest_records_total", {"result": result})
    assert value is not None
    return value


def test_an_ack_covers_what_is_committed(database: Database, pipeline: Pipeline, run: SyntheticRun) -> None:
    (receipt,) = pipeline.ingest([Arrival(batches=(run.batch(0, 0, 16),))], NOW)
    (mark,) = receipt.watermarks
    assert (mark.stream, mark.accepted, mark.durable) == (stream_of(run), 16, 16)
    assert stored_sequences(database) == list(range(16))


def test_a_frame_sent_again_changes_nothing(database: Database, pipeline: Pipeline, run: SyntheticRun) -> None:
    for _ in range(3):
        run.send(0, 16)
    assert stored_sequences(database) == list(range(16))
    assert (count(pipeline, "accepted"), count(pipeline, "duplicate")) == (16, 32)


def test_overlapping_batches_are_trimmed_to_what_is_new(
    database: Database, pipeline: Pipeline, run: SyntheticRun
) -> None:
    run.send(0, 8)
    run.send(12, 16)
    (receipt,) = pipeline.ingest([Arrival(batches=(run.batch(0, 4, 20), run.batch(0, 6, 22)))], NOW)
    assert receipt.watermarks[0].durable == 22
    assert sorted(stored_sequences(database)) == list(range(22))
    with database.read() as transaction:
        rows = {
            sequence: batch.gradient_norms[index].tolist()
            for _, batch in transaction.segments.read(1, 0)
            if batch.gradient_norms is not None
            for index, sequence in enumerate(range(batch.first_sequence, batch.end_sequence))
        }
    assert [rows[sequence] for sequence in range(22)] == run.norms[:22].tolist()


def test_a_hole_holds_the_watermark_until_it_is_filled(pipeline: Pipeline, run: SyntheticRun) -> None:
    (behind,) = pipeline.ingest([Arrival(batches=(run.batch(0, 8, 16),))], NOW)
    assert behind.watermarks[0].durable == 0
    (filled,) = pipeline.ingest([Arrival(batches=(run.batch(0, 0, 8),))], NOW)
    assert filled.watermarks[0].durable == 16


def test_a_stream_may_not_fall_into_ever_more_pieces(
    database: Database, pipeline: Pipeline, run: SyntheticRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "_MOST_PIECES", 3)
    for first in (0, 2, 4):
        run.send(first, first + 1)

    with pytest.raises(InvalidBatchError, match="first_sequence: 6 leaves more than 3 holes in its stream: send what"):
        run.send(6, 7)
    drop = DroppedRange(stream_of(run), 9, 1, "queue_full")
    with pytest.raises(InvalidBatchError, match="first_sequence: 9 leaves"):
        pipeline.ingest([Arrival(drops=(drop,))], NOW)

    run.send(0, 6)
    run.send(7, 8)
    assert sorted(stored_sequences(database)) == [0, 1, 2, 3, 4, 5, 7]


def test_declared_drops_advance_both_watermarks(pipeline: Pipeline, run: SyntheticRun) -> None:
    drop = DroppedRange(stream_of(run), 4, 4, "queue_full")
    arrival = Arrival(batches=(run.batch(0, 0, 4), run.batch(0, 8, 12)), drops=(drop,))
    (receipt,) = pipeline.ingest([arrival], NOW)
    assert (receipt.watermarks[0].accepted, receipt.watermarks[0].durable) == (12, 12)


def test_rejected_records_advance_both_watermarks_and_their_neighbours_are_stored(
    database: Database, pipeline: Pipeline, run: SyntheticRun
) -> None:
    rejection = Rejection(stream_of(run), 4, 4, "gradient_norms", "has 3 bytes")
    arrival = Arrival(batches=(run.batch(0, 0, 4), run.batch(0, 8, 12)), rejections=(rejection,))
    (receipt,) = pipeline.ingest([arrival], NOW)
    assert receipt.watermarks[0].durable == 12
    assert receipt.rejections == (rejection,)
    assert stored_sequences(database) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert count(pipeline, "rejected") == 4


def test_a_record_that_comes_after_its_drop_was_declared_is_a_duplicate(
    database: Database, pipeline: Pipeline, run: SyntheticRun
) -> None:
    pipeline.ingest([Arrival(drops=(DroppedRange(stream_of(run), 0, 4, "spool_full"),))], NOW)
    run.send(0, 8)
    assert stored_sequences(database) == [4, 5, 6, 7]


def test_a_reconnecting_process_gets_its_handle_and_learns_what_is_durable(
    pipeline: Pipeline, run: SyntheticRun
) -> None:
    run.send(0, 16)
    again = pipeline.open_rank(run.identity(0), [Catalog(0, 0, parameters())], NOW + 1)
    assert (again.handle, again.attempt) == (run.handle(0), 1)
    assert [(mark.stream, mark.durable) for mark in again.watermarks] == [(stream_of(run), 16)]


def test_a_second_process_that_claims_a_rank_is_refused_by_name(pipeline: Pipeline, run: SyntheticRun) -> None:
    with pytest.raises(RankTakenError, match="node-0"):
        pipeline.open_rank(run.identity(0, session_id="somebody else", hostname="node-9"), [], NOW)


def test_a_world_size_that_contradicts_the_launch_is_refused(pipeline: Pipeline, run: SyntheticRun) -> None:
    with pytest.raises(LaunchConflictError):
        pipeline.open_rank(run.identity(1, world_size=3, session_id="x"), [], NOW)


def test_a_catalog_version_with_other_parameters_is_refused_and_opens_nothing(
    pipeline: Pipeline, run: SyntheticRun
) -> None:
    with pytest.raises(InvalidBatchError, match="other parameters"):
        pipeline.open_rank(run.identity(0), [Catalog(0, 0, parameters(["other"]))], NOW)


def test_a_handle_that_was_never_given_is_unknown(pipeline: Pipeline, run: SyntheticRun) -> None:
    with pytest.raises(UnknownRankError):
        pipeline.ingest([Arrival(batches=(make_batch(99, 0, run.norms[:1]),))], NOW)


def test_the_handle_of_a_deleted_run_is_unknown_and_others_go_on(
    database: Database, pipeline: Pipeline, run: SyntheticRun
) -> None:
    other = SyntheticRun(pipeline, name="other", launch="other", world_size=1).open()
    run.send(0, 8)
    pipeline.detect(NOW)
    with database.begin() as transaction:
        transaction.runs.delete(1)
    with pytest.raises(UnknownRankError):
        run.send(8, 16)
    other.send(0, 8)
    pipeline.detect(NOW + 10)
    pipeline.detect(NOW + 10)
    assert [view.run.key.run for view in pipeline.snapshot().runs] == ["other"]


def test_a_commit_that_fails_stores_nothing_and_the_same_frame_succeeds_later(database: Database) -> None:
    failing = True

    def fail(point: str) -> None:
        if failing and point == "ingest.before_commit":
            raise StorageBusyError("the disk is full")

    pipeline = new_pipeline(database, failure_point=fail)
    run = SyntheticRun(pipeline, world_size=1).open()
    with pytest.raises(StorageBusyError):
        run.send(0, 16)
    assert stored_sequences(database) == []
    failing = False
    run.send(0, 16)
    pipeline.detect(NOW)
    assert stored_sequences(database) == list(range(16))
    assert pipeline.snapshot().runs[0].tally.steps == 16


def test_a_new_version_of_a_catalog_travels_with_the_frame_that_needs_it(
    database: Database, pipeline: Pipeline, run: SyntheticRun
) -> None:
    wider = Catalog(0, 1, parameters(["a", "b", "c", "d"]))
    batch = make_batch(run.handle(0), 0, np.ones((4, 4), np.float32), catalog_version=1)
    pipeline.ingest([Arrival(batches=(batch,), catalogs=((run.handle(0), wider),))], NOW)
    pipeline.detect(NOW)
    assert pipeline.book.catalog(run.handle(0), 0, 1) == wider
    with database.read() as transaction:
        assert transaction.runs.catalogs(1, 0)[run.handle(0), 1] == wider
    assert pipeline.snapshot().runs[0].tally.grad_norm == 2.0


def test_a_rank_may_have_an_optimizer_of_which_its_launch_has_not_heard(database: Database, pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline, world_size=2)
    pipeline.open_rank(run.identity(1), [Catalog(0, 0, parameters())], NOW)
    own = {(0, 0): Catalog(0, 0, parameters()), (1, 0): Catalog(1, 0, parameters(("emb.weight",)))}

    opened = pipeline.open_rank(run.identity(0), list(own.values()), NOW)

    assert {key: pipeline.book.catalog(opened.handle, *key) for key in own} == own
    assert pipeline.book.catalog(opened.handle, 1, 1) is None
    pipeline.book.forget(opened.run_id)
    assert {key: pipeline.book.catalog(opened.handle, *key) for key in own} == own, "read again"


def test_details_are_stored_beside_the_steps_and_not_judged(
    database: Database, pipeline: Pipeline, run: SyntheticRun
) -> None:
    detail = make_batch(run.handle(0), 0, run.norms[:8], kind=RecordKind.DETAIL)
    (receipt,) = pipeline.ingest([Arrival(batches=(detail,))], NOW)
    pipeline.detect(NOW)
    assert receipt.watermarks[0].stream.kind is RecordKind.DETAIL
    assert pipeline.snapshot().runs[0].tally.steps == 0


def test_what_clients_say_they_dropped_is_counted_once(pipeline: Pipeline, run: SyntheticRun) -> None:
    def report(queue_full: int) -> None:
        health = Health(run.handle(0), {"queue_full": queue_full}, 0, 1000, 0.0, 0, 0.0, 0.0)
        pipeline.ingest([Arrival(health=(health,))], NOW)

    for total in (3, 3, 5):
        report(total)
    registry = pipeline._instruments.registry
    labels = {"project": "mt", "reason": "queue_full"}
    assert registry.get_sample_value("seismograd_client_dropped_records_total", labels) == 5
    assert registry.get_sample_value("seismograd_client_spool_bytes", {"project": "mt"}) == 1000


def test_checkpoints_of_the_job_are_kept(database: Database, pipeline: Pipeline, run: SyntheticRun) -> None:
    saved = Checkpoint(run.handle(0), 100, "s3://bucket/100.pt", NOW)
    for _ in range(2):
        pipeline.ingest([Arrival(checkpoints=(saved,))], NOW)
    with database.read() as transaction:
        assert list(transaction.runs.checkpoints(1)) == [saved]


def test_runs_of_one_model_hold_one_catalog(pipeline: Pipeline, run: SyntheticRun) -> None:
    twin = SyntheticRun(pipeline, name="twin", launch="twin", world_size=run.world_size).open()
    key, newer = (0, 0), Catalog(0, 1, parameters(names=("other",)))
    pipeline.ingest(
        [Arrival(catalogs=((each.handle(0), Catalog(0, 1, newer.parameters)),)) for each in (run, twin)], NOW
    )
    (one, other) = (pipeline.book.sender(each.handle(0)).catalogs for each in (run, twin))
    assert one[key] is other[key]
    assert one[0, 1] is other[0, 1]
    assert one[0, 1] == newer != one[key]
