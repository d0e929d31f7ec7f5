"""What the sender writes down about its process, so that somebody else can deliver what it leaves behind.

Notes go to the journal on the sender's thread; before that thread runs there is no journal, and they are kept for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from seismograd.options import Options
from seismograd.outbox.background import Background
from seismograd.outbox.clearing import SPOOLS_KEPT, clear_leftovers
from seismograd.outbox.clock import Clock
from seismograd.outbox.disk import Disk
from seismograd.outbox.journal import Note, note_identity, note_kept, note_server
from seismograd.outbox.report import Phase
from seismograd.outbox.spooled import SpooledQueue
from seismograd.record import RunIdentity

_log = logging.getLogger("seismograd")

# How long the training thread may wait, at the first step and for a new catalog. A disk answers in two milliseconds;
# one that hangs is given up until it does.
_DISK_SECONDS = 0.5


class Recording:
    """The journal of a process. `post` hands a call to the sender's thread. Without a disk it does nothing."""

    def __init__(
        self, options: Options, queue: SpooledQueue, clock: Clock, post: Callable[[Callable[[], None]], None]
    ) -> None:
        self._queue = queue
        self._post = post
        self._begun = False
        self._identity: RunIdentity | None = None
        self._options = options
        self._clock = clock
        self._background: Background | None = None
        self.secured = False  # after the last record: everything that is not durable is in the spool
        self.disk = queue.disk = Disk(options.spool_parents, options.spool_bytes, queue.rings, clock)
        self.disk.note(note_server(options.server))
        if options.mode == "offline":
            self.disk.note(note_kept())

    # -------------------------------------------------------------------------------------- the training thread

    def note(self, note: Note) -> None:
        """Writes something down, soon."""
        if self._begun:
            self._post(lambda: self.disk.note(note))
        else:
            self.disk.note(note)

    def note_and_wait(self, note: Note) -> None:
        """The same for what later records are worth nothing without; waits for it briefly."""
        self.note(note)
        if self._begun:
            noted = threading.Event()
            self._post(noted.set)
            noted.wait(_DISK_SECONDS)

    def begin(self) -> None:
        """The sender's thread has been started: waits briefly for the folder, which it makes first of all."""
        self._begun = True
        self.disk.ready.wait(_DISK_SECONDS)
        self._post(self._clear)

    # -------------------------------------------------------------------------------------- the sender's thread

    def identify(self, identity: Callable[[], RunIdentity | None]) -> RunIdentity | None:
        """Asks for the identity, and writes it down when it is known."""
        if self._identity is None:
            self._identity = identity()
            if self._identity is not None:
                self.disk.note(note_identity(self._identity))
        return self._identity

    def _clear(self) -> None:
        try:
            limit = SPOOLS_KEPT * self._options.spool_bytes
            clear_leftovers(self._options.spool_parents, limit, self._clock.unix_seconds())
        except OSError as error:
            _log.debug("the spool was not cleared: %s", error)

    def attend(self, phase: Phase, *, over: bool) -> None:
        """Looks after the disk in every turn; `over` after the last record."""
        self.disk.attend()
        if phase is Phase.STREAMING and self._background is None:
            # The run's own connection stands: there may be something of dead jobs to deliver.
            self._background = Background(self._options)
            self._background.start()
        elif phase is not Phase.STREAMING and over:
            # While there is time: a disk may take more of it than hanging up leaves.
            self._secure()

    def _secure(self) -> None:
        self.secured = self.secured or (self._queue.secure() and not self._queue.has_pending())

    def end(self, *, settled: bool) -> None:
        """What is delivered leaves nothing behind; the rest is in the spool."""
        try:
            self._secure()
            self.disk.finish(delivered=settled and not self._queue.totals().waiting, secured=self.secured)
            if self._background is not None:
                self._background.stop()
        except Exception:  # noqa: BLE001  # a defect of ours must not keep the job from ending
            _log.exception("a defect in the sender; the spool is left as it is")
