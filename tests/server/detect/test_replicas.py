"""Replicas that hold the same gradient must say the same; who does not is named, with how far it is off."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.detect.align import Aligner, Patience
from seismograd_server.detect.compose import Composer
from seismograd_server.detect.replicas import LEAST_GAP
from seismograd_server.model import Catalog, ClosedBlock, Composition, Float32, Parameter, StepBatch
from seismograd_server.store.mantissa import round_mantissa
from tests.support.synthetic import make_batch, parameters


def digest(row: Sequence[float]) -> int:
    """As telemetry.proto defines it, written down once more."""
    data = b"".join(np.float32(math.nan if math.isnan(value) else value).tobytes() for value in row)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def rows(handle: int, *values: Sequence[float]) -> StepBatch:
    """What replica 0 sends."""
    return make_batch(handle, 0, np.array(values, np.float32))


def echo(handle: int, *values: Sequence[float]) -> StepBatch:
    """What another replica with these norms sends."""
    table = np.array(values, np.float32)
    totals = np.sqrt(np.square(table.astype(np.float64)).sum(axis=1))
    digests = np.array([digest(row) for row in table.tolist()], np.uint64)
    return make_batch(handle, 0, None, steps=np.arange(len(table), dtype=np.int64), total_norms=totals, digests=digests)


def closed(catalogs: Sequence[Sequence[Parameter]], batches: Sequence[StepBatch | None]) -> ClosedBlock:
    aligner = Aligner(len(batches), Patience(), now=0.0)
    composer = Composer(len(catalogs), 1)
    for rank, (catalog, batch) in enumerate(zip(catalogs, batches, strict=True)):
        composer.catalogs[rank, 0] = Catalog(0, 0, tuple(catalog))
        if batch is not None:
            aligner.offer(rank, batch, now=0.0)
    (closing,) = aligner.close_all()
    (block,) = composer.compose(closing)
    return block


def gaps(block: ClosedBlock) -> list[tuple[int, int, float]]:
    return [(each.row, each.rank, each.gap) for each in block.replica_gaps]


def test_replicas_with_the_same_bits_agree() -> None:
    both = parameters(["a", "b"], replication=2)
    norms = [[3.0, 4.0], [1.0, math.nan]]
    assert closed([both] * 2, [rows(1, *norms), echo(2, *norms)]).replica_gaps == ()


def test_rows_that_were_rounded_are_not_compared_with_what_they_were() -> None:
    both = parameters(["a", "b"], replication=2)
    table = np.array([[1.2345, 4.0]], np.float32)
    rounded = make_batch(1, 0, round_mantissa(table, 12), rounded=True)
    assert len(closed([both] * 2, [replace(rounded, rounded=False), echo(2, *table.tolist())]).replica_gaps) == 1
    assert closed([both] * 2, [rounded, echo(2, *table.tolist())]).replica_gaps == ()


def test_a_replica_that_differs_is_named_with_its_distance() -> None:
    three = parameters(["a", "b"], replication=3)
    block = closed([three] * 3, [rows(1, [3.0, 4.0]), echo(2, [3.0, 4.0]), echo(3, [6.0, 8.0])])
    assert gaps(block) == [(0, 2, 1.0)]
    assert block.global_norm.tolist() == [5.0]


def test_the_majority_is_right_against_the_replica_that_ships_the_layers() -> None:
    three = parameters(["a", "b"], replication=3)
    block = closed([three] * 3, [rows(1, [6.0, 8.0]), echo(2, [3.0, 4.0]), echo(3, [3.0, 4.0])])
    assert gaps(block) == [(0, 0, 1.0)]


def test_bits_that_differ_under_the_same_total_count_as_the_least_gap() -> None:
    both = parameters(["a", "b"], replication=2)
    assert gaps(closed([both] * 2, [rows(1, [3.0, 4.0]), echo(2, [4.0, 3.0])])) == [(0, 1, LEAST_GAP)]


def test_without_the_rank_that_ships_layers_the_others_are_compared_among_themselves() -> None:
    three = parameters(["a"], replication=3)
    block = closed([three] * 3, [None, echo(2, [2.0], [1.0]), echo(3, [2.0], [0.0])])
    assert gaps(block) == [(1, 2, 1.0)]


def test_only_ranks_with_the_same_shards_are_compared() -> None:
    def own(shard: int, replica: int) -> tuple[Parameter, ...]:
        return parameters(["a"], shard_id=shard, shard_count=2, replica_index=replica, replication=2)

    catalogs = [own(0, 0), own(1, 0), own(0, 1), own(1, 1)]
    block = closed(catalogs, [rows(1, [3.0]), rows(2, [4.0]), echo(3, [3.0]), echo(4, [8.0])])
    assert gaps(block) == [(0, 3, 1.0)]
    assert block.global_norm.tolist() == [5.0]


def test_replicated_parameters_of_ranks_that_ship_rows_are_compared_one_by_one() -> None:
    def own(rank: int) -> tuple[Parameter, ...]:
        return (*parameters(["w"], shard_id=rank, shard_count=2), *parameters(["norm"], replication=2))

    block = closed([own(0), own(1)], [rows(1, [3.0, 1.0], [3.0, 1.0]), rows(2, [4.0, 1.0], [4.0, 1.5])])
    assert gaps(block) == [(1, 1, 0.5)]


def test_summands_of_a_gradient_are_not_meant_to_agree() -> None:
    both = parameters(["a"], composition=Composition.PARTIAL)
    assert closed([both] * 2, [rows(1, [3.0]), rows(2, [5.0])]).replica_gaps == ()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_says_what_a_look_at_every_step_and_rank_says(data: st.DataObject) -> None:
    ranks, steps = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 6))
    table = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=ranks * steps * 2, max_size=ranks * steps * 2)),
        np.float32,
    ).reshape(ranks, steps, 2)
    missing = data.draw(st.sets(st.integers(0, ranks - 1), max_size=ranks - 1))
    batches: list[StepBatch | None] = [
        None if rank in missing else (echo if rank else rows)(rank + 1, *table[rank].tolist()) for rank in range(ranks)
    ]
    block = closed([parameters(["a", "b"], replication=ranks)] * ranks, batches)
    expected = slowly(table, missing)
    assert [(each.row, each.rank) for each in block.replica_gaps] == [(row, rank) for row, rank, _ in expected]
    assert [each.gap for each in block.replica_gaps] == pytest.approx([gap for _, _, gap in expected])


def slowly(table: Float32, missing: set[int]) -> list[tuple[int, int, float]]:
    """Step by step, rank by rank."""
    found = []
    for step in range(table.shape[1]):
        said: dict[int, tuple[Any, ...]] = {
            rank: tuple(table[rank, step].tolist()) for rank in range(len(table)) if rank not in missing
        }
        most = max(Counter(said.values()).values())
        usual = next(row for row in said.values() if Counter(said.values())[row] == most)
        for rank, row in said.items():
            if row != usual:
                whole, apart = math.hypot(*usual), abs(math.hypot(*row) - math.hypot(*usual))
                found.append((step, rank, max(apart / whole if whole else math.inf, LEAST_GAP)))
    return found
