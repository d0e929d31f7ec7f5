"""Ranges that are joined and rows in a row, against sets of numbers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.model import joined_ranges, true_rows

NUMBERS = st.integers(-30, 30)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12))
def test_joined_ranges_cover_the_same_numbers_and_do_not_touch(ranges: list[tuple[int, int]]) -> None:
    joined = joined_ranges(ranges)
    assert {number for first, last in joined for number in range(first, last + 1)} == {
        number for first, last in ranges for number in range(first, last + 1)
    }
    assert all(first <= last for first, last in joined)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(joined))


@given(st.lists(st.booleans(), max_size=20))
def test_rows_in_a_row_are_all_that_are_true_in_as_few_ranges_as_can_be(mask: list[bool]) -> None:
    rows = true_rows(np.array(mask, dtype=np.bool_))
    assert [row for start, stop in rows for row in range(start, stop)] == [row for row, true in enumerate(mask) if true]
    assert all(before[1] < after[0] for before, after in pairwise(rows))
