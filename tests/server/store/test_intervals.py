from __future__ import annotations

import pytest

from seismograd_server.store.intervals import Intervals


def test_ranges_that_touch_become_one() -> None:
    assert list(Intervals([(0, 4), (8, 12), (4, 8)])) == [(0, 12)]


def test_a_hole_holds_the_watermark_back() -> None:
    intervals = Intervals([(0, 4), (6, 9)])

    assert (intervals.watermark(), intervals.end(), intervals.count()) == (4, 9, 7)
    assert intervals.missing(2, 11) == [(4, 6), (9, 11)]


def test_nothing_received_means_everything_is_missing() -> None:
    assert Intervals().missing(3, 5) == [(3, 5)]
    assert Intervals([(5, 9)]).watermark() == 0


def test_a_negative_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="sequences start at 0, not at -1"):
        Intervals().add(-1, 2)


@pytest.mark.parametrize("damage", [b"12345678", b"1234567", bytes(16), Intervals([(0, 4)]).to_bytes()[::-1][:15]])
def test_damaged_bytes_are_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match=r"damaged|multiple"):
        Intervals.from_bytes(damage)


def test_a_copy_is_independent() -> None:
    intervals = Intervals([(0, 4)])
    intervals.copy().add(4, 8)

    assert intervals == Intervals([(0, 4)])
    assert repr(intervals) == "Intervals([(0, 4)])"
