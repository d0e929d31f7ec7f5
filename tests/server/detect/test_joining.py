"""Joined pieces: fewer batches, and the same closed steps as if they had stayed apart."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.detect.closing import Piece, assemble, union_of_steps
from seismograd_server.detect.compose import compose_block
from seismograd_server.detect.joining import join
from seismograd_server.detect.layout import make_plan
from seismograd_server.model import (
    Catalog,
    ClosedBlock,
    Quantity,
    RecordFlag,
    ScalarColumn,
    StepBatch,
    TensorColumn,
)
from seismograd_server.store.codec import slice_batch
from tests.support.synthetic import healthy_norms, make_batch, nonfinite, parameters

RECORDS = 40


def full_batch(rank: int) -> StepBatch:
    """Records with a column of every kind, some of them sparse."""
    rows = np.arange(rank, RECORDS, 3, dtype=np.uint32)
    sampled = np.arange(0, RECORDS, 10, dtype=np.uint32)
    flags = np.zeros(RECORDS, np.uint16)
    flags[7] = RecordFlag.CLIPPED
    return make_batch(
        rank + 1,
        0,
        healthy_norms(RECORDS, seed=rank),
        steps=np.arange(RECORDS, dtype=np.int64) * 5,
        losses=np.linspace(3.0, 2.0, RECORDS),
        scalars={Quantity.LEARNING_RATE: ScalarColumn(rows, rows / 100.0)},
        tensors={
            Quantity.WEIGHT_NORM: TensorColumn(
                sampled, np.array([0, 2], np.uint32), healthy_norms(len(sampled), layers=2, seed=rank)
            )
        },
        nonfinite=nonfinite((31, 1, 4), (3, 0, 1)),
        flags=flags,
        data_ids={4: "shard-4", 30: "shard-30"},
    )


def compose(pieces: list[Piece]) -> ClosedBlock:
    plan = make_plan({rank: Catalog(0, 0, parameters(shard_id=rank, shard_count=2)) for rank in range(2)}, 2, {})
    return compose_block(assemble(0, union_of_steps(pieces), pieces, 2), plan, 1)


def assert_same(one: ClosedBlock, other: ClosedBlock) -> None:
    for name in ClosedBlock.__dataclass_fields__:
        np.testing.assert_equal(getattr(one, name), getattr(other, name), err_msg=name)


def pieces_of(batch: StepBatch, rank: int, cuts: list[int]) -> list[Piece]:
    """The batch in pieces, every other of which is a part of a larger batch."""
    edges = [0, *sorted(set(cuts)), RECORDS]
    pieces = []
    for index, (start, stop) in enumerate(itertools.pairwise(edges)):
        if start == stop:
            continue
        whole = index % 2 == 0
        own = slice_batch(batch, start, stop) if whole else batch
        pieces.append(Piece(rank, own, 0 if whole else start, stop - start if whole else stop, 0.0, 0))
    return pieces


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, RECORDS - 1), max_size=12), st.lists(st.integers(1, RECORDS - 1), max_size=12))
def test_any_pieces_compose_as_the_whole_does(cuts: list[int], others: list[int]) -> None:
    whole = [Piece(rank, full_batch(rank), 0, RECORDS, 0.0, 0) for rank in range(2)]
    pieces = pieces_of(whole[0].batch, 0, cuts) + pieces_of(whole[1].batch, 1, others)
    joined = join(pieces)
    assert [(each.rank, each.stop - each.start) for each in joined] == [(0, RECORDS), (1, RECORDS)]
    assert_same(compose(joined), compose(whole))
    assert_same(compose(pieces), compose(whole))
    assert dict(joined[0].batch.data_ids) == {4: "shard-4", 30: "shard-30"}


def test_a_hole_in_the_middle_stays_one() -> None:
    batch = full_batch(0)
    pieces = [Piece(0, batch, 0, 10, 0.0, 0), Piece(0, batch, 12, 40, 0.0, 0)]
    (joined,) = join(pieces)
    assert joined.batch.steps.tolist() == [5 * row for row in range(RECORDS) if row not in (10, 11)]
    assert_same(compose([joined]), compose(pieces))


def test_what_differs_in_kind_or_overlaps_stays_apart() -> None:
    batch = full_batch(0)
    first, second = Piece(0, slice_batch(batch, 0, 20), 0, 20, 0.0, 0), slice_batch(batch, 20, 40)
    column = batch.tensors[Quantity.WEIGHT_NORM]
    for changed in (
        replace(second, catalog_version=1),
        replace(second, gradient_norms=None, total_norms=np.ones(20)),
        replace(second, steps=second.steps - 5),
        replace(second, tensors={Quantity.WEIGHT_NORM: replace(column, parameters=np.array([0, 1], np.uint32))}),
    ):
        assert len(join([Piece(0, changed, 0, 20, 0.0, 0), first])) == 2
    assert len(join([Piece(0, second, 0, 20, 0.0, 0), first])) == 1
    assert len(join([Piece(1, second, 0, 20, 0.0, 0), first])) == 2


def test_of_a_step_that_is_there_twice_the_lower_sequence_still_counts() -> None:
    batch = full_batch(0)
    again = replace(batch, first_sequence=RECORDS, gradient_norms=healthy_norms(RECORDS, seed=9))
    pieces = [Piece(0, again, 0, RECORDS, 0.0, 0), *pieces_of(batch, 0, [11, 23])]
    assert_same(compose(join(pieces)), compose([Piece(0, batch, 0, RECORDS, 0.0, 0)]))
