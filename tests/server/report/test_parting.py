from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.detect.baseline import Baseline
from seismograd_server.model import Float64
from seismograd_server.report.compare.parting import Parting, find_parting


def brute_force(one: list[float], other: list[float]) -> int | None:
    """The row of the parting by the words of its definition, every sum counted anew."""
    rows = [row for row in range(len(one)) if not (math.isnan(one[row]) or math.isnan(other[row]))]
    if len(rows) < 3:
        return None
    accepted: list[tuple[float, float]] = []
    strengths = []
    for count, row in enumerate(rows):
        spreads = []
        for side in (0, 1):
            baseline = Baseline()
            for levels in accepted:
                if math.isfinite(levels[side]):
                    baseline.accept(levels[side])
            spreads.append(baseline.spread())
        noise = math.sqrt(spreads[0] ** 2 + spreads[1] ** 2)
        gap = 0.0 if one[row] == other[row] == math.inf else one[row] - other[row]
        strengths.append(abs(gap) / (3.0 * noise))
        if count < 16 or not strengths[-1] > 1.0:
            accepted.append((one[row], other[row]))
    for start in range(len(rows)):
        rest = strengths[start:]
        apart = [each for each in rest if each > 1.0]
        if (
            rest[0] > 1.0
            and len(apart) >= 3
            and len(apart) >= 0.9 * len(rest)
            and sum(min(each, 4.0) for each in apart) >= 8.0
        ):
            return rows[start]
    return None


LEVELS = st.one_of(st.floats(-3.0, 3.0), st.sampled_from([math.nan, math.inf, 0.0, 5.0, -5.0]))


@given(st.lists(st.tuples(LEVELS, LEVELS), max_size=60), st.integers(0, 60), st.floats(-9.0, 9.0))
def test_a_parting_is_found_where_its_definition_says(
    pairs: list[tuple[float, float]], begins: int, gap: float
) -> None:
    one = [first + (gap if row >= begins else 0.0) for row, (first, _) in enumerate(pairs)]
    other = [second for _, second in pairs]
    found = find_parting(np.array(one, np.float64), np.array(other, np.float64))
    wanted = brute_force(one, other)
    assert (None if found is None else found.row) == wanted


@given(st.lists(st.tuples(LEVELS, LEVELS), max_size=60))
def test_either_run_may_be_the_first(pairs: list[tuple[float, float]]) -> None:
    one, other = (np.array([each[side] for each in pairs], np.float64) for side in (0, 1))
    forth, back = find_parting(one, other), find_parting(other, one)
    if forth is None or back is None:
        assert forth is back is None
        return
    assert (forth.row, forth.noise) == (back.row, back.noise)
    assert forth.octaves == -back.octaves


def noisy(count: int, seed: int, noise: float = 0.15) -> Float64:
    return np.random.default_rng(seed).normal(0.0, noise, count)


@pytest.mark.parametrize("seed", range(20))
def test_runs_that_differ_by_their_noise_alone_stay_together(seed: int) -> None:
    assert find_parting(noisy(512, seed), noisy(512, seed + 1000)) is None
    assert find_parting(noisy(512, seed, 1.5), noisy(512, seed + 1000, 1.5)) is None


@pytest.mark.parametrize("seed", range(20))
def test_an_explosion_parts_where_it_begins(seed: int) -> None:
    other = noisy(300, seed)
    one = noisy(300, seed + 1000) + np.maximum(0.0, np.arange(300) - 250.0)
    found = find_parting(one, other)
    assert found is not None
    assert 250 <= found.row <= 253
    assert found.octaves > 10.0


def test_an_explosion_that_ends_the_run_within_a_few_steps_parts_too() -> None:
    one = noisy(100, 0)
    one[96:] = [3.0, 6.0, 9.0, 12.0]
    assert find_parting(one, noisy(100, 1)) is not None


def test_an_episode_that_is_over_is_no_parting() -> None:
    one = noisy(300, 0)
    one[100:130] += 6.0
    assert find_parting(one, noisy(300, 1)) is None


def test_a_constant_distance_parts_at_the_first_point() -> None:
    found = find_parting(noisy(200, 0) + 2.0, noisy(200, 1))
    assert found is not None
    assert found.row == 0
    assert found.octaves == pytest.approx(2.0, abs=0.1)


def test_a_run_that_stops_being_finite_parts_there_and_two_that_do_so_together_do_not() -> None:
    one, other = noisy(100, 0), noisy(100, 1)
    one[60:] = np.inf
    found = find_parting(one, other)
    assert found == Parting(60, math.inf, found.noise if found else 0.0)
    other[60:] = np.inf
    assert find_parting(one, other) is None


def test_points_that_only_one_run_has_say_nothing() -> None:
    one = np.full(100, np.nan)
    one[:50] = 9.0
    other = np.full(100, np.nan)
    other[50:] = 0.0
    assert find_parting(one, other) is None
