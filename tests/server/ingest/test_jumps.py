"""A clock that is set is told from one that goes on, or is slewed."""

from __future__ import annotations

import pytest

from seismograd_server.ingest.jumps import Jumps


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 1.0, -1.0])
def test_a_clock_that_has_been_set_is_told_once_and_by_how_much(jump: float) -> None:
    jumps = Jumps()
    assert jumps.since_last(1_000.0, 50.0) == 0.0, "there is nothing to compare with"
    assert jumps.since_last(1_020.0, 70.0) == 0.0
    assert jumps.since_last(1_021.0 + jump, 71.0) == jump
    assert jumps.since_last(1_022.0 + jump, 72.0) == 0.0


@pytest.mark.parametrize("slewed", [0.5, -0.5])
def test_a_clock_that_is_slewed_has_not_been_set_however_long_it_takes(slewed: float) -> None:
    jumps = Jumps()
    for turn in range(10):
        assert jumps.since_last(1_000.0 + (1.0 + slewed) * turn, float(turn)) == 0.0
