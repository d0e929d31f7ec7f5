"""NaN and Inf: told at the first step, with where, what and who; never when the loss scaler explains them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from seismograd_server.model import ClosedBlock, Finding, NonfiniteLayer, RecordFlag, Severity, Signature
from tests.support.closed import LAYERS, findings_of, noisy, run_of, told

STEPS, BROKEN = 60, 30


def broken_run(entries: list[tuple[int, int, int, int]], ranks: int = 1, **columns: Any) -> ClosedBlock:
    """Healthy but for one step; entries are (layer, rank, NaN elements, positive Inf elements)."""
    counts = np.zeros((STEPS, 3), dtype=np.int64)
    layers = tuple(NonfiniteLayer(BROKEN, layer, rank, nan, inf, 0) for layer, rank, nan, inf in entries)
    for _, _, nan, inf in entries:
        counts[BROKEN] += (nan, inf, 0)
    block = run_of(noisy(STEPS), ranks=ranks, nonfinite=counts, nonfinite_layers=layers)
    return replace(block, **columns)


def nonfinite(block: ClosedBlock) -> list[Finding]:
    return [each for each in findings_of(block) if each.signature is Signature.NONFINITE]


def test_the_first_nan_is_critical_at_its_own_step_with_its_provenance() -> None:
    scale = np.full(STEPS, 65536.0)
    first = nonfinite(broken_run([(0, 0, 5, 0), (1, 0, 2, 1)], loss_scale=scale))[0]
    assert (first.severity, first.step, first.since_step) == (Severity.CRITICAL, BROKEN, BROKEN)
    assert first.evidence.leading_layer == LAYERS[1]  # the one nearest the output, of those that have it
    assert first.evidence.details["kind"] == "nan and inf"
    assert first.evidence.details["nan_elements"] == 7
    assert first.evidence.details["layers"] == [LAYERS[0], LAYERS[1]]
    assert first.evidence.details["loss_scale"] == 65536.0
    assert first.reason == f"NaN and Inf in the gradient at step 30, first in {LAYERS[1]}"


def test_it_is_over_after_twenty_finite_steps() -> None:
    found = told(findings_of(broken_run([(0, 0, 1, 0)])), Signature.NONFINITE)
    assert found == [(BROKEN, Severity.CRITICAL), (BROKEN + 20, Severity.NONE)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_critical_though_the_gradient_is_fine(value: float) -> None:
    loss = np.full(STEPS, 2.0)
    loss[BROKEN] = value
    first = nonfinite(run_of(noisy(STEPS), loss=loss))[0]
    assert (first.step, first.severity) == (BROKEN, Severity.CRITICAL)
    assert first.evidence.details["loss"] in {"NaN", "Infinity", "-Infinity"}
    assert "in the loss" in first.reason


def test_a_loss_that_nobody_logged_is_no_finding() -> None:
    assert nonfinite(run_of(noisy(STEPS), loss=np.full(STEPS, np.nan), loss_known=np.zeros(STEPS, np.bool_))) == []


def test_steps_that_the_loss_scaler_skipped_are_harmless() -> None:
    flags = np.zeros(STEPS, dtype=np.uint16)
    flags[BROKEN] = RecordFlag.SKIPPED_BY_SCALER
    assert findings_of(broken_run([(0, 0, 5, 0)], flags=flags)) == []


def test_a_step_that_the_job_itself_skipped_is_a_warning() -> None:
    flags = np.zeros(STEPS, dtype=np.uint16)
    flags[BROKEN] = RecordFlag.SKIPPED_BY_USER
    first = nonfinite(broken_run([(0, 0, 5, 0)], flags=flags))[0]
    assert first.severity is Severity.WARNING
    assert first.reason.endswith("skipped by the job")


def test_a_norm_that_overflowed_without_a_bad_element_counts() -> None:
    norms = noisy(STEPS)
    norms[BROKEN] = np.inf
    assert told(findings_of(run_of(norms)), Signature.NONFINITE)[0] == (BROKEN, Severity.CRITICAL)


def with_bad_rank(norm: float | None, loss: float | None) -> ClosedBlock:
    """After the all-reduce all four ranks report the same; only rank 2's own norm or loss can tell."""
    rank_norm, rank_loss = np.ones((STEPS, 4)), np.full((STEPS, 4), 2.0)
    if norm is not None:
        rank_norm[BROKEN, 2] = norm
    if loss is not None:
        rank_loss[BROKEN, 2] = loss
    known = np.ones((STEPS, 4), dtype=np.bool_)
    entries = [(layer, rank, 1, 0) for rank in range(4) for layer in range(3)]
    return broken_run(entries, ranks=4, rank_norm=rank_norm, rank_loss=rank_loss, rank_loss_known=known)


@pytest.mark.parametrize(("norm", "loss", "rank"), [(np.inf, None, 2), (None, np.nan, 2), (None, None, None)])
def test_the_rank_is_named_by_its_own_norm_or_loss_and_not_guessed(
    norm: float | None, loss: float | None, rank: int | None
) -> None:
    assert nonfinite(with_bad_rank(norm, loss))[0].evidence.leading_rank == rank


def test_the_only_rank_with_a_bad_shard_is_named() -> None:
    assert nonfinite(broken_run([(1, 3, 4, 0)], ranks=4))[0].evidence.leading_rank == 3
