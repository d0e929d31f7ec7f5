"""How a forgotten monitor ends with its process, and why it ended."""

from __future__ import annotations

import atexit
import multiprocessing
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Literal, NoReturn, Protocol

Outcome = Literal["finished", "failed"]

# One line in a list of runs; the traceback is in the job's own log.
_MOST_CHARACTERS = 500


class Finishable(Protocol):
    """What ends with the process."""

    @property
    def next_step(self) -> int:
        """Number of the step to come."""
        ...

    def finish(self, outcome: Outcome = "finished", reason: str = "") -> object:
        """Ends the run."""
        ...


class Ending:
    """Finishes a monitor at the end of the process, as failed when the program has failed.

    That is: an exception has reached the top of the program, or the main thread has called `sys.exit` with another
    status than 0 and has made no step since. `raise SystemExit(1)` shows only in the children of `multiprocessing`.

    The monitor is held weakly, lest a forgotten one keep its model alive; when it is gone, `last_word` says the same.
    """

    def __init__(self, monitor: Finishable, last_word: Callable[[Outcome, str], object]) -> None:
        self._monitor = weakref.ref(monitor)
        self._last_word = last_word
        self._failure = ""
        self._exit: tuple[str, int | None] | None = None  # why, and before which step
        self._previous = sys.excepthook
        self._hook = self._note_failure  # one object, so that it can be recognised
        sys.excepthook = self._hook
        self._previous_exit = sys.exit
        self._exit_hook: Callable[..., NoReturn] = self._note_exit
        sys.exit = self._exit_hook
        # A child of multiprocessing (`torch.multiprocessing.spawn`) catches what its function raises.
        child = multiprocessing.parent_process() is not None
        self._child_end = Finalize(None, self._note_end_of_child, exitpriority=0) if child else None
        atexit.register(self._end)

    def cancel(self) -> None:
        """The run has ended in another way."""
        atexit.unregister(self._end)
        self._last_word = _nothing  # whoever keeps a hook of ours keeps no sender with it
        if sys.excepthook == self._hook:
            sys.excepthook = self._previous
        for later in _endings_from(sys.excepthook, "_previous"):
            if later._previous == self._hook:  # noqa: SLF001 - one of us
                later._previous = self._previous  # noqa: SLF001 - as above
        if sys.exit == self._exit_hook:
            sys.exit = self._previous_exit
        for later in _endings_from(sys.exit, "_previous_exit"):
            if later._previous_exit == self._exit_hook:  # noqa: SLF001 - as above
                later._previous_exit = self._previous_exit  # noqa: SLF001 - as above
        if self._child_end is not None:
            self._child_end.cancel()

    def _note_failure(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        self._failure = describe_error(error)
        self._previous(kind, error, traceback)

    def _note_exit(self, status: object = None, /) -> NoReturn:
        if threading.current_thread() is threading.main_thread():
            self._exit = (_describe_exit(status, sys.exception()), self._next_step())
        self._previous_exit(status)  # type: ignore[arg-type]  # as above

    def _note_end_of_child(self) -> None:
        error = sys.exception()  # with which the child is about to end
        if isinstance(error, SystemExit):
            self._failure = _describe_exit(error.code, error.__context__)
        elif error is not None:
            self._failure = describe_error(error)

    def _next_step(self) -> int | None:
        monitor = self._monitor()
        return None if monitor is None else monitor.next_step

    def _end(self) -> None:
        monitor = self._monitor()
        finish = self._last_word if monitor is None else monitor.finish
        if self._exit is not None and self._exit[1] == self._next_step():
            self._failure = self._failure or self._exit[0]
        if self._failure:
            finish("failed", self._failure)
        else:
            finish("finished", "")


def _endings_from(hook: object, previous: str) -> Iterator[Ending]:
    """The endings whose hooks call each other, from the one that is called first; others' hooks hide what is below."""
    while isinstance(ending := getattr(hook, "__self__", None), Ending):
        yield ending
        hook = getattr(ending, previous)


def _nothing(_outcome: Outcome, _reason: str) -> None:
    pass


def _describe_exit(status: object, error: BaseException | None) -> str:
    """Why a program exits with this status; empty when it is that of success. `error` is being handled meanwhile."""
    if status is None or status == 0:
        return ""
    if error is not None:
        return describe_error(error)
    return describe_error(SystemExit(status))


def describe_error(error: BaseException) -> str:
    """An exception's type and message, in one short line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}"[:_MOST_CHARACTERS] if message else type(error).__name__
