"""What may be called long after `watch()`, and keeps neither a monitor nor a model alive until then."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Literal

from seismograd.arguments import reason_of
from seismograd.capture.session import Session
from seismograd.guard import Guard
from seismograd.outbox.sender import Sender


class LastWord:
    """How a run ends whose monitor nobody has kept: the session lives as long as its optimizer."""

    def __init__(self, session: weakref.ref[Session], sender: Sender, guard: Guard) -> None:
        self._session = session
        self._sender = sender
        self._guard = guard

    def finish_soon(
        self,
        outcome: Literal["finished", "failed"],
        reason: str,
        *,
        used_seconds: float = 0.0,
        then: Callable[[], object] | None = None,
    ) -> None:
        """Begins to end the run, and returns at once; `then` is called on a thread of ours when it has ended."""
        if (watching := self._session()) is not None:
            self._guard("the end", watching.close)
        ended = None if then is None else partial(self._let_go, then)
        self._sender.finish_soon(outcome, reason_of(reason), used_seconds=used_seconds, then=ended)

    def _let_go(self, then: Callable[[], object]) -> None:
        """The run has ended, and nobody is left to read its rings, each of which has a file open."""
        for _, ring in self._sender.rings:
            self._guard("the rings", ring.close)
        then()

    def finish(self) -> None:
        """Waits for that end."""
        self._sender.finish("finished", "")


def weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Calls a method for as long as its object lives, and does not keep it alive."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (alive := reference()) is not None:
            alive()

    return call
