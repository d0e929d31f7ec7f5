"""How a forgotten monitor ends with its process or with its optimizer, and why it ended.

A process has one list of what is to end, however many monitors it makes: one hook of each kind on the interpreter, and
one deadline for all of them at the end.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, Literal, Protocol

Outcome = Literal["finished", "failed"]

_log = logging.getLogger("seismograd")

# One line in a list of runs; the traceback is in the job's own log.
_MOST_CHARACTERS = 500


class Finishable(Protocol):
    """What ends with the process."""

    @property
    def next_step(self) -> int:
        """Number of the step to come."""
        ...

    def finish_soon(self, outcome: Outcome, reason: str, *, used_seconds: float) -> object:
        """Begins to end the run, for which so much less time is left than usual; returns at once."""
        ...

    def finish(self) -> object:
        """Waits for that end."""
        ...


class LastWord(Protocol):
    """What ends in the place of a monitor that is gone."""

    def finish_soon(
        self, outcome: Outcome, reason: str, *, used_seconds: float = 0.0, then: Callable[[], object] | None = None
    ) -> object:
        """As that of Finishable; `then` is called on a thread of ours when the run has ended."""
        ...

    def finish(self) -> object:
        """Waits for that end."""
        ...


class Ending:
    """Finishes a monitor at the end of the process, as failed when the program has failed.

    That is: an exception has reached the top of the program, or the main thread has called `sys.exit` with another
    status than 0 and has made no step since. `raise SystemExit(1)` shows only in the children of `multiprocessing`.

    The monitor is held weakly, lest a forgotten one keep its model alive; when it is gone, `last_word` says the same.
    """

    def __init__(self, monitor: Finishable, last_word: LastWord) -> None:
        self._monitor = weakref.ref(monitor)
        self._last_word: LastWord | None = last_word
        self._failure = ""
        self._exit: tuple[str, int | None] | None = None  # why, and before which step
        _endings.add(self)

    def cancel(self) -> None:
        """The run has ended in another way."""
        self._let_go()
        _endings.leave()

    def forgotten(self) -> None:
        """Model and optimizer are gone, and the monitor with them: ends the run, and nobody waits for it.

        Until it has ended the process does wait for it at its own end. On any thread, since the garbage collector may
        run on any.
        """
        if self._last_word is not None:
            self._last_word.finish_soon("finished", "", then=self._let_go)

    def _let_go(self) -> None:
        self._last_word = None  # whoever keeps us keeps no sender
        _endings.drop(self)

    def note_failure(self, why: str) -> None:
        """An exception is about to end the program."""
        self._failure = why

    def note_exit(self, why: str) -> None:
        """The program is about to exit, but somebody may still catch that and go on."""
        self._exit = (why, self._next_step())

    def _next_step(self) -> int | None:
        monitor = self._monitor()
        return None if monitor is None else monitor.next_step

    def begin(self, used_seconds: float) -> Callable[[], object] | None:
        """Begins to end the run with the process. Returns what waits for that end."""
        if self._exit is not None and self._exit[1] == self._next_step():
            self._failure = self._failure or self._exit[0]
        ending: Finishable | LastWord | None = self._monitor() or self._last_word
        if ending is None:
            return None
        ending.finish_soon("failed" if self._failure else "finished", self._failure, used_seconds=used_seconds)
        return ending.finish


class _Hook:
    """One of the interpreter's hooks: notes that it is called, and calls what was there before."""

    def __init__(self, name: str, note: Callable[..., None]) -> None:
        self._name = name
        self._note = note
        self._previous: Callable[..., Any] = getattr(sys, name)
        setattr(sys, name, self)

    def __call__(self, *arguments: Any) -> Any:
        self._note(*arguments)
        return self._previous(*arguments)

    @property
    def on_top(self) -> bool:
        """Whether nobody has put another hook above."""
        return getattr(sys, self._name) is self

    def remove(self) -> None:
        """Leaves it to the one before; below another's hook it stays, and notes nothing where nothing is to end."""
        if self.on_top:
            setattr(sys, self._name, self._previous)


class _Endings:
    """All that is to end with this process, oldest first.

    The collection is changed by single operations of a dict alone: the garbage collector may come in between with a
    session that it frees, and a lock would then wait for itself.
    """

    def __init__(self) -> None:
        self._endings: dict[int, Ending] = {}
        self._hooks: dict[str, _Hook] = {}
        self._process = os.getpid()
        self._child_end: Finalize | None = None

    def add(self, ending: Ending) -> None:
        """From now on it ends with the process."""
        if self._process != os.getpid():
            # A forked child has nothing to do with what its parent watches.
            self._process, self._child_end = os.getpid(), None
            self._endings.clear()
        self._endings[id(ending)] = ending
        for name, note in (("excepthook", self._note_failure), ("exit", self._note_exit)):
            if name not in self._hooks or not self._hooks[name].on_top:
                self._hooks[name] = _Hook(name, note)
        # A child of multiprocessing (`torch.multiprocessing.spawn`) catches what its function raises.
        if self._child_end is None and multiprocessing.parent_process() is not None:
            self._child_end = Finalize(None, self._note_end_of_child, exitpriority=0)
        atexit.unregister(self.end)
        atexit.register(self.end)  # before whatever was there before the run began

    def drop(self, ending: Ending) -> None:
        """It has ended in another way. On any thread."""
        self._endings.pop(id(ending), None)

    def leave(self) -> None:
        """Leaves the interpreter as it was, where nothing is to end any more."""
        if self._endings:
            return
        atexit.unregister(self.end)
        while self._hooks:
            self._hooks.popitem()[1].remove()
        if self._child_end is not None:
            self._child_end.cancel()
            self._child_end = None

    def end(self) -> None:
        """The process ends: all begin to end before the first is waited for, so that they share the time."""
        began = time.monotonic()
        waits = []
        for ending in list(self._endings.values()):
            try:
                waits.append(ending.begin(time.monotonic() - began))
            except Exception:  # noqa: BLE001 - what one cannot do must not keep the others from their end
                _log.exception("a run does not end in order")
        for wait in waits:
            if wait is not None:
                wait()

    def _note_failure(self, _kind: type[BaseException], error: BaseException, _traceback: TracebackType | None) -> None:
        self._fail(describe_error(error))

    def _note_exit(self, status: object = None, /) -> None:
        if threading.current_thread() is threading.main_thread():
            why = _describe_exit(status, sys.exception())
            for ending in list(self._endings.values()):
                ending.note_exit(why)

    def _note_end_of_child(self) -> None:
        error = sys.exception()  # with which the child is about to end
        if isinstance(error, SystemExit):
            self._fail(_describe_exit(error.code, error.__context__))
        elif error is not None:
            self._fail(describe_error(error))

    def _fail(self, why: str) -> None:
        for ending in list(self._endings.values()):
            ending.note_failure(why)


_endings = _Endings()


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
