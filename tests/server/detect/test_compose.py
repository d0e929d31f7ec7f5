"""Composing ranks: the whole gradient's norm from local norms, under every way of sharing a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from seismograd_server.detect.align import Aligner, Patience
from seismograd_server.detect.closing import Closing
from seismograd_server.detect.compose import Composer
from seismograd_server.model import (
    TOTAL_ONLY,
    Catalog,
    ClosedBlock,
    Composition,
    Parameter,
    Quantity,
    RecordFlag,
    ScalarColumn,
    StepBatch,
    TensorColumn,
)
from tests.support.synthetic import make_batch, nonfinite, parameters


def closed(
    catalogs: Sequence[Sequence[Parameter]], batches: Sequence[StepBatch | None], hostnames: Sequence[str] = ()
) -> ClosedBlock:
    """Close what the ranks (one catalog and at most one batch each) have, as one block."""
    closing = closing_of(batches)
    composer = Composer(len(catalogs), 1, hostnames=dict(enumerate(hostnames)))
    for rank, own in enumerate(catalogs):
        composer.catalogs[rank, 0] = Catalog(0, 0, tuple(own))
    (block,) = composer.compose(closing)
    return block


def closing_of(batches: Sequence[StepBatch | None]) -> Closing:
    aligner = Aligner(len(batches), Patience(), now=0.0)
    for rank, batch in enumerate(batches):
        if batch is not None:
            aligner.offer(rank, batch, now=0.0)
    (closing,) = aligner.close_all()
    return closing


def norms(*rows: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(rows, np.float32)


def scalar(values: Sequence[float], rows: Sequence[int] | None = None) -> ScalarColumn:
    chosen = range(len(values)) if rows is None else rows
    return ScalarColumn(np.array(chosen, np.uint32), np.array(values, np.float64))


def test_a_single_rank_gives_its_layers_and_the_root_of_their_squares() -> None:
    block = closed([parameters(["a", "b"])], [make_batch(1, 0, norms([3.0, 4.0], [6.0, 8.0]))])
    assert block.layout.names == ("a", "b")
    assert block.layer_norms.tolist() == [[3.0, 4.0], [6.0, 8.0]]
    assert block.global_norm.tolist() == [5.0, 10.0]


def test_replicas_that_ship_only_a_total_change_nothing() -> None:
    both = parameters(["a", "b"], replication=2)
    batches = [
        make_batch(1, 0, norms([3.0, 4.0])),
        make_batch(2, 0, None, steps=np.array([0]), total_norms=np.array([5.0]), digests=np.array([7], np.uint64)),
    ]
    block = closed([both, both], batches)
    assert block.global_norm.tolist() == [5.0]
    assert block.ranks_present.all()


def test_when_the_layers_rank_is_missing_the_total_of_a_replica_stands_in() -> None:
    both = parameters(["a", "b"], replication=2)
    catalogs, total = [both, both], np.array([5.0, 10.0])
    composer = Composer(2, 1)
    for rank in range(2):
        composer.catalogs[rank, 0] = Catalog(0, 0, tuple(catalogs[rank]))
    list(composer.compose(closing_of([make_batch(1, 0, norms([3.0, 4.0])), None])))
    alone = make_batch(2, 1, None, steps=np.array([1, 2]), total_norms=total)
    (block,) = composer.compose(closing_of([None, alone]))
    assert block.global_norm.tolist() == [5.0, 10.0]
    assert np.isnan(block.layer_norms).all()
    assert not block.inexact.any()


def test_squares_of_shards_add_even_uneven_and_empty_ones() -> None:
    def shard(index: int, size: int) -> tuple[Parameter, ...]:
        return parameters(["a", "b"], shard_id=index, shard_count=3, local_numel=size)

    batches = [make_batch(rank + 1, 0, norms(row)) for rank, row in enumerate([[3.0, 1.0], [4.0, 2.0], [0.0, 2.0]])]
    block = closed([shard(0, 2000), shard(1, 2096), shard(2, 0)], batches)
    assert block.layer_norms.tolist() == [[5.0, 3.0]]
    assert block.global_norm[0] == pytest.approx(math.sqrt(34.0))


def test_a_layer_of_which_a_shard_is_missing_is_unknown_rather_than_too_small() -> None:
    shards = [parameters(["a"], shard_id=index, shard_count=2) for index in range(2)]
    block = closed(shards, [make_batch(1, 0, norms([3.0])), None])
    assert np.isnan(block.layer_norms).all()
    assert np.isnan(block.global_norm).all()


def test_tensor_parallel_layers_mix_sharded_and_replicated_parameters() -> None:
    def own(rank: int) -> tuple[Parameter, ...]:
        return (*parameters(["w"], shard_id=rank, shard_count=2), *parameters(["norm"], replication=2))

    block = closed([own(0), own(1)], [make_batch(1, 0, norms([3.0, 1.0])), make_batch(2, 0, norms([4.0, 1.0]))])
    assert block.layout.names == ("w", "norm")
    assert block.layer_norms.tolist() == [[5.0, 1.0]]
    assert block.global_norm[0] == pytest.approx(math.sqrt(26.0))


def test_pipeline_stages_have_the_layers_of_all_ranks_and_tied_ones_once() -> None:
    first = (*parameters(["embed"], tied_group="words"), *parameters(["layer.0"]))
    last = (*parameters(["layer.1"]), *parameters(["head"], tied_group="words"))
    block = closed([first, last], [make_batch(1, 0, norms([2.0, 1.0])), make_batch(2, 0, norms([1.0, 2.0]))])
    assert block.layout.names == ("embed", "layer.0", "layer.1")
    assert block.layer_norms.tolist() == [[2.0, 1.0, 1.0]]
    assert block.global_norm[0] == pytest.approx(math.sqrt(6.0))


def test_stages_that_give_different_parameters_one_name_are_not_taken_for_replicas() -> None:
    stages = [parameters(["0.weight"], shape=(64, 32)), parameters(["0.weight"], shape=(32, 8))]
    block = closed(stages, [make_batch(1, 0, norms([3.0])), make_batch(2, 0, norms([4.0]))])
    assert block.layout.names == ("0.weight", "0.weight (rank 1)")
    assert block.global_norm.tolist() == [5.0]


def test_of_disagreeing_replicas_the_median_is_taken() -> None:
    one = parameters(["a"], replication=3)
    batches = [make_batch(rank + 1, 0, norms([value])) for rank, value in enumerate([1.0, 1.0, 1e30])]
    assert closed([one] * 3, batches).global_norm.tolist() == [1.0]


def test_norms_whose_squares_leave_float32_compose_exactly() -> None:
    shards = [parameters(["a"], shard_id=index, shard_count=2) for index in range(2)]
    huge = closed(shards, [make_batch(1, 0, norms([3e30])), make_batch(2, 0, norms([4e30]))])
    tiny = closed(shards, [make_batch(1, 0, norms([3e-30])), make_batch(2, 0, norms([4e-30]))])
    assert huge.global_norm[0] == pytest.approx(5e30)
    assert tiny.global_norm[0] == pytest.approx(5e-30)


def test_a_layer_of_which_ranks_have_summands_is_not_known_and_the_rest_is_marked() -> None:
    def own() -> tuple[Parameter, ...]:
        return (*parameters(["w"], replication=2), *parameters(["norm"], composition=Composition.PARTIAL))

    block = closed([own(), own()], [make_batch(1, 0, norms([3.0, 1.0])), make_batch(2, 0, norms([3.0, 7.0]))])
    assert block.inexact.tolist() == [True]
    assert block.layer_norms[0, 0] == 3.0
    assert np.isnan(block.layer_norms[0, 1])
    assert block.global_norm.tolist() == [3.0]


def test_where_summands_do_not_compose_what_the_clipping_returned_stands_in() -> None:
    partial = parameters(["a"], composition=Composition.PARTIAL)
    said = {Quantity.REPORTED_NORM: scalar([5.0], [1])}
    block = closed([partial], [make_batch(1, 0, norms([1.0], [1.0]), scalars=said)])
    assert block.global_norm.tolist() == [0.0, 5.0]
    assert block.inexact.tolist() == [True, True]


def test_a_record_that_says_so_is_inexact() -> None:
    exact = make_batch(1, 0, norms([1.0], [1.0]), flags=np.array([0, RecordFlag.INEXACT], np.uint16))
    assert closed([parameters(["a"])], [exact]).inexact.tolist() == [False, True]


def test_a_framework_that_gives_one_total_and_no_layers_is_enough() -> None:
    batch = make_batch(1, 0, None, steps=np.array([0]), total_norms=np.array([2.5]))
    block = closed([()], [batch])
    assert block.global_norm.tolist() == [2.5]
    assert block.layer_norms.shape == (1, 0)


def test_what_clipping_returned_is_the_last_resort_and_counts_as_inexact() -> None:
    batch = make_batch(1, 0, None, steps=np.array([0]), scalars={Quantity.REPORTED_NORM: scalar([2.5])})
    block = closed([parameters(["a"])], [batch])
    assert block.global_norm.tolist() == [2.5]
    assert block.inexact.tolist() == [True]


def test_the_loss_is_the_mean_of_the_ranks_that_logged_one_and_nan_is_a_loss() -> None:
    both = parameters(["a"], replication=2)
    batches = [
        make_batch(1, 0, norms([1.0], [1.0], [1.0]), losses=[1.0, math.nan, 5.0]),
        make_batch(2, 0, norms([1.0], [1.0], [1.0]), scalars={Quantity.LOSS: scalar([3.0, 2.0], [0, 1])}),
    ]
    block = closed([both, both], batches)
    assert block.loss[0] == 2.0
    assert math.isnan(block.loss[1])
    assert block.loss[2] == 5.0
    assert block.loss_known.all()
    assert block.rank_loss_known.tolist() == [[True, True], [True, True], [True, False]]


def test_local_norms_are_kept_by_rank_and_other_scalars_of_the_lowest_rank() -> None:
    both = parameters(["a"], replication=2)
    batches = [
        make_batch(1, 0, norms([1.0], [1.0]), scalars={Quantity.LOCAL_NORM: scalar([9.0], [1])}),
        make_batch(
            2,
            0,
            norms([1.0], [1.0]),
            scalars={Quantity.LOCAL_NORM: scalar([math.inf], [1]), Quantity.LEARNING_RATE: scalar([0.1, 0.2])},
        ),
    ]
    block = closed([both, both], batches, hostnames=["node-0", "node-1"])
    assert np.isnan(block.rank_norm[0]).all()
    assert block.rank_norm[1].tolist() == [9.0, math.inf]
    assert block.learning_rate.tolist() == [0.1, 0.2]
    assert block.layout.hostnames == ("node-0", "node-1")


def test_sampled_weights_and_updates_are_known_only_where_they_were_sampled() -> None:
    sampled = TensorColumn(np.array([1], np.uint32), np.array([0, 1], np.uint32), norms([5.0, 6.0]))
    batch = make_batch(1, 0, norms([1.0, 1.0], [1.0, 1.0]), tensors={Quantity.WEIGHT_NORM: sampled})
    block = closed([parameters(["a", "b"])], [batch])
    assert np.isnan(block.weight_norms[0]).all()
    assert block.weight_norms[1].tolist() == [5.0, 6.0]
    assert np.isnan(block.update_norms).all()


def test_of_the_largest_elements_of_the_shards_of_a_layer_the_largest_counts() -> None:
    shards = [parameters(["a", "b"], shard_id=rank, shard_count=2) for rank in range(2)]
    batches = [
        make_batch(
            rank + 1,
            0,
            norms([1.0, 1.0], [1.0, 1.0]),
            tensors={
                Quantity.MAX_ABS: TensorColumn(np.array([1], np.uint32), np.array([0, 1], np.uint32), norms(values))
            },
        )
        for rank, values in enumerate([[3e38, 0.5], [2.0, 1e-40]])
    ]
    block = closed(shards, batches)
    assert np.isnan(block.sampled[Quantity.MAX_ABS][0]).all()
    assert block.sampled[Quantity.MAX_ABS][1].tolist() == norms([3e38, 0.5])[0].tolist()
    assert Quantity.SPECTRAL_GAIN not in block.sampled


def test_the_largest_element_of_summands_is_not_known() -> None:
    column = TensorColumn(np.array([0], np.uint32), np.array([0, 1], np.uint32), norms([2.0, 3.0]))
    summand = parameters(["a"], composition=Composition.PARTIAL) + parameters(["b"])
    block = closed([summand], [make_batch(1, 0, norms([1.0, 1.0]), tensors={Quantity.MAX_ABS: column})])
    np.testing.assert_array_equal(block.sampled[Quantity.MAX_ABS], norms([math.nan, 3.0]))


def test_replicas_agree_on_a_gain_and_their_own_gradients_are_kept_apart() -> None:
    both = parameters(["a", "b"], replication=2)
    rows, columns = np.array([1], np.uint32), np.array([0, 1], np.uint32)
    batches = [
        make_batch(
            rank + 1,
            0,
            norms([1.0, 1.0], [1.0, 1.0]),
            tensors={
                Quantity.SPECTRAL_GAIN: TensorColumn(rows, columns, norms([math.nan, 1.5])),
                Quantity.LOCAL_GRADIENT_NORM: TensorColumn(rows, columns, norms([own, math.inf])),
            },
        )
        for rank, own in enumerate([3.0, 300.0])
    ]
    block = closed([both, both], batches)
    np.testing.assert_array_equal(block.sampled[Quantity.SPECTRAL_GAIN][1], norms([math.nan, 1.5])[0])
    assert [(each.rank, each.rows.tolist(), each.norms.tolist()) for each in block.rank_layers] == [
        (0, [1], [[3.0, math.inf]]),
        (1, [1], [[300.0, math.inf]]),
    ]


def test_nonfinite_elements_count_once_per_shard_and_name_every_rank() -> None:
    both = parameters(["a", "b"], replication=2)
    batches = [
        make_batch(1, 0, norms([1.0, 0.0]), nonfinite=nonfinite((0, 1, 4))),
        make_batch(2, 0, norms([1.0, 0.0]), nonfinite=nonfinite((0, 1, 4), (0, 0, 1))),
    ]
    block = closed([both, both], batches)
    assert block.nonfinite.tolist() == [[5, 0, 0]]
    assert [(each.rank, each.layer, each.nan_count) for each in block.nonfinite_layers] == [
        (0, 1, 4),
        (1, 0, 1),
        (1, 1, 4),
    ]


def test_a_total_count_stands_in_where_the_layers_are_not_known() -> None:
    batch = make_batch(1, 0, norms([1.0], [1.0]), nonfinite=nonfinite((1, TOTAL_ONLY, 7)))
    block = closed([parameters(["a"])], [batch])
    assert block.nonfinite.tolist() == [[0, 0, 0], [7, 0, 0]]
    assert block.nonfinite_layers[0].layer == -1


def test_time_is_the_latest_and_flags_are_united() -> None:
    both = parameters(["a"], replication=2)
    batches = [
        make_batch(1, 0, norms([1.0]), times=np.array([10.0]), flags=np.array([RecordFlag.CLIPPED], np.uint16)),
        make_batch(2, 0, norms([1.0]), times=np.array([11.0]), flags=np.array([RecordFlag.INEXACT], np.uint16)),
    ]
    block = closed([both, both], batches)
    assert block.times.tolist() == [11.0]
    assert block.flags.tolist() == [RecordFlag.CLIPPED | RecordFlag.INEXACT]


def test_a_new_catalog_begins_a_block_of_its_own() -> None:
    composer = Composer(1, 1)
    composer.catalogs[0, 0] = Catalog(0, 0, parameters(["a"]))
    composer.catalogs[0, 1] = Catalog(0, 1, parameters(["a", "b"]))
    aligner = Aligner(1, Patience(), now=0.0)
    aligner.offer(0, make_batch(1, 0, norms([3.0])), now=0.0)
    aligner.offer(0, make_batch(1, 1, norms([3.0, 4.0]), catalog_version=1), now=0.0)
    before, after = [block for closing in aligner.close_all() for block in composer.compose(closing)]
    assert (before.layout.names, before.global_norm.tolist()) == (("a",), [3.0])
    assert (after.layout.names, after.global_norm.tolist()) == (("a", "b"), [5.0])
    assert composer.versions == {0: 1}


def test_ranks_that_come_in_pieces_compose_as_if_they_had_come_whole() -> None:
    both = parameters(["a", "b"], replication=2)
    rows = np.arange(20, dtype=np.float32).reshape(10, 2) + 1
    whole = closed([both, both], [make_batch(1, 0, rows), make_batch(2, 0, rows)])
    aligner = Aligner(2, Patience(), now=0.0)
    for rank, cuts in ((0, (0, 3, 7, 10)), (1, (0, 5, 10))):
        for first, stop in itertools.pairwise(cuts):
            aligner.offer(rank, make_batch(rank + 1, first, rows[first:stop]), now=0.0)
    composer = Composer(2, 1, catalogs={(rank, 0): Catalog(0, 0, both) for rank in range(2)})
    (closing,) = aligner.close_all()
    (pieces,) = composer.compose(closing)
    assert pieces.global_norm.tolist() == whole.global_norm.tolist()
    assert (pieces.layer_norms == whole.layer_norms).all()
