"""Whose turn it is to be judged: runs with news in the order of their news, and every run now and then.

A judgement costs about as much for one step as for fifty. So a run that has just been judged waits a moment for more of
its steps, unless many have come or somebody waits for its end; a run that sends a few frames a second never waits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

# Between two looks at the runs of which there is no news: steps that have waited long enough, silence, chores.
_SWEEP_SECONDS = 0.25

IsDue = Callable[[int], bool]
"""Whether a run's turn should come at once: (run id) -> bool."""


class Turns:
    """A queue of runs, each in it once. Not thread-safe; knows no clock."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, None] = OrderedDict()
        self._swept_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def expect(self, run_id: int, *, first: bool = False) -> None:
        """There is something to judge of a run; with `first` before all others, because somebody waits for it."""
        self._waiting[run_id] = None
        if first:
            self._waiting.move_to_end(run_id, last=False)

    def forget(self, run_id: int) -> None:
        """There is no such run any more."""
        self._waiting.pop(run_id, None)

    def sweep(self, run_ids: Iterable[int], now: float) -> bool:
        """Now and then give all runs their turn, because time alone changes them too; tell whether it was done."""
        if 0 <= now - self._swept_at < _SWEEP_SECONDS:
            return False
        self._swept_at = now
        for run_id in run_ids:
            self._waiting.setdefault(run_id)
        return True

    def take(self, due: IsDue) -> Iterator[int]:
        """Those that are due, in turn, each taken off the queue as it is given; stop whenever there is enough."""
        for run_id in list(self._waiting):
            if due(run_id):
                del self._waiting[run_id]
                yield run_id

    def any_due(self, due: IsDue) -> bool:
        """Whether somebody's turn should come at once."""
        return any(due(run_id) for run_id in self._waiting)

    def follow_clock(self, seconds: float) -> None:
        """The clock has been set forward by so much (back, when negative)."""
        self._swept_at += seconds
