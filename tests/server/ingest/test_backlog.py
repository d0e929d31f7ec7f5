"""When what waits is counted: seldom, and never too late to see that it is too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.ingest.backlog import Backlog

MOST = 1000


class Waiting:
    """What waits, and how often it was counted."""

    def __init__(self) -> None:
        self.size = 0
        self.counts = 0

    def count(self) -> int:
        """Its size."""
        self.counts += 1
        return self.size


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 12), st.integers(0, 500)), max_size=60))
def test_that_more_waits_than_may_is_seen_at_once(ticks: list[tuple[int, int, int]]) -> None:
    waiting = Waiting()
    backlog = Backlog(waiting.count, MOST)
    for number, (came, times_as_large, judged) in enumerate(ticks):
        backlog.came(came)
        waiting.size += came * times_as_large
        full = backlog.is_full(number * 0.001)
        assert full or waiting.size <= MOST
        waiting.size = max(0, waiting.size - judged)


def test_little_is_counted_seldom_and_what_nobody_sent_is_seen_a_second_later() -> None:
    waiting = Waiting()
    backlog = Backlog(waiting.count, MOST)
    for tick in range(50):
        backlog.came(1)
        assert not backlog.is_full(tick * 0.01)
    assert waiting.counts == 1
    waiting.size = 2 * MOST  # of a run that was built from the store

    assert not backlog.is_full(0.6)
    assert backlog.is_full(1.1)
