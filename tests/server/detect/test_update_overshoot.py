"""Updates that replace too much of the weights."""

from __future__ import annotations

import numpy as np
import pytest

from seismograd_server.model import Severity, Signature
from tests.support.closed import findings_of, noisy, run_of, told, with_ratio

STEPS, ONSET = 300, 200
AFTER = np.arange(STEPS) >= ONSET


@pytest.mark.parametrize("every", [1, 10])
def test_it_warns_at_the_second_large_update(every: int) -> None:
    ratios = np.where(AFTER, 0.08, 0.002)
    ratios[np.arange(STEPS) % every != 0] = np.nan
    found = findings_of(with_ratio(run_of(noisy(STEPS)), ratios))
    assert told(found, Signature.UPDATE_OVERSHOOT) == [(ONSET + every, Severity.WARNING)]
    evidence = next(each for each in found if each.signature is Signature.UPDATE_OVERSHOOT).evidence
    assert evidence.value == pytest.approx(0.08, rel=1e-3)
    assert evidence.baseline == pytest.approx(0.002, rel=1e-3)


@pytest.mark.parametrize("every", [1, 10])
def test_sustained_and_worse_than_untrained_it_is_critical(every: int) -> None:
    ratios = np.where(AFTER, 0.08, 0.002)
    ratios[np.arange(STEPS) % every != 0] = np.nan
    loss = np.where(AFTER, 6.0, 1.0)
    loss[:10] = 2.0
    found = told(findings_of(with_ratio(run_of(noisy(STEPS), loss=loss), ratios)), Signature.UPDATE_OVERSHOOT)
    assert [severity for _, severity in found] == [Severity.WARNING, Severity.CRITICAL]
    assert ONSET + 16 <= found[1][0] <= ONSET + 4 * every + 16


def test_one_large_update_is_a_bad_batch() -> None:
    ratios = np.full(STEPS, 0.002)
    ratios[ONSET] = 0.3
    assert told(findings_of(with_ratio(run_of(noisy(STEPS)), ratios)), Signature.UPDATE_OVERSHOOT) == []


def test_the_wild_beginning_of_a_run_is_none_of_its_business() -> None:
    ratios = np.where(np.arange(STEPS) < 18, 0.3, 0.002)
    assert told(findings_of(with_ratio(run_of(noisy(STEPS)), ratios)), Signature.UPDATE_OVERSHOOT) == []


def test_it_is_over_after_a_few_small_ones() -> None:
    ratios = np.where(AFTER & (np.arange(STEPS) < 220), 0.08, 0.002)
    found = told(findings_of(with_ratio(run_of(noisy(STEPS)), ratios)), Signature.UPDATE_OVERSHOOT)
    assert found == [(ONSET + 1, Severity.WARNING), (223, Severity.NONE)]
