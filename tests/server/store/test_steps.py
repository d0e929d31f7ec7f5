from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from sqlalchemy import insert

from seismograd_server.errors import StorageError
from seismograd_server.model import ClosedBlock, NonfiniteLayer, RankIdentity, ReplicaGap
from seismograd_server.store import steps as steps_module
from seismograd_server.store.blocks import StepChunk
from seismograd_server.store.database import Database
from seismograd_server.store.schema import closed_blocks
from seismograd_server.store.steps import StepRepository

BlockMaker = Callable[..., ClosedBlock]
# What a chunk repeats of a block, under the same names.
SHARED = sorted(set(StepChunk.__dataclass_fields__) & set(ClosedBlock.__dataclass_fields__))


@pytest.fixture
def steps(database: Database, make_identity: Callable[..., RankIdentity]) -> Iterator[StepRepository]:
    """The repository inside one write transaction, with a run of two launches."""
    with database.begin() as transaction:
        for launch_id in ("first", "second"):
            transaction.runs.open_rank(make_identity(launch_id=launch_id), now=1.0)
        yield transaction.steps


def line(
    steps: StepRepository, first_step: int | None = None, last_step: int | None = None
) -> list[tuple[int, int, int]]:
    return [
        (chunk.attempt, chunk.branch, step)
        for chunk in steps.read(1, 0, first_step, last_step)
        for step in chunk.steps.tolist()
    ]


def test_a_block_comes_back_with_everything_it_had(steps: StepRepository, make_block: BlockMaker) -> None:
    nan = np.nan
    block = make_block(
        10,
        3,
        ranks_present=np.array([[1, 1], [0, 1], [1, 0]], np.bool_),
        global_norm=np.array([1.0, nan, 5e-324]),
        nonfinite=np.array([[0, 0, 0], [2, 1, 0], [0, 0, 7]]),
        nonfinite_layers=(NonfiniteLayer(1, 0, 1, 2, 1, 0), NonfiniteLayer(2, -1, 0, 0, 0, 2**40)),
        replica_gaps=(ReplicaGap(1, 1, 2.0**-24), ReplicaGap(2, 0, math.inf)),
        inexact=np.array([False, True, False]),
        sources=np.array([1, 2, 4], np.uint8),
        flags=np.array([0, 4, 8], np.uint16),
        loss=np.array([nan, np.inf, -0.0]),
        loss_known=np.array([True, True, True]),
        rank_loss=np.array([[nan, 1.0], [2.0, nan], [3.0, 4.0]]),
        rank_loss_known=np.array([[1, 1], [1, 0], [1, 1]], np.bool_),
        rank_norm=np.array([[nan, nan], [np.inf, 2.0], [nan, nan]]),
        learning_rate=np.array([0.1, 0.2, nan]),
        step_seconds=np.array([1.0, 2.0, 3.0]),
    )

    ordinal = steps.append(1, 1, 0, block)

    (chunk,) = steps.read(1, 0)
    assert (chunk.ordinal, chunk.launch_row, chunk.attempt, chunk.branch) == (ordinal, 1, 1, 0)
    for name in SHARED:
        stored, given = getattr(chunk, name), getattr(block, name)
        if isinstance(given, np.ndarray):
            assert stored.dtype == given.dtype, name
            np.testing.assert_array_equal(stored, given, err_msg=name)
        else:
            assert stored == given, name
    assert np.signbit(chunk.loss[2])


def test_a_known_loss_that_is_nan_is_not_a_loss_that_is_unknown(steps: StepRepository, make_block: BlockMaker) -> None:
    steps.append(1, 1, 0, make_block(0, 2, loss_known=np.array([True, False])))

    (chunk,) = steps.read(1, 0)
    assert chunk.loss_known.tolist() == [True, False]
    assert np.isnan(chunk.loss).all()


def test_an_empty_block_is_refused(steps: StepRepository, make_block: BlockMaker) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        steps.append(1, 1, 0, make_block(0, 0))


def test_blocks_are_read_in_closing_order_page_by_page(
    steps: StepRepository, make_block: BlockMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_module, "_PAGE", 3)
    ordinals = [steps.append(1, 1, 0, make_block(first, 2)) for first in range(0, 20, 2)]

    assert [chunk.ordinal for chunk in steps.read(1, 0)] == ordinals == sorted(ordinals)
    assert line(steps, first_step=5, last_step=8) == [(1, 0, step) for step in (5, 6, 7, 8)]
    assert steps.last(1, 0) == (1, 0, 19)
    assert steps.last(1, 1) is None


