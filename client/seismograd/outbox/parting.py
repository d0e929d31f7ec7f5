"""The end of a sender: said once, then waited for, or not."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from typing import Literal

from seismograd.outbox.clock import Clock
from seismograd.outbox.farewell import Finish
from seismograd.outbox.refusals import undelivered
from seismograd.outbox.report import FlushReport, SenderState

Outcome = Literal["finished", "failed"]

_log = logging.getLogger("seismograd")

# The thread ends this much earlier than whoever waits for it gives up, so that it can hang up in order.
_MARGIN = 0.1


class Parting:
    """Belongs to a sender; `said` from when on nothing is taken any more."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due = 0.0
        self._then: Callable[[], object] | None = None
        # A signal handler may wait for the end in the middle of another wait: SimpleQueue is re-entrant.
        self._over: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.said = False

    def say(
        self,
        outcome: Outcome,
        reason: str,
        timeout_seconds: float,
        then: Callable[[], object] | None,
    ) -> Finish:
        """What the thread has to do, and by when; `then` is called when it has."""
        self.said, self._then = True, then
        self._due = self._clock.monotonic() + timeout_seconds
        return Finish(outcome, reason, self._due - timeout_seconds * _MARGIN, timeout_seconds)

    def wait(self) -> None:
        """Until the thread has ended, or was to have ended."""
        try:
            self._over.get(timeout=max(self._due - self._clock.monotonic(), 0.0))
            self._over.put(None)  # for whoever else may wait
        except queue.Empty:
            _log.debug("the sender did not end in time")

    def over(self, report: Callable[[], object]) -> None:
        """The thread ends. Where nobody waits for that, `report` still says what was not delivered."""
        self._over.put(None)
        then, self._then = self._then, None
        if then is not None:
            report()
            then()


def report_of(state: SenderState, *, secured: bool, refused: bool, offline: bool) -> FlushReport:
    """What has become of the records; says so where some were not delivered. `secured`: those are in the spool."""
    spooled = state.waiting if secured else state.spooled
    lost = state.waiting - spooled
    if state.waiting and not offline:
        _log.warning("%s", undelivered(state, lost=lost, refused=refused))
    return FlushReport(state.acknowledged, lost, spooled, state.dropped, state.last_error)
