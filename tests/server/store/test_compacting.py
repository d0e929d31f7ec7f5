"""What the compactor asks of the store, on every kind of database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from seismograd_server.model import ClosedBlock, RankIdentity, RecordKind, StepBatch
from seismograd_server.store.blocks import encode_block, join_chunks
from seismograd_server.store.codec import encode_dense
from seismograd_server.store.compacting import StoredRow, Stretch
from seismograd_server.store.database import Database
from seismograd_server.store.detectors import DetectorCheckpoint
from seismograd_server.store.merging import merge

BatchMaker = Callable[..., StepBatch]
STRETCH = Stretch(launch_row=1, optimizer=0, kind=RecordKind.STEP)


@pytest.fixture
def handles(database: Database, make_identity: Callable[..., RankIdentity]) -> tuple[int, int]:
    """Two ranks of one launch."""
    with database.begin() as transaction:
        first, second = (
            transaction.runs.open_rank(make_identity(rank=rank, world_size=2), now=1.0).rank.handle for rank in (0, 1)
        )
    return first, second


def outline(rows: list[StoredRow]) -> list[tuple[Any, ...]]:
    return [(row.row_id, row.records, row.dense, row.settled) for row in rows]


def test_a_merged_segment_has_the_highest_id_of_its_sources_and_all_of_their_records(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    first, second = handles
    with database.begin() as transaction:
        transaction.segments.append([make_batch(first, 0), make_batch(second, 0), make_batch(first, 4)], 2.0)
        transaction.segments.append([make_batch(first, 8)], 5.0)
    with database.read() as transaction:
        rows = transaction.compaction.segments(STRETCH, after=0)
        late = transaction.compaction.segments(Stretch(1, 0, RecordKind.STEP, superseded_at=3.0), after=0)
        assert len(transaction.compaction.segments(Stretch(1, 0, RecordKind.STEP, through=3), after=1)) == 2
        sources = [row.row_id for row in rows if row.place == rows[0].place]
        merged = merge([batch for source in sources for batch in transaction.compaction.read_segment(source)])
    assert [row.place == rows[0].place for row in rows] == [True, False, True, True]
    assert late[0].place != late[3].place, "what came after the next launch had begun stays apart"
    with database.begin() as transaction:
        assert transaction.compaction.replace_segments(sources, merged, encode_dense(merged), settled=True)
    with database.begin() as transaction:
        assert not transaction.compaction.replace_segments(sources, merged, b"", settled=True), "they are gone"
        transaction.segments.append([make_batch(first, 12)], 6.0)
    with database.read() as transaction:
        found = transaction.compaction.segments(STRETCH, after=0)
        batches = [batch for _, batch in transaction.segments.read(1, 0) if batch.rank_handle == first]
    assert outline(found) == [(2, 4, False, False), (4, 12, True, True), (5, 4, False, False)]
    assert [(batch.first_sequence, batch.count) for batch in batches] == [(0, 12), (12, 4)]


def test_a_merged_block_stands_where_the_last_of_its_sources_stood(
    database: Database, handles: tuple[int, int], make_block: Callable[..., ClosedBlock]
) -> None:
    assert handles
    with database.begin() as transaction:
        for first in (0, 4, 8):
            transaction.steps.append(1, 1, 0, make_block(first))
    with database.read() as transaction:
        rows = transaction.compaction.blocks(1, 0, after=0, through=2)
        chunks = [transaction.compaction.read_block(row.row_id) for row in rows]
    assert outline(rows) == [(1, 4, False, False), (2, 4, False, False)]
    whole = join_chunks([chunk for chunk in chunks if chunk is not None])
    payload = encode_block(whole, dense=True)
    with database.begin() as transaction:
        assert transaction.compaction.replace_blocks([1, 2], 1, 0, whole, payload)
    with database.begin() as transaction:
        assert not transaction.compaction.replace_blocks([1, 2], 1, 0, whole, payload), "they are gone"
    with database.read() as transaction:
        assert outline(transaction.compaction.blocks(1, 0, after=0, through=9)) == [
            (2, 8, True, True),
            (3, 4, False, False),
        ]
        steps = [step for chunk in transaction.steps.read(1, 0) for step in chunk.steps.tolist()]
        closings = list(transaction.steps.closings(1, 0, after_ordinal=2))
    assert steps == list(range(12))
    assert [closing.ordinal for closing in closings] == [3]


def test_runs_and_their_positions_are_told(database: Database, handles: tuple[int, int]) -> None:
    assert handles
    with database.read() as transaction:
        assert [run.behind for run in transaction.compaction.runs(after_run=0)] == [0]
    saved = [DetectorCheckpoint(1, optimizer, 7, b"state", attempt=1, segment=5) for optimizer in (0, 3)]
    with database.begin() as transaction:
        transaction.detectors.save_all(saved, now=2.0)
    with database.read() as transaction:
        (run,) = transaction.compaction.runs(after_run=0)
        position, other = transaction.compaction.positions(run.run_id)
        assert transaction.compaction.runs(after_run=run.run_id) == []
    assert (run.running, run.behind, run.ended_at) == (True, 14, None)
    assert (position.ordinal, position.attempt, position.segment) == (7, 1, 5)
    assert (position.optimizer, other.optimizer) == (0, 3)
