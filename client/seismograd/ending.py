"""How a forgotten monitor ends with its process, and why it ended."""

from __future__ import annotations

import atexit
import sys
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol

Outcome = Literal["finished", "failed"]

# One line in a list of runs; the traceback is in the job's own log.
_MOST_CHARACTERS = 500


class Finishable(Protocol):
    """What ends with the process."""

    def finish(self, outcome: Outcome = "finished", reason: str = "") -> object:
        """Ends the run."""
        ...


class Ending:
    """Finishes a monitor at the end of the process, as failed when an exception has reached the top of the program.

    The monitor is held weakly, lest a forgotten one keep its model alive; when it is gone, `last_word` says the same.
    """

    def __init__(self, monitor: Finishable, last_word: Callable[[Outcome, str], object]) -> None:
        self._monitor = weakref.ref(monitor)
        self._last_word = last_word
        self._failure = ""
        self._previous = sys.excepthook
        self._hook = self._note_failure  # one object, so that it can be recognised
        sys.excepthook = self._hook
        atexit.register(self._end)

    def cancel(self) -> None:
        """The run has ended in another way."""
        atexit.unregister(self._end)
        if sys.excepthook == self._hook:
            sys.excepthook = self._previous

    def _note_failure(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        self._failure = describe_error(error)
        self._previous(kind, error, traceback)

    def _end(self) -> None:
        monitor = self._monitor()
        finish = self._last_word if monitor is None else monitor.finish
        if self._failure:
            finish("failed", self._failure)
        else:
            finish("finished", "")


def describe_error(error: BaseException) -> str:
    """An exception's type and message, in one short line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}"[:_MOST_CHARACTERS] if message else type(error).__name__
