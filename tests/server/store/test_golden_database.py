"""A database that an earlier version made is opened, brought up to date, and keeps what was in it.

The files were written by `tests/golden/make_store_revision_*.py` and `make_postgresql_revision_*.py`, each with the
program of its time, and are never made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from seismograd_server.model import (
    SUMMARY_SIZES,
    Answer,
    Composition,
    Directive,
    DirectiveKind,
    DirectiveOutcome,
    DroppedRange,
    NonfiniteLayer,
    Quantity,
    RecordKind,
    ReplicaGap,
    RunKey,
    RunState,
    StreamKey,
    SummaryKind,
    Verdict,
)
from seismograd_server.store.checking import check_database
from seismograd_server.store.codec import slice_batch
from seismograd_server.store.database import Database
from seismograd_server.store.mantissa import round_mantissa
from seismograd_server.store.schema import segments
from tests.golden.make_store_revision_6 import batch, block
from tests.golden.make_store_revision_7 import SILENCES
from tests.golden.store_dump import load
from tests.support.postgresql import Cluster, PostgresqlVersion

GOLDEN = Path(__file__).parents[2] / "golden"


# What the first program that kept data in PostgreSQL wrote, and one of the day after; on the versions at both ends.
POSTGRESQL: dict[int, PostgresqlVersion] = {3: "15", 7: "18"}
GOLDENS = [("sqlite", each) for each in (1, 2, 3, 5, 6, 7, 8)] + [("postgresql", each) for each in POSTGRESQL]


def since(revision: int) -> pytest.MarkDecorator:
    """For what is in every golden database from a revision on."""
    found = [pytest.param(each, id=f"{each[0]}-{each[1]}") for each in GOLDENS if each[1] >= revision]
    return pytest.mark.parametrize("kind", found)


@pytest.fixture
def golden_url(tmp_path: Path, kind: tuple[str, int], request: pytest.FixtureRequest) -> Iterator[str]:
    name, revision = kind
    if name == "sqlite":
        path = tmp_path / "seismograd.db"
        shutil.copyfile(GOLDEN / f"store_revision_{revision}.sqlite", path)
        yield f"sqlite:///{path}"
        return
    make: Callable[[PostgresqlVersion], Cluster] = request.getfixturevalue("postgresql_cluster")
    cluster = make(POSTGRESQL[revision])
    url = cluster.new_database(empty=True)
    load(cluster, url, GOLDEN / f"postgresql_revision_{revision}.sql.gz")
    yield url
    cluster.drop_database(url)


@pytest.fixture
def golden(golden_url: str) -> Iterator[Database]:
    with Database.open(golden_url, owner="test") as database:
        yield database


@since(1)
def test_the_run_and_its_rank_are_there(golden: Database) -> None:
    with golden.read() as transaction:
        run = transaction.runs.get(RunKey("mt", "lstm"))
        assert (run.state, run.started_at, run.tags) == (RunState.RUNNING, 1_700_000_000.0, {"team": "räum"})
        assert (run.last_step, run.closed_steps, run.config_json) == (2, 3, '{"lr": 0.1}')
        (launch,) = transaction.runs.launches(run.run_id)
        rank = transaction.runs.ranks(launch.launch_row)[0]
        assert rank.capabilities == frozenset(), "of a client that could not be asked for anything"
        assert (launch.launch_id, launch.world_size, rank.hostname, rank.process_id) == ("launch-1", 2, "node-1", 4711)
        (optimizer,) = transaction.runs.optimizers(launch.launch_row)
        assert optimizer.class_name == "torch.optim.sgd.SGD"
        (catalog,) = transaction.runs.catalogs(launch.launch_row, 0).values()
        weight = catalog.parameters[0]
        assert (weight.name, weight.shape, weight.replication) == ("rnn.weight_hh_l0", (8, 2), 2)
        assert weight.composition is Composition.SUM_OF_SQUARES
        assert [each.path for each in transaction.runs.checkpoints(run.run_id)] == ["s3://bucket/1"]
        assert [each.dropped_records for each in transaction.runs.health(run.run_id)] == [{"queue_full": 2}]


@since(1)
def test_its_records_are_there_to_the_bit(golden: Database) -> None:
    with golden.read() as transaction:
        ((_, batch),) = transaction.segments.read(1, 0)
        stream = StreamKey(1, 0, RecordKind.STEP)
        assert list(transaction.segments.received([1])[stream]) == [(0, 5)]
        assert transaction.segments.dropped([1]) == [DroppedRange(stream, 3, 2, "queue_full")]
    assert batch.gradient_norms is not None
    expected = np.array([[1.5, -0.0], [np.inf, 1e-45], [np.nan, 3e38]], np.float32)
    assert batch.gradient_norms.tobytes() == expected.tobytes()
    assert batch.digests is not None
    assert batch.digests.tolist() == [1, 2, 2**64 - 1]
    assert batch.nonfinite is not None
    assert batch.nonfinite.negative_inf_counts.tolist() == [9]
    assert np.isnan(batch.scalars[Quantity.LOSS].values).tolist() == [True]
    assert batch.tensors[Quantity.UPDATE_NORM].values.tolist() == [[0.25]]
    assert batch.data_ids == {2: "shard-é"}


@since(1)
def test_its_closed_steps_and_detectors_are_there(golden: Database) -> None:
    with golden.read() as transaction:
        (chunk,) = transaction.steps.read(1, 0)
        assert transaction.detectors.load(1, 0) == (chunk.ordinal, b"state")
    np.testing.assert_array_equal(chunk.global_norm, [1.0, np.inf, np.nan])
    assert chunk.ranks_present.tolist() == [[True, False], [True, True], [False, True]]
    assert chunk.loss_known.tolist() == [True, True, False]
    assert chunk.rank_norm[1].tolist() == [1.0, 2.0]
    assert chunk.nonfinite_layers == (NonfiniteLayer(1, 0, 0, 7, 8, 9),)


@since(1)
def test_its_alerts_and_notifications_are_there(golden: Database) -> None:
    with golden.read() as transaction:
        (alert,) = transaction.alerts.open_for_run(1)
        assert (alert.alert_id, alert.scope, alert.evidence.value) == ("alert-1", "layer:rnn", float("inf"))
        assert transaction.alerts.history("alert-1")[0].cause == "opened"
        assert alert.told is alert.severity, "it fires and nothing speaks over it: people know"
        assert [entry.dedupe_key for entry in transaction.outbox.due(10.0)] == ["alert-1/0/pager"]


@since(2)
def test_its_directives_are_there_from_the_second_revision_on(golden: Database) -> None:
    with golden.read() as transaction:
        stop, capture = transaction.directives.of_run(1, limit=10)
        assert transaction.runs.rank(2).capabilities == {"capture_more", "checkpoint", "stop"}
        assert [each.directive_id for _, each in transaction.directives.unanswered(1_700_000_020.0)] == ["directive-2"]
    assert (stop.directive.asked_by, stop.directive.kind, stop.addressees[0].outcome) == (
        "ræn",
        DirectiveKind.STOP,
        None,
    )
    assert (capture.directive.first_step, capture.directive.last_step, capture.directive.alert_id) == (
        -63,
        65,
        "alert-1",
    )
    (answered,) = capture.addressees
    assert (answered.rank, answered.outcome, answered.step, answered.sent_at) == (
        1,
        DirectiveOutcome.APPLIED,
        2,
        1_700_000_011.5,
    )


@since(3)
def test_the_facts_of_hosts_are_there_from_the_third_revision_on(golden: Database) -> None:
    with golden.read() as transaction:
        run = transaction.runs.get(RunKey("mt", "host"))
        (launch,) = transaction.runs.launches(run.run_id)
        (rank,) = transaction.runs.ranks(launch.launch_row)
        assert rank.host_facts == {"cpu_count": "8", "nccl": "2.27 räm"}
        assert transaction.runs.rank(1).host_facts == {}, "of a client that told of none"


@since(5)
def test_its_summaries_are_there_from_the_fifth_revision_on(golden: Database) -> None:
    with golden.read() as transaction:
        (line,) = transaction.steps.lines(1, 0)
        series, layers = (
            transaction.summaries.read(1, line, kind, SUMMARY_SIZES[kind][0], first_step=0, last_step=1000)[0]
            for kind in SummaryKind
        )
    assert (line.first_step, line.last_step, line.summarised_to) == (0, 2, 2)
    assert (layers.names, layers.buckets.tolist()) == (("rnn.weight_hh_l0", "räm"), [0, 2])
    np.testing.assert_array_equal(layers.maximum, np.array([[1.5, np.inf], [3e38, 1e-45]], np.float32))
    np.testing.assert_array_equal(series.minimum, [[-1.5, -np.inf], [-3e38, -1e-45]])
    assert series.tallies.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert layers.nonfinite.tolist() == [[3, 2], [1, 0]]


@since(6)
def test_what_was_compacted_is_there_from_the_sixth_revision_on(golden: Database) -> None:
    with golden.read() as transaction:
        run = transaction.runs.get(RunKey("mt", "dense"))
        (launch,) = transaction.runs.launches(run.run_id)
        parts = [part for _, part in transaction.segments.read(launch.launch_row, 0)]
        (chunk,) = transaction.steps.read(run.run_id, 0)
        assert transaction.detectors.load(run.run_id, 0) == (chunk.ordinal, b"state")
        (position,) = transaction.compaction.positions(run.run_id)
        assert (position.attempt, position.segment) == (1, 7)
    assert [(part.first_sequence, part.count, part.rounded) for part in parts] == [
        (0, 100, True),
        (100, 100, False),
        (200, 100, True),
    ]
    whole = batch(parts[0].rank_handle)
    assert whole.gradient_norms is not None
    for part in parts:
        expected = slice_batch(whole, part.first_sequence, part.end_sequence)
        assert part.gradient_norms is not None
        assert expected.gradient_norms is not None
        rounded = round_mantissa(expected.gradient_norms, 12) if part.rounded else expected.gradient_norms
        assert part.gradient_norms.tobytes() == rounded.tobytes()
        assert part.times.tobytes() == expected.times.tobytes()
        assert part.data_ids == expected.data_ids
    assert chunk.times.tobytes() == block().times.tobytes()
    assert chunk.global_norm.tobytes() == block().global_norm.tobytes()
    assert chunk.replica_gaps == (ReplicaGap(7, 0, 0.5),)


@since(7)
def test_what_people_did_is_there_from_the_seventh_revision_on(golden: Database) -> None:
    with golden.read() as transaction:
        assert tuple(reversed(transaction.silences.list())) == SILENCES
        alert = transaction.alerts.get("alert-1")
        assert (alert.acknowledged_by, alert.verdict) == ("ræn", Verdict.WRONG)
        history = [(each.cause, each.author, each.note) for each in transaction.alerts.history("alert-1")]
    assert history == [
        ("opened", "", ""),
        ("acknowledged", "ræn", "on it"),
        ("called wrong", "Ada", "a planned räm"),
    ]


@since(8)
def test_what_was_stored_with_a_checksum_is_there_from_the_eighth_revision_on(golden: Database) -> None:
    with golden.read() as transaction:
        run = transaction.runs.get(RunKey("mt", "checked"))
        (launch,) = transaction.runs.launches(run.run_id)
        ((_, stored),) = transaction.segments.read(launch.launch_row, 0)
        (chunk,) = transaction.steps.read(run.run_id, 0)
        own = select(segments.c.payload).where(segments.c.launch_row == launch.launch_row)
        assert [payload[:4] for payload in transaction.connection.scalars(own)] == [b"SGC2"]
    expected = batch(stored.rank_handle)
    assert stored.gradient_norms is not None
    assert expected.gradient_norms is not None
    assert stored.gradient_norms.tobytes() == expected.gradient_norms.tobytes()
    assert chunk.global_norm.tobytes() == block().global_norm.tobytes()


@since(1)
@pytest.mark.usefixtures("golden")
def test_all_of_it_is_sound(golden_url: str) -> None:
    found = check_database(golden_url)
    assert found.damaged == []
    assert found.payloads >= 2


@since(1)
def test_it_can_be_asked_and_answered(golden: Database) -> None:
    directive = Directive("new", 1, DirectiveKind.STOP, "Ada", asked_at=5.0, expires_at=10.0)
    with golden.begin() as transaction:
        assert transaction.directives.add(directive, [1])
        assert transaction.directives.answer(Answer(1, "new", DirectiveOutcome.APPLIED, ""), 6.0)


@since(1)
def test_it_can_be_written_and_emptied(golden: Database) -> None:
    with golden.begin() as transaction:
        for run in transaction.runs.list():
            transaction.runs.delete(run.run_id)
    with golden.read() as transaction:
        assert transaction.runs.list() == []
