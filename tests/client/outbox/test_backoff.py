"""The delays between attempts, exactly."""

from __future__ import annotations

import random
from itertools import repeat

from hypothesis import given
from hypothesis import strategies as st

from seismograd.outbox.backoff import LONGEST_SECONDS, Backoff


def test_the_bound_doubles_from_half_a_second_to_a_minute() -> None:
    backoff = Backoff(lambda: 1.0)
    assert [backoff.next_delay() for _ in range(9)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_the_jitter_is_full_so_that_ranks_do_not_return_in_step() -> None:
    backoff = Backoff(random.Random(7).random)
    for _ in range(7):
        backoff.next_delay()
    delays = [backoff.next_delay() for _ in range(400)]
    assert min(delays) < 3.0
    assert max(delays) > 57.0
    assert 27.0 < sum(delays) / len(delays) < 33.0


def test_progress_starts_again_from_the_shortest_bound() -> None:
    backoff = Backoff(lambda: 1.0)
    for _ in range(5):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() == 0.5


def test_what_the_server_asked_for_is_never_undercut() -> None:
    assert Backoff(lambda: 0.0).next_delay(at_least=12.0) == 12.0


def test_a_month_without_a_server_does_not_overflow() -> None:
    backoff = Backoff(lambda: 1.0)
    for _ in repeat(None, 50_000):
        backoff.next_delay()
    assert backoff.next_delay() == LONGEST_SECONDS


@given(st.integers(0, 40), st.floats(0.0, 1.0, exclude_max=True), st.floats(0.0, 3600.0))
def test_a_delay_lies_between_what_was_asked_and_the_bound(failures: int, jitter: float, at_least: float) -> None:
    backoff = Backoff(lambda: jitter)
    for _ in range(failures):
        backoff.next_delay()
    assert at_least <= backoff.next_delay(at_least) <= max(at_least, LONGEST_SECONDS)
