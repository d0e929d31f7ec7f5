"""How long to wait before the next attempt: exponential with full jitter, so that ranks do not return in step."""

from __future__ import annotations

from collections.abc import Callable

FIRST_SECONDS = 0.5  # a server restart takes about this long
LONGEST_SECONDS = 60.0  # a server that comes back is found within a minute


class Backoff:
    """Delays drawn uniformly from 0 to a bound that doubles from 0.5 s to 60 s.

    `uniform` returns a number from 0 (inclusive) to 1 (exclusive); tests give their own.
    """

    def __init__(self, uniform: Callable[[], float]) -> None:
        self._uniform = uniform
        self._failures = 0

    @property
    def failures(self) -> int:
        """Number of delays since the last success."""
        return self._failures

    def next_delay(self, at_least: float = 0.0) -> float:
        """Seconds to wait now; never less than what the server asked for."""
        # The exponent is capped because 2.0 ** 1100 would overflow after a month without a server.
        bound = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return max(at_least, self._uniform() * bound)

    def reset(self) -> None:
        """The server made progress: start again from the shortest bound."""
        self._failures = 0
