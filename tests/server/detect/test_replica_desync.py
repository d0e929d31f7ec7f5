"""Replicas that do not agree: told when it is certain, and not of rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from seismograd_server.model import ClosedBlock, RecordFlag, ReplicaGap, Severity, Signature
from tests.support.closed import findings_of, layout, noisy, run_of, told

STEPS, RANKS = 300, 4


def run_with(gaps: dict[int, float], rank: int = 2) -> ClosedBlock:
    hosts = replace(layout(ranks=RANKS), hostnames=("a", "a", "gpu-7", "b"))
    block = run_of(noisy(STEPS), ranks=RANKS, layout=hosts)
    return replace(block, replica_gaps=tuple(ReplicaGap(row, rank, gap) for row, gap in sorted(gaps.items())))


def desync(block: ClosedBlock) -> list[tuple[int, Severity]]:
    return told(findings_of(block), Signature.REPLICA_DESYNC)


def test_a_large_gap_is_critical_at_its_own_step_and_names_rank_and_host() -> None:
    (found,) = findings_of(run_with(dict.fromkeys(range(150, STEPS), 0.3)))
    assert (found.signature, found.severity, found.step) == (Signature.REPLICA_DESYNC, Severity.CRITICAL, 150)
    assert found.evidence.leading_rank == 2
    assert "rank 2 on gpu-7" in found.reason


def test_a_small_gap_must_be_there_a_second_time() -> None:
    assert desync(run_with({150: 1e-3})) == []
    assert desync(run_with({150: 1e-3, 160: 1e-3}))[0] == (160, Severity.CRITICAL)
    assert desync(run_with({150: 1e-3, 250: 1e-3})) == []


def test_rounding_is_none() -> None:
    assert desync(run_with(dict.fromkeys(range(STEPS), 3e-7))) == []


def test_it_is_over_after_a_long_agreement() -> None:
    assert desync(run_with({150: 0.3, 151: 0.3})) == [(150, Severity.CRITICAL), (215, Severity.NONE)]


@pytest.mark.parametrize("kind", ["skipped", "not finite"])
def test_where_nothing_can_be_compared_nothing_is_told(kind: str) -> None:
    block = run_with(dict.fromkeys(range(150, 160), float("inf")))
    flags, counts = block.flags.copy(), block.nonfinite.copy()
    flags[150:160] = RecordFlag.SKIPPED_BY_SCALER if kind == "skipped" else 0
    counts[150:160, 0] = 1
    assert desync(replace(block, flags=flags, nonfinite=counts)) == []


def test_gaps_are_seen_in_a_run_whose_norms_are_not() -> None:
    block = replace(run_with({150: 0.3}), global_norm=np.full(STEPS, np.nan))
    assert desync(block)[0] == (150, Severity.CRITICAL)