def test_blocks_of_several_runs_stored_together_are_told_each_its_own_number(
    database: Database, make_identity: Callable[..., RankIdentity], make_block: BlockMaker
) -> None:
    with database.begin() as transaction:
        opened = [transaction.runs.open_rank(make_identity(run=name, launch_id=name), now=1.0) for name in "abc"]
    where = [(each.run.run_id, each.launch.launch_row) for each in opened]
    told: dict[int, list[int]] = {}
    for first in (0, 4):  # in two transactions, and behind what another one has removed
        with database.begin() as transaction:
            blocks = [(run_id, launch_row, 0, make_block(first, 4)) for run_id, launch_row in where]
            for (run_id, _), ordinal in zip(where, transaction.steps.append_all(blocks), strict=True):
                told.setdefault(run_id, []).append(ordinal)
        if first == 0:
            with database.begin() as transaction:
                transaction.runs.delete(where[1][0])
                del told[where[1][0]], where[1]

    with database.read() as transaction:
        found = {run_id: [chunk.ordinal for chunk in transaction.steps.read(run_id, 0)] for run_id, _ in where}
    assert found == told


def test_the_last_branch_hides_what_it_took_over(steps: StepRepository, make_block: BlockMaker) -> None:
    steps.append(1, 1, 0, make_block(0, 10))
    steps.append(1, 1, 0, make_block(6, 2, branch=1))
    steps.append(1, 2, 0, make_block(4, 3, attempt=2))

    assert line(steps) == [*((1, 0, step) for step in range(4)), *((2, 0, step) for step in (4, 5, 6))]
    everything = [chunk.count for chunk in steps.read(1, 0, all_branches=True)]
    assert everything == [10, 2, 3]
    assert steps.last(1, 0) == (2, 0, 6)


def test_a_window_knows_of_branches_outside_it(steps: StepRepository, make_block: BlockMaker) -> None:
    steps.append(1, 1, 0, make_block(0, 10))
    steps.append(1, 1, 0, make_block(2, 1, branch=1))

    assert line(steps, first_step=5) == [], "steps 5 to 9 were rewound, though step 5 has not been made again"


def test_replicas_that_disagree_keep_their_steps(steps: StepRepository, make_block: BlockMaker) -> None:
    gaps = tuple(ReplicaGap(row, 1, float(row)) for row in range(4))
    steps.append(1, 1, 0, make_block(0, 4, replica_gaps=gaps))

    (chunk,) = steps.read(1, 0, first_step=2)
    assert chunk.replica_gaps == (ReplicaGap(0, 1, 2.0), ReplicaGap(1, 1, 3.0))


def test_rows_of_nonfinite_layers_follow_their_steps(steps: StepRepository, make_block: BlockMaker) -> None:
    layers = tuple(NonfiniteLayer(row, 0, 0, row, 0, 0) for row in range(4))
    steps.append(1, 1, 0, make_block(0, 4, nonfinite_layers=layers))

    (chunk,) = steps.read(1, 0, first_step=2)
    assert [(entry.row, entry.nan_count) for entry in chunk.nonfinite_layers] == [(0, 2), (1, 3)]


def test_closings_are_the_script_of_a_replay(steps: StepRepository, make_block: BlockMaker) -> None:
    present = np.array([[1, 0, 1]] * 2, np.bool_)
    first = steps.append(1, 1, 0, make_block(0, 2, ranks=3, ranks_present=present))
    steps.append(1, 2, 0, make_block(0, 2, attempt=2))
    second = steps.append(1, 1, 0, make_block(5, 1, ranks=3, branch=1))

    closings = list(steps.closings(1, 0))

    assert [(each.ordinal, each.branch, each.steps.tolist()) for each in closings] == [
        (first, 0, [0, 1]),
        (second, 1, [5]),
    ]
    np.testing.assert_array_equal(closings[0].ranks_present, present)
    assert [each.ordinal for each in steps.closings(1, 0, after_ordinal=first)] == [second]


def test_a_damaged_block_is_named(database: Database, make_identity: Callable[..., RankIdentity]) -> None:
    with database.begin() as transaction:
        transaction.runs.open_rank(make_identity(), now=1.0)
        damaged = {"run_id": 1, "launch_row": 1, "optimizer": 0, "attempt": 1, "branch": 0, "first_step": 0}
        transaction.connection.execute(insert(closed_blocks), damaged | {"last_step": 0, "payload": b"SGC1\0\0\0\0"})
        with pytest.raises(StorageError, match="closed block 1 cannot be read: stored block lacks column 1"):
            list(transaction.steps.read(1, 0))
