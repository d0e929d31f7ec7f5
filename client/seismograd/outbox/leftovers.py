"""Delivers what dead processes have left in the spool: in their names, exactly once, by the sequences of their records.

A folder is taken by its lock, so never while its process lives, and by one at a time. The session of the dead process
is taken over: for the server it is the same process that has come back.
"""

from __future__ import annotations

import hashlib
import queue
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from seismograd.errors import OptionError
from seismograd.options import Options
from seismograd.outbox.clock import Clock, SystemClock
from seismograd.outbox.extras import Extras
from seismograd.outbox.farewell import Finish
from seismograd.outbox.folder import SpoolFolder, left_behind
from seismograd.outbox.grpc_transport import GrpcTransport
from seismograd.outbox.inheritance import InheritedQueue
from seismograd.outbox.journal import Account, note_identity, read_account
from seismograd.outbox.report import Phase
from seismograd.outbox.rings import Rings
from seismograd.outbox.shipper import Shipper
from seismograd.outbox.transport import Transport
from seismograd.record import RunIdentity

# A server that restarts is worth two more attempts; what is absent longer is for the next time.
_ATTEMPTS = 3
_PATIENCE_SECONDS = 60.0  # without any progress
_CLOSE_SECONDS = 10.0
_TURN_SECONDS = 0.02  # how soon to look again while records are on their way


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one folder."""

    path: Path
    project: str = ""
    run: str = ""
    rank: int = 0
    delivered: int = 0  # records that the server has now and had not before
    missing: int = 0  # records that were dropped, or had not reached the disk
    ending: str = ""  # "finished", "failed"; empty = the process was killed
    error: str = ""  # why the rest is still there; empty = everything is delivered, and the folder removed


def dead_folders(parents: Iterable[Path]) -> list[Path]:
    """Folders of processes below these, alive or dead, the oldest first. Raises OSError."""
    return [path for parent in parents if parent.is_dir() for path in left_behind(parent)]


def deliver(
    folder: SpoolFolder,
    options: Callable[[Account], Options],
    *,
    transport: Transport | None = None,
    clock: Clock | None = None,
    wait: Callable[[float], bool] | None = None,
) -> Delivery:
    """Delivers a folder and removes it, or lets it be. Never raises OSError.

    Args:
        folder: is taken; it is let go in any case.
        options: gives the options for what the folder says.
        transport: a stand-in for the network.
        clock: for tests.
        wait: is told the seconds until the next turn, waits at least as long, and says whether to go on.
    """
    try:
        account = read_account(folder.notes())
        identity = account.identity or _recovered(folder, account)
        if identity is None:
            return Delivery(folder.path, error=_why_nobody(account))
        return _Delivering(
            folder,
            account,
            identity,
            options=options(account),
            transport=transport,
            clock=clock or SystemClock(),
            wait=wait,
        ).run()
    except OptionError as error:
        return Delivery(folder.path, error=str(error))
    except OSError as error:
        return Delivery(folder.path, error=f"{error.strerror or error}")
    finally:
        folder.release()


class _Delivering:
    """One folder under way: a shipper of its own, driven turn by turn."""

    def __init__(
        self,
        folder: SpoolFolder,
        account: Account,
        identity: RunIdentity,
        *,
        options: Options,
        transport: Transport | None,
        clock: Clock,
        wait: Callable[[float], bool] | None,
    ) -> None:
        self._folder, self._account, self._identity = folder, account, identity
        self._clock = clock
        self._wait = wait
        self._phase = Phase.WAITING
        self._failures = 0
        self._waiting: int | None = None  # records, when last looked at; None = the server was never reached
        self._progress_at = clock.monotonic()
        self._mailbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._queue = InheritedQueue(folder.path, options.queue_bytes)
        self._extras = Extras()
        for catalog in account.catalogs:
            self._extras.add(catalog)
        for checkpoint in account.checkpoints:
            self._extras.add(checkpoint)
        for answer in account.answers:
            self._extras.add(answer)  # the server has the first one of each directive, and keeps it
        self._shipper = Shipper(
            options=options,
            queue=self._queue,
            extras=self._extras,
            transport=transport or GrpcTransport(options),
            clock=clock,
            uniform=random.random,
            identity=lambda: identity,
            post=self._mailbox.put,
            rings=Rings(),  # nobody asks the dead
            spool=lambda: folder.path,
        )
        self._shipper.say.quiet = True

    def run(self) -> Delivery:
        try:
            error = self._deliver()
        finally:
            self._shipper.hang_up()  # where nobody said goodbye the stream stands still, and three threads with it
        if not error:
            self._folder.remove()
        totals = self._queue.totals()
        return Delivery(
            self._folder.path,
            self._identity.project,
            self._identity.run,
            self._identity.rank,
            totals.delivered - self._queue.delivered_before,
            sum(totals.dropped.values()),
            self._account.ending[0] if self._account.ending else "",
            error,
        )

    def _deliver(self) -> str:
        """Turns until everything is durable. Returns why it is not, or nothing."""
        while True:
            delay = self._shipper.turn()
            if (result := self._look(self._clock.monotonic())) is not None:
                return result
            if not self._pause(delay):
                return "interrupted"

    def _look(self, now: float) -> str | None:
        """What came of it, or None while it goes on."""
        shipper = self._shipper
        if shipper.phase is Phase.STOPPED:
            return f"{shipper.last_error}; its records stay in {self._folder.path}, and deleting it gives them up"
        if shipper.phase is Phase.DONE:
            return "" if shipper.settled else shipper.last_error or "the server did not say that it has everything"
        if shipper.phase is Phase.BACKING_OFF and self._phase is not Phase.BACKING_OFF:
            self._failures += 1
        self._phase = shipper.phase
        if shipper.phase is Phase.STREAMING:
            waiting = self._queue.totals().waiting
            if waiting != self._waiting:
                self._waiting, self._progress_at, self._failures = waiting, now, 0
            if waiting == 0 and not self._extras.has_unsent_events():
                # Without a word of how it ended: it was killed, and its silence says so.
                outcome, reason = self._account.ending or (None, "")
                self._shipper.finish(Finish(outcome, reason, now + _CLOSE_SECONDS, _CLOSE_SECONDS))
        if self._failures >= (1 if self._waiting is None else _ATTEMPTS):
            return shipper.last_error
        if now - self._progress_at > _PATIENCE_SECONDS:
            return shipper.last_error or "the server makes no progress"
        return None

    def _pause(self, delay: float) -> bool:
        seconds = min(delay, _TURN_SECONDS)
        if self._wait is not None and not self._wait(seconds):
            return False
        try:
            call = self._mailbox.get(timeout=seconds if self._wait is None else 0.001)
            while True:
                call()
                call = self._mailbox.get_nowait()
        except queue.Empty:
            return True


def _recovered(folder: SpoolFolder, account: Account) -> RunIdentity | None:
    """Who a process was that died before the ranks had agreed on a launch, as far as its neighbours tell."""
    mine = account.provisional
    if mine is None:
        return None
    ranks = set()
    for path in left_behind(folder.path.parent):
        other = read_account(SpoolFolder.notes_of(path))
        theirs = other.provisional
        if theirs is None or (theirs.launch_id, theirs.world_size) != (mine.launch_id, mine.world_size):
            continue
        if other.identity is not None:
            return replace(mine, launch_id=other.identity.launch_id, run=other.identity.run)
        ranks.add(theirs.rank)
    if 0 not in ranks:
        return None  # rank 0 may have agreed with others, under an id that nobody here knows
    launch_id = hashlib.sha256(mine.launch_id.encode()).hexdigest()[:32]
    identity = replace(mine, launch_id=launch_id)
    folder.note(*note_identity(identity))  # the neighbours find it when it is their turn
    return identity


def _why_nobody(account: Account) -> str:
    if account.provisional is None:
        return "it does not say whose records it holds"
    rank, world = account.provisional.rank, account.provisional.world_size
    return f"rank {rank} of {world} died before the ranks had agreed on a launch, and no other rank's folder tells it"
