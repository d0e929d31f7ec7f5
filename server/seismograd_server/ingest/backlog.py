"""How much waits to be judged: asked for at every tick, and counted, which asks every run, only when it may matter."""

from __future__ import annotations

from collections.abc import Callable

# What waits takes no more memory than so many times the bytes that it came in: beside the eleven bytes of a record that
# has no norm at all, 128 are kept.
_TIMES_AS_LARGE = 12
# Runs that are built from the store bring along what nobody has sent.
_COUNT_SECONDS = 1.0


class Backlog:
    """Used by the log's worker alone."""

    def __init__(self, count: Callable[[], int], most_bytes: int) -> None:
        """`count` tells how many bytes wait; there may be `most_bytes`."""
        self._count = count
        self._most_bytes = most_bytes
        self._counted = 0
        self._counted_at = float("-inf")
        self._come = 0  # bytes since

    def came(self, size: int) -> None:
        """So many bytes have been stored, and wait to be judged."""
        self._come += size

    def is_full(self, now: float) -> bool:
        """Whether more waits than may. `now` is of a clock that is not set."""
        may_be = self._counted + _TIMES_AS_LARGE * self._come > self._most_bytes
        if may_be or now - self._counted_at >= _COUNT_SECONDS:
            self._counted, self._counted_at, self._come = self._count(), now, 0
        return self._counted > self._most_bytes
