"""Closing steps: in order, complete or after a bounded wait, whatever the order of arrival."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.detect.align import Aligner, Patience
from seismograd_server.detect.closing import Closing
from seismograd_server.model import StepBatch
from tests.support.synthetic import healthy_norms, make_batch

PATIENCE = Patience(close_wait_seconds=5.0, absent_after_seconds=30.0)


def batch(first: int, count: int, *, steps: list[int] | None = None, branch: int = 0) -> StepBatch:
    changes = {} if steps is None else {"steps": np.array(steps, np.int64)}
    return make_batch(1, first, healthy_norms(count), branch=branch, **changes)


def offer(aligner: Aligner, rank: int, given: StepBatch, now: float = 0.0, watermark: int | None = None) -> int:
    late = aligner.offer(rank, given, now=now)
    aligner.settle(rank, given.end_sequence if watermark is None else watermark)
    return late


def steps_of(closings: tuple[Closing, ...]) -> list[int]:
    return [step for closing in closings for step in closing.steps.tolist()]


def test_a_step_closes_when_every_rank_has_come() -> None:
    aligner = Aligner(2, PATIENCE, now=0.0)
    offer(aligner, 0, batch(0, 4))
    assert aligner.close(0.0) == ()
    offer(aligner, 1, batch(0, 3))
    (closing,) = aligner.close(0.0)
    assert closing.steps.tolist() == [0, 1, 2]
    assert closing.ranks_present.all()
    assert aligner.frontier == (0, 2)


def test_a_step_closes_without_the_missing_rank_after_the_wait() -> None:
    aligner = Aligner(2, PATIENCE, now=0.0)
    offer(aligner, 0, batch(0, 4), now=1.0)
    assert aligner.close(5.9) == ()
    (closing,) = aligner.close(6.0)
    assert closing.ranks_present.tolist() == [[True, False]] * 4


def test_behind_a_restart_a_rank_is_waited_for_until_it_is_back_and_then_as_long_as_any() -> None:
    aligner = Aligner(3, PATIENCE, now=0.0)
    for rank in range(3):
        aligner.expect(rank, 0.0)
    offer(aligner, 0, batch(0, 4), now=1.0)
    offer(aligner, 1, batch(0, 4), now=20.0)
    assert aligner.close(50.0) == (), "longer than any rank may be absent otherwise"

    offer(aligner, 2, batch(0, 2), now=50.0)
    assert steps_of(aligner.close(50.0)) == [0, 1]
    assert aligner.close(54.9) == ()
    offer(aligner, 2, batch(2, 1), now=54.9)

    assert steps_of(aligner.close(54.9)) == [2]
    (closing,) = aligner.close(55.0)
    assert closing.ranks_present.tolist() == [[True, True, False]]


@pytest.mark.parametrize("how", ["in time", "farewell", "no room"])
def test_a_rank_that_does_not_come_back_is_given_up(how: str) -> None:
    aligner = Aligner(2, PATIENCE, now=0.0)
    for rank in range(2):
        aligner.expect(rank, 0.0)
    offer(aligner, 0, batch(0, 4), now=1.0)
    now = 10.0
    if how == "in time":
        assert aligner.close(59.9) == ()
        now = 60.0
    elif how == "farewell":
        aligner.end(1)
    else:
        aligner.expect_nobody()

    (closing,) = aligner.close(now)

    assert closing.ranks_present.tolist() == [[True, False]] * 4


def test_a_clock_that_is_set_ends_no_wait_for_a_rank_that_is_to_come_back() -> None:
    aligner = Aligner(2, PATIENCE, now=0.0)
    aligner.expect(1, 0.0)
    offer(aligner, 0, batch(0, 4), now=1.0)
    aligner.follow_clock(3600.0)

    assert aligner.close(3659.0) == ()
    assert len(aligner.close(3660.0)) == 1


def test_what_comes_after_its_step_was_closed_is_late_and_changes_nothing() -> None:
    aligner = Aligner(2, PATIENCE, now=0.0)
    offer(aligner, 0, batch(0, 4))
    aligner.close(10.0)
    assert offer(aligner, 1, batch(0, 6), now=11.0) == 4
    offer(aligner, 0, batch(4, 2), now=11.0)
    (closing,) = aligner.close(11.0)
    assert closing.steps.tolist() == [4, 5]
    assert closing.ranks_present.all()


def test_a_later_frame_waits_for_the_one_it_overtook() -> None:
    aligner = Aligner(1, PATIENCE, now=0.0)
    offer(aligner, 0, batch(8, 8), watermark=0)
    assert aligner.close(0.0) == ()
    offer(aligner, 0, batch(0, 8), watermark=16)
    assert steps_of(aligner.close(0.0)) == list(range(16))


def test_a_hole_that_was_declared_as_dropped_holds_up_nobody() -> None:
    aligner = Aligner(2, PATIENCE, now=0.0)
    offer(aligner, 0, batch(0, 8))
    offer(aligner, 1, batch(0, 2))
    offer(aligner, 1, batch(6, 2), watermark=2)
    assert steps_of(aligner.close(0.0)) == [0, 1]
    aligner.settle(1, 8)  # the drop of 2 to 5 has been declared
    (closing,) = aligner.close(0.0)
    assert closing.steps.tolist() == [2, 3, 4, 5, 6, 7]
    assert closing.ranks_present[:, 1].tolist() == [False] * 4 + [True] * 2


def test_a_step_number_that_goes_back_is_a_new_branch_behind_the_old_one() -> None:
    aligner = Aligner(1, PATIENCE, now=0.0)
    offer(aligner, 0, batch(0, 10))
    offer(aligner, 0, batch(10, 3, steps=[5, 6, 7], branch=1))
    first, second = aligner.close(0.0)
    assert (first.branch, second.branch) == (0, 1)
    assert second.steps.tolist() == [5, 6, 7]
    assert aligner.frontier == (1, 7)


def test_a_rank_that_said_farewell_is_not_waited_for() -> None:
    aligner = Aligner(2, PATIENCE, now=0.0)
    offer(aligner, 0, batch(0, 4))
    aligner.end(1)
    assert steps_of(aligner.close(0.0)) == [0, 1, 2, 3]


def test_a_rank_that_has_been_silent_for_long_is_not_waited_for_until_it_speaks() -> None:
    aligner = Aligner(2, PATIENCE, now=0.0)
    offer(aligner, 0, batch(0, 4), now=31.0)
    assert steps_of(aligner.close(31.0)) == [0, 1, 2, 3]
    aligner.hear(1, 32.0)
    offer(aligner, 0, batch(4, 4), now=32.0)
    assert aligner.close(32.0) == ()


def test_everything_closes_when_no_more_is_to_come() -> None:
    aligner = Aligner(3, PATIENCE, now=0.0)
    offer(aligner, 0, batch(0, 4))
    offer(aligner, 2, batch(2, 4))
    (closing,) = aligner.close_all()
    assert closing.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert closing.ranks_present[:, 2].tolist() == [False, False, True, True, True, True]
    assert not aligner.pending


def test_memory_stays_bounded_while_a_rank_is_missing() -> None:
    aligner = Aligner(2, Patience(max_pending_bytes=20_000), now=0.0)
    for first in range(0, 1000, 10):
        offer(aligner, 0, batch(first, 10))
        aligner.close(0.0)
        assert aligner.size <= 20_000 + 10 * 200


def test_at_most_so_many_steps_close_at_once_and_the_rest_follows() -> None:
    aligner = Aligner(2, PATIENCE, now=0.0)
    for rank in range(2):
        for first in range(0, 40, 8):
            offer(aligner, rank, batch(first, 8))
    seen: list[int] = []
    while closings := aligner.close(0.0, most=7):
        assert len(steps_of(closings)) <= 7
        seen += steps_of(closings)
    assert seen == list(range(40))
    assert not aligner.capped


def test_a_step_that_a_rank_has_twice_counts_once_by_its_lower_sequence() -> None:
    aligner = Aligner(1, PATIENCE, now=0.0)
    offer(aligner, 0, batch(3, 2, steps=[2, 3]), watermark=0)
    offer(aligner, 0, batch(0, 3), watermark=5)
    (closing,) = aligner.close(0.0)
    assert closing.steps.tolist() == [0, 1, 2, 3]
    taken = [(part.batch.first_sequence + part.start, part.stop - part.start) for part in closing.parts]
    assert taken == [(0, 3), (4, 1)]


def test_a_closing_is_repeated_with_exactly_its_ranks() -> None:
    aligner = Aligner(2, PATIENCE, now=0.0)
    offer(aligner, 0, batch(0, 4))
    offer(aligner, 1, batch(0, 4))  # in truth it had come too late for steps 0 and 1
    present = np.array([[True, False], [True, False], [True, True]])
    steps = np.array([0, 1, 2])
    assert aligner.holds(0, steps, present) == 4
    closing = aligner.repeat(0, steps, present)
    assert (closing.ranks_present == present).all()
    assert aligner.frontier == (0, 2)
    assert steps_of(aligner.close(0.0)) == [3]


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Ranks, steps, and the records of every rank cut into pieces and shuffled: (rank, first, stop)."""
    ranks = draw(st.integers(1, 3))
    steps = draw(st.integers(1, 30))
    pieces = []
    for rank in range(ranks):
        cuts = sorted({0, steps, *draw(st.lists(st.integers(1, steps), max_size=5))})
        pieces += [(rank, first, stop) for first, stop in itertools.pairwise(cuts)]
    return ranks, steps, draw(st.permutations(pieces))


@given(arrivals(), st.integers(1, 40), st.booleans())
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
def test_any_order_of_arrival_closes_the_same_steps_in_order(
    given: tuple[int, int, list[tuple[int, int, int]]], most: int, eager: bool
) -> None:
    ranks, steps, pieces = given
    aligner = Aligner(ranks, PATIENCE, now=0.0)
    received = [set[int]() for _ in range(ranks)]
    seen: list[int] = []
    for rank, first, stop in pieces:
        received[rank].update(range(first, stop))
        watermark = next(number for number in range(steps + 1) if number not in received[rank])
        offer(aligner, rank, batch(first, stop - first), watermark=watermark)
        if eager:
            for closing in aligner.close(0.0, most=most):
                assert closing.ranks_present.all()
                seen += closing.steps.tolist()
    while closings := aligner.close(0.0, most=most):
        seen += steps_of(closings)
    assert seen == list(range(steps))
    assert not aligner.pending
