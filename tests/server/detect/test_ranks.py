"""Blaming a rank: right when one is at fault, silent when all are alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from seismograd_server.detect.ranks import deviations, loss_spreads, norm_spreads
from seismograd_server.detect.watch import RunWatch
from seismograd_server.model import Signature
from tests.support.closed import findings_of, noisy, run_of, with_ratio

STEPS, ONSET = 200, 150


@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9), elements=st.floats(-1e9, 1e9)))
def test_deviations_are_from_the_median_of_the_others(values: npt.NDArray[np.float64]) -> None:
    found = deviations(values)
    for row in range(values.shape[0]):
        for rank in range(values.shape[1]):
            others = np.median(np.delete(values[row], rank))
            assert found[row, rank] == pytest.approx(values[row, rank] - others, abs=1e-6)


@given(
    arrays(np.float64, (6, 4), elements=st.floats(0.01, 100)),
    arrays(np.bool_, (6, 4)),
)
def test_spreads_use_the_known_ranks_of_each_step_only(
    losses: npt.NDArray[np.float64], known: npt.NDArray[np.bool_]
) -> None:
    block = run_of(np.ones(6), ranks=4, rank_loss=losses)
    object.__setattr__(block, "rank_loss_known", known)
    for row, spread in enumerate(loss_spreads([block])):
        ranks = np.flatnonzero(known[row])
        if len(ranks) < 2:
            assert spread is None
            continue
        deviation = [losses[row, each] - np.median(losses[row, ranks[ranks != each]]) for each in ranks]
        assert spread is not None
        assert spread.highest == pytest.approx(max(deviation))
        assert deviation[ranks.tolist().index(spread.leader)] == pytest.approx(max(deviation))
        assert spread.mean == pytest.approx(np.mean(np.abs(deviation)))
        assert spread.others == pytest.approx(np.median(losses[row, ranks[ranks != spread.leader]]))


def test_a_single_rank_has_nobody_to_be_compared_with() -> None:
    block = run_of(np.ones(3), rank_norm=np.ones((3, 1)), rank_loss=np.ones((3, 1)))
    assert norm_spreads([block]) == [None] * 3
    assert loss_spreads([block]) == [None] * 3


def faulty_run(*, every: int, corrupted: int | None) -> tuple[list[int | None], RunWatch]:
    """Four ranks; from the onset on the norm explodes, through the data of one rank or on all of them alike."""
    generator = np.random.default_rng(3)
    growth = np.where(np.arange(STEPS) >= ONSET, np.arange(STEPS) - ONSET + 3.0, 0.0)
    local = 2.0 ** generator.normal(0.0, 0.3, (STEPS, 4))
    losses = generator.normal(2.0, 0.1, (STEPS, 4))
    ranks = range(4) if corrupted is None else [corrupted]
    for rank in ranks:
        local[:, rank] *= 2.0**growth
        losses[:, rank] += growth
    norms = np.sqrt(np.square(local).mean(axis=1))
    local[np.arange(STEPS) % every != 0] = np.nan
    block = run_of(norms, ranks=4, rank_norm=local, rank_loss=losses, loss=losses.mean(axis=1))
    block = with_ratio(block, 2.0 ** (np.minimum(0.0, growth - 10.0)))
    watch = RunWatch()
    return [
        each.evidence.leading_rank for each in findings_of(block, watch) if each.signature is Signature.RUNAWAY
    ], watch


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("rank", [0, 2, 3])
def test_the_rank_whose_shard_is_corrupted_is_named(rank: int, every: int) -> None:
    named, _ = faulty_run(every=every, corrupted=rank)
    assert named
    assert named[0] == rank
    assert set(named) <= {rank, None}


def test_nobody_is_blamed_when_all_ranks_explode_alike() -> None:
    named, _ = faulty_run(every=1, corrupted=None)
    assert named
    assert set(named) == {None}


def test_nobody_is_blamed_when_ranks_say_nothing() -> None:
    norms = noisy(STEPS)
    norms[ONSET:] *= 2.0 ** np.arange(3, 3 + STEPS - ONSET)
    named = [each.evidence.leading_rank for each in findings_of(run_of(norms, ranks=4))]
    assert named
    assert set(named) == {None}
