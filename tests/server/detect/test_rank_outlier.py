"""One rank far above the others: a warning, and critical when it drives the global norm for good."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from seismograd_server.model import ClosedBlock, Severity, Signature
from tests.support.closed import findings_of, layout, noisy, run_of, told, with_ratio

STEPS, ONSET, RANKS = 300, 200, 4
AFTER = np.arange(STEPS) - ONSET


def run_with(factor: npt.NDArray[np.float64], every: int = 1, ranks: tuple[int, ...] = (3,)) -> ClosedBlock:
    """Local norms that scatter, those of some ranks times a factor; the global norm is that of their average."""
    local = 2.0 ** np.random.default_rng(3).normal(0.0, 0.3, (STEPS, RANKS))
    for rank in ranks:
        local[:, rank] *= factor
    norms = np.sqrt(np.square(local).sum(axis=1)) / RANKS
    local[np.arange(STEPS) % every != 0] = np.nan
    hosts = replace(layout(ranks=RANKS), hostnames=("a", "a", "b", "gpu-7"))
    return run_of(norms, ranks=RANKS, rank_norm=local, layout=hosts)


@pytest.mark.parametrize("every", [1, 10])
def test_a_rank_that_drives_the_norm_for_good_is_critical_and_named_with_its_host(every: int) -> None:
    found = findings_of(run_with(np.where(AFTER >= 0, 300.0, 1.0), every))
    outliers = [each for each in found if each.signature is Signature.RANK_OUTLIER]
    assert [each.severity for each in outliers] == [Severity.WARNING, Severity.CRITICAL]
    assert {each.evidence.leading_rank for each in outliers} == {3}
    assert "rank 3 on gpu-7" in outliers[0].reason
    assert outliers[0].step == ONSET
    assert outliers[1].step <= ONSET + 11


def test_a_rank_whose_norm_the_others_drown_is_a_warning() -> None:
    block = run_with(np.where(AFTER >= 0, 12.0, 1.0))
    block = replace(block, global_norm=noisy(STEPS))
    assert told(findings_of(block), Signature.RANK_OUTLIER) == [(ONSET + 1, Severity.WARNING)]


def test_small_updates_make_it_a_warning() -> None:
    block = with_ratio(run_with(np.where(AFTER >= 0, 300.0, 1.0)), np.full(STEPS, 0.001))
    assert {each for _, each in told(findings_of(block), Signature.RANK_OUTLIER)} == {Severity.WARNING}


def test_one_bad_batch_of_one_rank_warns_only_if_it_moves_the_global_norm() -> None:
    small, large = (np.where(AFTER == 0, factor, 1.0) for factor in (9.0, 300.0))
    assert told(findings_of(replace(run_with(small), global_norm=noisy(STEPS))), Signature.RANK_OUTLIER) == []
    assert [each for _, each in told(findings_of(run_with(large)), Signature.RANK_OUTLIER)] == [
        Severity.WARNING,
        Severity.NONE,
    ]


def test_two_ranks_of_four_are_an_imbalance_and_no_outlier() -> None:
    assert told(findings_of(run_with(np.where(AFTER >= 0, 300.0, 1.0), ranks=(1, 3))), Signature.RANK_OUTLIER) == []


def test_ranks_that_scatter_widely_must_stand_out_further() -> None:
    scatter = 2.0 ** np.random.default_rng(8).normal(0.0, 2.0, (STEPS, RANKS))
    block = replace(run_with(np.ones(STEPS)), rank_norm=scatter, global_norm=noisy(STEPS))
    assert told(findings_of(block), Signature.RANK_OUTLIER) == []
