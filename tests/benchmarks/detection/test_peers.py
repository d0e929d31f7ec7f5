from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.detection.peers import RULES, megatron, nonfinite, olmo, running_median, static, zclip
from tests.support.closed import noisy

CALM = noisy(300, octaves=0.1)
LOSS = np.linspace(2.0, 1.0, 300)


def with_spike(factor: float, at: int = 200) -> np.ndarray:
    norm = CALM.copy()
    norm[at] *= factor
    return norm


def test_a_fixed_threshold_sees_what_is_above_it_and_what_is_not_finite() -> None:
    assert list(static(100.0)(np.array([1.0, 101.0, np.nan, np.inf, 100.0]), LOSS[:5])) == [1, 2, 3]


def test_the_test_for_non_finite_values_sees_nothing_else() -> None:
    assert list(nonfinite(np.array([1.0, 1e30, np.inf]), np.array([1.0, np.nan, 1.0]))) == [1, 2]


@pytest.mark.parametrize("factor", [10.0, 100.0])
def test_the_running_median_sees_a_step_of_so_many_times_the_usual_one(factor: float) -> None:
    assert list(running_median(factor)(with_spike(1.3 * factor), LOSS)) == [200]
    assert list(running_median(factor)(with_spike(0.7 * factor), LOSS)) == []


def test_zclip_sees_more_the_lower_its_threshold_is_and_its_mean_is_not_spoilt_by_what_it_clipped() -> None:
    assert 200 in list(zclip(10.0)(with_spike(30.0), LOSS))
    few, many = list(zclip(10.0)(CALM, LOSS)), list(zclip(2.5)(CALM, LOSS))
    assert len(few) < len(many)
    broken = with_spike(np.nan)
    broken[250] = 30.0
    assert {200, 250} <= set(zclip(10.0)(broken, LOSS))  # one NaN does not make it blind


def test_olmo_sees_seven_deviations_of_the_norm_or_of_the_loss() -> None:
    assert list(olmo("norm")(with_spike(5.0), LOSS)) == [200]
    loss = LOSS.copy()
    loss[220] = 40.0
    assert list(olmo("loss")(CALM, loss)) == [220]
    assert list(olmo("norm")(with_spike(5.0, at=50), LOSS)) == []  # too few before it


def test_megatron_sees_ten_times_the_largest_of_the_first_hundred_losses_and_nan() -> None:
    loss = LOSS.copy()
    loss[50], loss[150], loss[160], loss[170] = np.nan, 19.0, 21.0, np.inf
    assert list(megatron(CALM, loss)) == [50, 160, 170]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_gives_rising_steps_of_any_run_and_knows_nothing_of_what_comes_later(name: str) -> None:
    norm, loss = with_spike(1e4, at=150), LOSS.copy()
    norm[160:170], loss[165:180] = np.inf, np.nan
    whole = list(RULES[name](norm, loss))
    assert whole == sorted(set(whole))
    for end in (140, 151, 165, 200):
        assert list(RULES[name](norm[:end], loss[:end])) == [step for step in whole if step < end]
