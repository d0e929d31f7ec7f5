"""Which rows of single steps go: those outside of what is kept, behind the last checkpoint, of this run alone."""

from __future__ import annotations

from collections.abc import Callable

from seismograd_server.model import ClosedBlock, RankIdentity, RecordKind, RunState, StepBatch
from seismograd_server.store.database import Database, Transaction
from seismograd_server.store.detectors import DetectorCheckpoint
from seismograd_server.store.downsampling import Kept

KEPT = Kept(0, ((8, 9),))


def steps_of(transaction: Transaction, launch_row: int, kind: RecordKind = RecordKind.STEP) -> list[int]:
    return [int(batch.steps[0]) for _, batch in transaction.segments.read(launch_row, 0, kind)]


def fill(
    transaction: Transaction,
    identity: RankIdentity,
    make_batch: Callable[..., StepBatch],
    make_block: Callable[..., ClosedBlock],
) -> tuple[int, int]:
    """Five segments and blocks of four steps each, and details of the same; all of it judged. Run and launch."""
    opened = transaction.runs.open_rank(identity, now=1.0)
    run_id, launch_row, ordinal = opened.run.run_id, opened.launch.launch_row, 0
    for first in range(0, 20, 4):
        for kind in RecordKind:
            transaction.segments.append([make_batch(opened.rank.handle, first, kind=kind)], received_at=1.0)
        ordinal = transaction.steps.append(run_id, launch_row, 0, make_block(first))
    state = DetectorCheckpoint(run_id, 0, ordinal, b"", attempt=1, segment=transaction.segments.last_id())
    transaction.detectors.save_all([state], 1.0)
    transaction.runs.set_state(run_id, RunState.FINISHED, 2.0)
    return run_id, launch_row


def test_rows_outside_of_what_is_kept_go_and_nothing_else(
    database: Database,
    make_identity: Callable[..., RankIdentity],
    make_batch: Callable[..., StepBatch],
    make_block: Callable[..., ClosedBlock],
) -> None:
    with database.begin() as transaction:
        run_id, launch = fill(transaction, make_identity("old"), make_batch, make_block)
        other, other_launch = fill(transaction, make_identity("other"), make_batch, make_block)
    with database.begin() as transaction:
        found = transaction.downsampling.drop_segments(run_id, KEPT, 0, 10**9)
        assert found.rows == 4
        assert found.size_bytes > 0
        assert found.after is not None
        assert transaction.downsampling.drop_segments(run_id, KEPT, found.after, 10**9).after is None
        assert transaction.downsampling.drop_blocks(run_id, KEPT, 0, 10**9).rows == 4
    with database.read() as transaction:
        assert steps_of(transaction, launch) == [8]
        assert steps_of(transaction, launch, RecordKind.DETAIL) == [0, 4, 8, 12, 16]
        assert [int(chunk.steps[0]) for chunk in transaction.steps.read(run_id, 0)] == [8]
        assert steps_of(transaction, other_launch) == [0, 4, 8, 12, 16]
        assert len(list(transaction.steps.read(other, 0))) == 5
        assert transaction.downsampling.is_over(run_id)


def test_a_piece_is_bounded_and_the_next_one_goes_on_behind_it(
    database: Database,
    make_identity: Callable[..., RankIdentity],
    make_batch: Callable[..., StepBatch],
    make_block: Callable[..., ClosedBlock],
) -> None:
    with database.begin() as transaction:
        run_id, launch = fill(transaction, make_identity(), make_batch, make_block)
    after: int | None = 0
    dropped = []
    while after is not None:
        with database.begin() as transaction:
            piece = transaction.downsampling.drop_segments(run_id, KEPT, after, 1)
        after = piece.after
        dropped.append(piece.rows)
    assert dropped == [1, 1, 1, 1, 0]
    with database.read() as transaction:
        assert steps_of(transaction, launch) == [8]


def test_what_a_restart_would_replay_stays(
    database: Database,
    make_identity: Callable[..., RankIdentity],
    make_batch: Callable[..., StepBatch],
    make_block: Callable[..., ClosedBlock],
) -> None:
    with database.begin() as transaction:
        run_id, launch = fill(transaction, make_identity(), make_batch, make_block)
        middle = [segment for segment, _ in transaction.segments.read(launch, 0)][1]
        saved = transaction.compaction.blocks(run_id, 0, after=0, through=2**62)[1].row_id
        state = DetectorCheckpoint(run_id, 0, saved, b"", attempt=1, segment=middle)
        transaction.detectors.save_all([state], 2.0)
        later = transaction.runs.open_rank(make_identity(launch_id="again", session_id="again"), 3.0)
        transaction.segments.append([make_batch(later.rank.handle, 40)], received_at=3.0)
        transaction.downsampling.drop_segments(run_id, Kept(0, ()), 0, 10**9)
        transaction.downsampling.drop_blocks(run_id, Kept(0, ()), 0, 10**9)
    with database.read() as transaction:
        assert steps_of(transaction, launch) == [8, 12, 16]
        assert [int(chunk.steps[0]) for chunk in transaction.steps.read(run_id, 0)] == [8, 12, 16]
        assert steps_of(transaction, later.launch.launch_row) == [40], "nobody has judged that launch"
        assert not transaction.downsampling.is_over(run_id), "it goes on"
