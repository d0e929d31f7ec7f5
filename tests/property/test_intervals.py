"""Intervals against the obvious twin: a set of numbers."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.store.intervals import Intervals

RANGES = st.tuples(st.integers(0, 60), st.integers(0, 60))


@given(st.lists(RANGES, max_size=30), RANGES)
def test_intervals_agree_with_a_set_of_numbers(ranges: list[tuple[int, int]], window: tuple[int, int]) -> None:
    intervals, twin = Intervals(), set[int]()
    for first, end in ranges:
        assert intervals.add(first, end) == len(set(range(first, end)) - twin)
        twin |= set(range(first, end))

    kept = list(intervals)
    assert [number for first, end in kept for number in range(first, end)] == sorted(twin)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(kept)), "ranges never touch"
    assert intervals.watermark() == next(number for number in range(62) if number not in twin)
    assert intervals.end() == max(twin, default=-1) + 1
    assert intervals.count() == len(twin)
    assert all(intervals.contains(number) == (number in twin) for number in range(-1, 62))
    missing = intervals.missing(*window)
    assert [number for first, end in missing for number in range(first, end)] == sorted(set(range(*window)) - twin)
    assert all(first < end for first, end in missing)
    assert Intervals.from_bytes(intervals.to_bytes()) == intervals


@given(st.lists(RANGES, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(ranges: list[tuple[int, int]], order: random.Random) -> None:
    shuffled = list(ranges)
    order.shuffle(shuffled)

    assert Intervals(ranges) == Intervals(shuffled)
