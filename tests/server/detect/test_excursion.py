"""Excursions: when they end, how they grow, and their slope."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from seismograd_server.detect.excursion import Excursion, imbalance


def follow(excursion: Excursion, level: float, *, far: bool = True, bad_loss: bool = False) -> None:
    excursion.follow(level, level, far=far, high=far, bad_loss=bad_loss, loss=level)


def opened() -> Excursion:
    excursion = Excursion()
    excursion.begin(step=10, last_quiet_step=9, first_layer="head.weight")
    return excursion


def test_it_is_over_after_eight_quiet_steps_in_a_row() -> None:
    excursion = opened()
    follow(excursion, 5.0)
    for _ in range(7):
        follow(excursion, 0.0, far=False)
    assert not excursion.is_over()
    follow(excursion, 4.0)
    for _ in range(8):
        follow(excursion, 0.0, far=False)
    assert excursion.is_over()


def test_a_bad_loss_keeps_it_open() -> None:
    excursion = opened()
    for _ in range(20):
        follow(excursion, 0.0, far=False, bad_loss=True)
    assert not excursion.is_over()


def test_growth_is_counted_from_the_second_high_step() -> None:
    excursion = opened()
    follow(excursion, 4.0)
    follow(excursion, 6.0)
    assert excursion.growth() == 0.0
    follow(excursion, 5.5)
    assert excursion.growth() == 0.0
    follow(excursion, 8.5)
    assert excursion.growth() == 2.5


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.floats(-100, 100)), min_size=2, max_size=16),
)
def test_the_slope_is_the_least_squares_line(points: list[tuple[int, float]]) -> None:
    excursion, step = Excursion(), 0
    steps, levels = [], []
    for gap, level in points:
        step += gap
        excursion.remember(step, level)
        steps.append(step)
        levels.append(level)
    assume(len(set(steps)) > 1)
    x = np.asarray(steps, dtype=np.float64)
    slope = np.linalg.lstsq(np.stack([x - x.mean(), np.ones_like(x)], axis=1), np.asarray(levels), rcond=None)[0][0]
    assert excursion.octaves_per_step() == pytest.approx(max(0.0, slope), abs=1e-7)


def test_only_steps_since_the_last_quiet_one_count_for_the_slope() -> None:
    excursion = Excursion()
    for step in range(10):
        excursion.remember(step, 0.0)
    excursion.begin(step=10, last_quiet_step=9, first_layer="")
    for step in range(10, 14):
        excursion.remember(step, 2.0 * (step - 9))
    assert excursion.octaves_per_step() == pytest.approx(2.0)


def test_norm_and_loss_go_together_by_the_same_factor_or_its_square_and_one_odd_batch_says_nothing() -> None:
    levels = [5.0, 5.5, 4.5, 5.0]
    same, squared = [32.0, 45.0, 22.0, 1.0], [2.0**10, 2.0**11, 2.0**9, 1.0]
    assert imbalance(levels, same, 0.0, 1.0) < 0.1
    assert imbalance(levels, squared, 0.0, 1.0) < 0.1
    assert imbalance(levels, [1.0] * 4, 0.0, 1.0) > 4.0


@pytest.mark.parametrize(("usual", "latest"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, np.nan), (1.0, np.inf)])
def test_of_losses_without_a_logarithm_nothing_is_known(usual: float, latest: float) -> None:
    assert np.isnan(imbalance([1.0, 1.0], [1.0, latest], 0.0, usual))
