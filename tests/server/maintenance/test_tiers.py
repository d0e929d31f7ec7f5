"""Which rows become one, and when."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.maintenance.tiers import Group, Sizes, Tiers
from seismograd_server.store.compacting import StoredRow

SIZES = Sizes(full_records=100, full_bytes=10_000, tail_records=20, most_rows=10, lookback_records=30)


def plain(row_id: int, records: int = 10, *, size: int = 100, place: str = "a") -> StoredRow:
    return StoredRow(row_id, place, records, size, dense=False, settled=False)


def dense(row_id: int, records: int = 10, *, settled: bool = False, place: str = "a") -> StoredRow:
    return StoredRow(row_id, place, records, 50, dense=True, settled=settled)


def groups(rows: Sequence[StoredRow], *, at_rest: bool) -> list[tuple[list[int], bool]]:
    tiers = Tiers(SIZES, at_rest=at_rest)
    return [([row.row_id for row in each.rows], each.settle) for each in [*tiers.add(rows), *tiers.finish()]]


def test_a_run_at_rest_becomes_as_few_rows_as_can_be() -> None:
    assert groups([plain(number) for number in range(1, 13)], at_rest=True) == [
        (list(range(1, 11)), True),
        ([11, 12], True),
    ]


def test_a_single_row_of_a_run_at_rest_is_settled_once() -> None:
    assert groups([plain(1)], at_rest=True) == [([1], True)]
    assert groups([dense(1)], at_rest=True) == [([1], True)]
    assert groups([dense(1, settled=True)], at_rest=True) == []


def test_the_tail_of_a_running_run_waits_until_it_is_worth_a_row_and_stays_exact() -> None:
    assert groups([plain(1)], at_rest=False) == []
    assert groups([plain(1), plain(2)], at_rest=False) == [([1, 2], False)]
    assert groups([dense(1), dense(2), plain(3)], at_rest=False) == []
    assert groups([dense(1), plain(2), plain(3)], at_rest=False) == [([2, 3], False)]


def test_a_full_row_of_a_running_run_is_settled_when_alerts_no_longer_look_back_on_it() -> None:
    full = [dense(number, 50) for number in (1, 2)]
    assert groups([*full, dense(3, 29)], at_rest=False) == []
    assert groups([*full, dense(3, 30)], at_rest=False) == [([1, 2], True)]


def test_rows_of_different_places_are_never_merged() -> None:
    rows = [plain(1), plain(2, place="b"), plain(3), plain(4, place="b")]
    assert groups(rows, at_rest=True) == [([1, 3], True), ([2, 4], True)]


def test_what_is_full_and_settled_parts_its_neighbours() -> None:
    assert groups([plain(1), dense(2, 60, settled=True), plain(3)], at_rest=True) == [([1], True), ([3], True)]


def test_rows_of_a_wide_model_are_full_by_their_bytes() -> None:
    rows = [plain(number, 1, size=4000) for number in (1, 2, 3)]
    assert groups(rows, at_rest=True) == [([1, 2], True), ([3], True)]


@pytest.mark.parametrize("at_rest", [True, False])
@given(counts=st.lists(st.integers(1, 120), max_size=40))
def test_repeating_it_comes_to_an_end_and_loses_no_record(at_rest: bool, counts: list[int]) -> None:
    rows = [plain(number, count) for number, count in enumerate(counts, 1)]
    for _ in range(len(rows) + 2):
        tiers = Tiers(SIZES, at_rest=at_rest)
        found = [*tiers.add(rows), *tiers.finish()]
        for group in found:
            assert len(group.rows) <= SIZES.most_rows
            assert len(group.rows) == 1 or sum(row.records for row in group.rows) <= SIZES.full_records
            rows = merged(rows, group)
        if not found:
            break
    else:
        raise AssertionError(f"still merging after {len(counts) + 2} rounds: {rows}")
    assert sum(row.records for row in rows) == sum(counts)
    assert [row.row_id for row in rows] == sorted(row.row_id for row in rows)
    if at_rest:
        assert all(row.settled for row in rows)
        pairs = itertools.pairwise(rows)
        assert all(one.records + other.records > 50 for one, other in pairs), "neighbours that fit are one"


def merged(rows: list[StoredRow], group: Group) -> list[StoredRow]:
    last = group.rows[-1]
    records = sum(row.records for row in group.rows)
    whole = replace(last, records=records, size=5 * len(group.rows), dense=True, settled=group.settle)
    return sorted([*(row for row in rows if row not in group.rows), whole], key=lambda row: row.row_id)
