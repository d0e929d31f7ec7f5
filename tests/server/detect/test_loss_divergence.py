"""A loss that leaves for good with bounded gradients, and what is not that."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from seismograd_server.model import Severity, Signature
from tests.support.closed import findings_of, noisy, run_of, told

STEPS, ONSET = 700, 300
AFTER = np.arange(STEPS) - ONSET


def losses(behind: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
    """Learnt from 4 to 0.5 until the onset, then what is given."""
    usual = 0.5 + 3.5 * np.exp(-np.arange(STEPS) / 40.0)
    noise = 2.0 ** np.random.default_rng(4).normal(0.0, 0.1, STEPS)
    return np.where(AFTER >= 0, behind, usual) * noise


def test_a_loss_far_above_the_untrained_one_is_critical_within_half_a_window() -> None:
    found = findings_of(run_of(noisy(STEPS), loss=losses(10.0)))
    ((step, severity),) = told(found, Signature.LOSS_DIVERGENCE)
    assert severity is Severity.CRITICAL
    assert ONSET + 16 < step <= ONSET + 40
    evidence = next(each for each in found if each.signature is Signature.LOSS_DIVERGENCE).evidence
    assert evidence.value == pytest.approx(10.0, rel=0.2)
    assert evidence.baseline == pytest.approx(0.5, rel=0.2)


def test_what_is_forgotten_is_a_warning_and_critical_when_it_stays_forgotten() -> None:
    found = told(findings_of(run_of(noisy(STEPS), loss=losses(4.0))), Signature.LOSS_DIVERGENCE)
    assert [severity for _, severity in found] == [Severity.WARNING, Severity.CRITICAL]
    assert found[1][0] - found[0][0] >= 120


def test_a_loss_that_is_learnt_again_is_never_critical() -> None:
    again = 4.0 * np.exp(-np.maximum(0, AFTER - 40) / 20.0) + 0.5
    found = told(findings_of(run_of(noisy(STEPS), loss=losses(again))), Signature.LOSS_DIVERGENCE)
    assert [severity for _, severity in found] == [Severity.WARNING, Severity.NONE]


def test_a_few_bad_moments_are_none() -> None:
    loss = losses(0.5)
    loss[[310, 311, 350, 420, 421, 422]] = 500.0
    assert told(findings_of(run_of(noisy(STEPS), loss=loss)), Signature.LOSS_DIVERGENCE) == []


@pytest.mark.parametrize("factor", [2.5, 3.5])
def test_a_new_scale_of_loss_and_norm_is_no_divergence(factor: float) -> None:
    norms = noisy(STEPS, octaves=0.15) * np.where(AFTER >= 0, factor, 1.0)
    loss = np.full(STEPS, 3.0) * np.where(AFTER >= 0, factor, 1.0)
    assert told(findings_of(run_of(norms, loss=loss)), Signature.LOSS_DIVERGENCE) == []


def test_losses_below_zero_have_no_octaves_and_are_left_alone() -> None:
    loss = np.random.default_rng(5).normal(-0.1, 0.5, STEPS) + np.where(AFTER >= 0, 50.0, 0.0)
    assert told(findings_of(run_of(noisy(STEPS), loss=loss)), Signature.LOSS_DIVERGENCE) == []
