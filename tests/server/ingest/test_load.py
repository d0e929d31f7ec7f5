from __future__ import annotations

import pytest

from seismograd_server.ingest.load import Load
from tests.support.records import FakeClock


def spend(load: Load, clock: FakeClock, work: float, rest: float, times: int) -> None:
    for _ in range(times):
        clock.advance(rest)
        with load.working():
            clock.advance(work)


def test_a_thread_that_only_waits_has_no_load_and_one_that_only_works_has_all() -> None:
    clock = FakeClock()
    load = Load(clock.monotonic)
    assert load.share == 0.0
    spend(load, clock, work=0.05, rest=0.0, times=200)
    assert load.share == pytest.approx(1.0, abs=0.01)
    spend(load, clock, work=0.0, rest=0.25, times=40)
    assert load.share == pytest.approx(0.0, abs=0.01)


def test_it_is_the_share_of_time_over_about_the_last_second() -> None:
    clock = FakeClock()
    load = Load(clock.monotonic)
    spend(load, clock, work=0.03, rest=0.01, times=400)
    assert load.share == pytest.approx(0.75, abs=0.02)


def test_work_that_fails_was_work_all_the_same() -> None:
    clock = FakeClock()
    load = Load(clock.monotonic)

    def fail() -> None:
        with load.working():
            clock.advance(5.0)
            raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        fail()
    assert load.share == 1.0
