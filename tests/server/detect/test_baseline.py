"""The robust memories, each against a brute-force twin."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.detect.baseline import Baseline, Record, follow, follow_all

VALUES = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(VALUES, min_size=1, max_size=200))
def test_center_and_spread_are_those_of_the_sorted_window(values: list[float]) -> None:
    baseline = Baseline()
    for value in values:
        baseline.accept(value)
    window = np.sort(values[-64:])
    count = len(window)
    assert baseline.center() == window[(count - 1) // 2]
    if count >= 2:
        quartiles = (window[3 * count // 4] - window[count // 4]) / 1.349
        upper = (window[9 * count // 10] - window[(count - 1) // 2]) / 1.2816
        assert baseline.spread() == max(0.2, quartiles, upper)


@given(st.lists(st.tuples(st.lists(VALUES, max_size=100), st.lists(VALUES, max_size=70)), max_size=5))
def test_baselines_followed_together_are_what_each_is_alone(many: list[tuple[list[float], list[float]]]) -> None:
    baselines = []
    for before, _ in many:
        baselines.append(Baseline())
        baselines[-1].accept_all([value + 0.0 for value in before])  # no negative zeros, as in the columns of facts
    values = [np.array([value + 0.0 for value in after]) for _, after in many]

    followed = follow_all(baselines, values)

    for baseline, own, each in zip(baselines, values, followed, strict=True):
        alone = baseline.copy()
        assert each.centers == alone.accept_all(own.tolist())
        assert each.baseline == alone
        if len(own):
            above = [value - center for value, center in zip(own.tolist(), each.centers, strict=True)]
            np.testing.assert_equal(each.above, above)  # of which some are NaN: before the first value is no center
            np.testing.assert_equal(each.furthest, np.max(above))
            np.testing.assert_equal([each.lowest, each.highest], [np.min(each.centers), np.max(each.centers)])
        else:
            assert not len(each.above)
            assert np.isnan([each.lowest, each.highest, each.furthest]).all()


def test_values_further_apart_than_a_number_can_say_are_followed_like_others() -> None:
    baseline = Baseline()
    baseline.accept_all([-1e308] * 70)
    values = np.array([1.2e308, -1e308, 1.0])
    alone = baseline.copy()
    for value in values.tolist():
        alone.accept(value)

    for each in (follow(baseline, values), *follow_all([baseline], [values])):
        assert each.centers == [-1e308] * 3
        assert each.above.tolist() == [np.inf, 0.0, 1e308]
        assert each.baseline == alone


def test_without_values_there_is_no_center() -> None:
    assert math.isnan(Baseline().center())
    assert Baseline().spread() == 0.2


def test_a_quarter_of_outliers_does_not_move_the_center_out_of_the_noise() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(0.0, 1.0, 64)
    values[::4] = 40.0
    baseline = Baseline()
    for value in values.tolist():
        baseline.accept(value)
    assert abs(baseline.center()) < 1.0


def test_a_restart_begins_with_the_new_level() -> None:
    baseline = Baseline()
    for _ in range(64):
        baseline.accept(0.0)
    baseline.restart([5.0] * 70)
    assert baseline.center() == 5.0
    assert len(baseline) == 64


def brute_force_record(values: list[float]) -> float:
    """Every value, eight late, leaks from when it counted, and may have raised the height by one octave only."""
    height = -math.inf
    for index in range(len(values)):
        height -= 1 / 256
        if index >= 8:
            late = values[index - 8]
            height = late if height == -math.inf else max(height, min(late, height + 1.0))
    return height


@given(st.lists(st.floats(-50, 50), max_size=100))
def test_the_record_is_the_leaking_maximum_of_what_is_eight_steps_old(values: list[float]) -> None:
    record = Record()
    for value in values:
        record.accept(value)
    assert record.height == brute_force_record(values)


def test_a_value_is_judged_against_what_came_before_it() -> None:
    record = Record()
    for value in [0.0] * 20 + [5.0] * 8:
        record.accept(value)
    assert record.excess(5.0) == 5.0


def test_half_a_record_is_forgotten_after_256_steps() -> None:
    record = Record(height=10.0)
    for _ in range(256):
        record.accept(-100.0)
    assert record.height == 9.0


def test_a_survived_peak_raises_the_record_no_further_than_told() -> None:
    record = Record(height=0.0)
    record.survive(40.0, at_most=1.5)
    assert record.height == 1.5
    record.survive(1.0, at_most=1.5)
    assert record.height == 1.5


@given(st.lists(VALUES, max_size=150), st.lists(VALUES, max_size=150), st.sampled_from([0.5, 10.0, math.inf]))
def test_values_accepted_at_once_are_those_accepted_one_by_one(
    before: list[float], values: list[float], below: float
) -> None:
    one, all_at_once = Baseline(), Baseline()
    for value in before:
        one.accept(value)
        all_at_once.accept(value)
    centers = []
    for value in values:
        if value - one.center() >= below:
            break
        centers.append(one.center())
        one.accept(value)
    assert repr(all_at_once.accept_all(values, below)) == repr(centers)
    assert all_at_once == one


@given(st.lists(VALUES, max_size=30), st.lists(VALUES, max_size=60))
def test_a_record_of_values_accepted_at_once_is_the_same(before: list[float], values: list[float]) -> None:
    one, all_at_once = Record(), Record()
    for value in before:
        one.accept(value)
        all_at_once.accept(value)
    for value in values:
        one.accept(value)
    all_at_once.accept_all(values)
    assert all_at_once == one
