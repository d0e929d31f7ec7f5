"""The one maintenance thread: each chore does a bounded piece of work in its turn, and rests when nothing is left.

    chore.step(now) --more?--> the next chore --all idle--> rest

While ingest is busy, maintenance takes a tenth of the time: what it puts in order is stored and safe, and can wait. A
chore reads and encodes outside of the writer's turn, and takes that only for a short transaction, so that no ack
waits for it. Whatever it has not finished when the server dies it begins again: chores are idempotent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from seismograd_server.errors import SeismogradError, StorageBusyError, StorageError, StorageFencedError
from seismograd_server.instruments import Instruments

_log = structlog.get_logger(__name__)

# Between two looks when there was nothing to do; what is stored meanwhile can wait so long to be put in order.
_REST_SECONDS = 1.0
# While ingest works for more than this share of its time, maintenance leaves it nearly all of the interpreter.
_BUSY = 0.5
_SHARE = 0.1
# A chore that has failed is tried again after this, so that its trouble fills neither a core nor the log.
_FAILED_SECONDS = 60.0


class Chore(Protocol):
    """Something that is done to stored data, a bounded piece at a time."""

    @property
    def name(self) -> str:
        """For the log and the label of its metrics."""
        ...

    def step(self, now: float) -> bool:
        """Do one piece: some tens of milliseconds of work; tell whether there is more to do at once.

        Raises:
            StorageError: nothing of this piece has been changed.
        """
        ...


class Maintenance:
    """Runs the chores. `start`, then `stop`; `round` is what the thread repeats, for tests without one."""

    def __init__(
        self,
        chores: Sequence[Chore],
        instruments: Instruments,
        clock: Callable[[], float] = time.time,
        *,
        load: Callable[[], float] = lambda: 0.0,
        on_fatal: Callable[[SeismogradError], None] = lambda error: None,  # noqa: ARG005 (nobody to tell)
    ) -> None:
        """Take the chores; `load` is the share of its time that ingest works, 0 to 1."""
        self._chores = list(chores)
        self._instruments = instruments
        self._clock = clock
        self._load = load
        self._on_fatal = on_fatal
        self._failed_at: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seismograd-maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread behind the piece that it is at; blocks until then."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def round(self) -> bool:
        """Let every chore do one piece; tell whether any has more to do at once.

        Raises:
            StorageFencedError: another server has the database; this one must exit.
        """
        more = False
        for chore in self._chores:
            if self._stopping.is_set():
                return False
            more |= self._step(chore)
        return more

    def _step(self, chore: Chore) -> bool:
        now = self._clock()
        failed_at = self._failed_at.get(chore.name)
        if failed_at is not None and 0 <= now - failed_at < _FAILED_SECONDS:
            return False
        try:
            with self._instruments.maintenance_duration.labels(chore=chore.name).time():
                more = chore.step(now)
        except StorageFencedError:
            raise
        except StorageBusyError:
            return False  # the same piece again, a rest later
        except Exception as error:  # noqa: BLE001 (a chore that fails must not stop the others, nor the server)
            self._failed_at[chore.name] = now
            self._instruments.maintenance_failures.labels(chore=chore.name).inc()
            if isinstance(error, StorageError):
                _log.error("maintenance failed: trying again in a minute", chore=chore.name, reason=str(error))
            else:
                _log.exception("maintenance failed: trying again in a minute", chore=chore.name)
            return False
        self._failed_at.pop(chore.name, None)
        return more

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                began = time.perf_counter()
                more = self.round()
                took = time.perf_counter() - began
                if not more:
                    self._stopping.wait(_REST_SECONDS)
                elif self._load() > _BUSY:
                    self._stopping.wait(took * (1.0 - _SHARE) / _SHARE)
        except StorageFencedError as error:
            self._on_fatal(error)
