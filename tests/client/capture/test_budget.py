"""The controller of the sampled extras: their share of the step time, and which of them is thinned first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd.capture.budget import Budget, CaptureShare, Extra

ALL = frozenset(Extra)


def counts(budget: Budget, extra: Extra, until: int) -> list[int]:
    return [count for count in range(until) if extra in budget.samples(count)]


def test_it_thins_by_powers_of_two_until_the_share_is_held() -> None:
    budget = Budget(every=10, first=0, share=0.01)
    budget.step_took(0.010)
    budget.samples_took({Extra.WEIGHTS: 0.0035})  # 35 % of a step: every 35th step would be 1 %

    assert counts(budget, Extra.WEIGHTS, 200) == [0, 40, 80, 120, 160]


@pytest.mark.parametrize("before", [0, 20])
def test_a_pause_between_steps_buys_no_samples(before: int) -> None:
    budget = Budget(every=10, first=0, share=0.01)
    for seconds in [0.010] * before + [30.0] + [0.010] * 2:  # compiling at first, or an evaluation later
        budget.step_took(seconds)
        budget.samples_took({Extra.WEIGHTS: 0.0035})

    assert counts(budget, Extra.WEIGHTS, 200) == [0, 40, 80, 120, 160]


def test_steps_that_really_take_longer_are_sampled_more_often() -> None:
    budget = Budget(every=10, first=0, share=0.01)
    for seconds in [0.010] * 20 + [0.100] * 5:
        budget.step_took(seconds)
        budget.samples_took({Extra.WEIGHTS: 0.0035})

    assert counts(budget, Extra.WEIGHTS, 40) == [0, 10, 20, 30]


def test_the_dearest_is_thinned_first() -> None:
    budget = Budget(every=10, first=0, share=0.01)
    budget.step_took(0.010)
    budget.samples_took({Extra.LARGEST: 0.0001, Extra.GAIN: 0.0030})

    assert counts(budget, Extra.LARGEST, 100) == list(range(0, 100, 10))
    assert counts(budget, Extra.GAIN, 100) == [0, 40, 80]


def test_what_every_sampled_step_costs_beside_is_saved_by_thinning_all_that_are_sampled_most_often() -> None:
    budget = Budget(every=10, first=0, share=0.01)
    budget.possible = frozenset({Extra.LARGEST, Extra.GAIN})
    budget.step_took(0.010)
    for seconds in (0.0030, 5.0, 0.0030):  # one of them fell into a pause
        budget.sampling_took(seconds)
    budget.samples_took({Extra.LARGEST: 0.0001, Extra.GAIN: 0.0001})

    assert counts(budget, Extra.LARGEST, 100) == counts(budget, Extra.GAIN, 100) == [0, 40, 80]
    assert budget.next_sample(1) == 40


def test_a_single_slow_step_says_nothing_of_what_sampling_costs() -> None:
    budget = Budget(every=10, first=0, share=0.01)
    budget.step_took(0.010)
    budget.sampling_took(30.0)
    budget.samples_took({Extra.WEIGHTS: 0.0001})

    assert counts(budget, Extra.WEIGHTS, 30) == [0, 10, 20]
    assert budget.all_of(ALL) == ALL


def test_what_there_is_none_of_is_not_sampled_and_no_step_waits_for_it() -> None:
    budget = Budget(every=10, first=3)
    budget.possible = frozenset({Extra.WEIGHTS})
    assert budget.samples(0) == budget.samples(1) == {Extra.WEIGHTS}
    budget.step_took(0.010)
    budget.samples_took({Extra.WEIGHTS: 0.0035})

    assert [budget.next_sample(count) for count in (0, 3, 40, 41)] == [0, 40, 40, 80]
    budget.possible = frozenset()
    assert not budget.samples(40)
    assert budget.next_sample(3) > 10**9


def test_extras_return_when_they_become_cheap() -> None:
    budget = Budget(every=10, first=0)
    budget.step_took(0.010)
    budget.samples_took({Extra.WEIGHTS: 0.05})
    for _ in range(60):
        budget.samples_took({Extra.WEIGHTS: 1e-5})

    assert counts(budget, Extra.WEIGHTS, 40) == [0, 10, 20, 30]


def test_the_first_steps_are_sampled_for_what_is_cheap() -> None:
    budget = Budget(every=10, first=20)
    budget.step_took(0.010)
    budget.samples_took({Extra.WEIGHTS: 0.001, Extra.GAIN: 0.02, Extra.LARGEST: 0.0001, Extra.LOCAL: 0.0001})

    assert budget.samples(7) == ALL - {Extra.GAIN}


def test_a_step_to_be_seen_whole_takes_about_twice_its_time_and_not_more() -> None:
    budget = Budget(every=1000, first=0)
    assert budget.all_of(ALL) == ALL, "nothing is known yet"
    budget.step_took(0.010)
    budget.samples_took({Extra.WEIGHTS: 0.006, Extra.GAIN: 0.02, Extra.LARGEST: 0.001, Extra.LOCAL: 0.001})

    assert budget.all_of(ALL) == ALL - {Extra.GAIN}
    assert Budget(every=0, first=0).all_of(ALL) == frozenset()


def test_nothing_is_sampled_when_told_so_and_everything_while_nothing_is_known() -> None:
    assert not Budget(every=0, first=20).samples(0)
    assert Budget(every=10, first=20).samples(3) == ALL


@given(
    costs=st.dictionaries(st.sampled_from(Extra), st.floats(1e-6, 1.0), min_size=1),
    step_seconds=st.floats(1e-4, 1.0),
    share=st.floats(0.001, 1.0),
    beside=st.none() | st.floats(0.0, 1.0),
)
def test_the_share_is_held_unless_all_are_as_rare_as_can_be(
    costs: dict[Extra, float], step_seconds: float, share: float, beside: float | None
) -> None:
    budget = Budget(every=10, first=0, share=share)
    budget.possible = frozenset(costs)
    budget.step_took(step_seconds)
    for _ in range(0 if beside is None else 3):
        budget.sampling_took(beside or 0.0)
    budget.samples_took(costs)

    rarest = 10 * 2**10
    sampled = [chosen for count in range(rarest) if (chosen := budget.samples(count))]
    spent = sum((beside or 0.0) + sum(costs[extra] for extra in chosen) for chosen in sampled) / rarest
    as_rare_as_can_be = all(budget.doublings[extra] == 10 for extra in costs)
    assert spent <= share * step_seconds * (1 + 1e-9) or as_rare_as_can_be


@given(costs=st.lists(st.dictionaries(st.sampled_from(Extra), st.floats(1e-6, 1.0)), max_size=5))
def test_ranks_of_different_verdicts_still_sample_some_steps_together(costs: list[dict[Extra, float]]) -> None:
    one, other = Budget(every=10, first=0), Budget(every=10, first=0)
    for budget in (one, other):
        budget.step_took(0.01)
    for each in costs:
        one.samples_took(each)

    assert one.samples(10 * 2**10) == other.samples(10 * 2**10) == ALL


@pytest.mark.parametrize("every", [1, 7])
def test_the_cadence_is_a_power_of_two_times_the_one_asked_for(every: int) -> None:
    budget = Budget(every=every, first=0)
    budget.step_took(1.0)
    budget.samples_took({Extra.LOCAL: 0.03 * every})

    assert counts(budget, Extra.LOCAL, every * 17) == [0, 4 * every, 8 * every, 12 * every, 16 * every]


def test_the_share_of_capturing_is_that_of_the_time_between_two_looks() -> None:
    share = CaptureShare()

    assert share.observe(100.0, 5.0) == 0.0
    assert share.observe(110.0, 5.1) == pytest.approx(0.01)
    assert share.observe(110.0, 5.1) == pytest.approx(0.01)
    assert share.observe(120.0, 5.1) == pytest.approx(0.008)
