r"""The sender as the monitor sees it: one daemon thread behind a door that never blocks and never raises.

training thread: offer() --> ring, queue      mailbox <-- gRPC's threads
                               \                 |
                                '--> Shipper.turn() on the thread "seismograd-sender"
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
from collections.abc import Callable, Sequence

from seismograd.options import Options
from seismograd.outbox.clock import Clock, SystemClock
from seismograd.outbox.encode import encode_answer
from seismograd.outbox.express import Express
from seismograd.outbox.extras import Extras, HookHealth
from seismograd.outbox.grpc_transport import GrpcTransport
from seismograd.outbox.journal import Note, note_answer, note_catalog, note_checkpoint, note_ending, note_identity
from seismograd.outbox.parting import Outcome, Parting, report_of
from seismograd.outbox.pending import PendingRecord
from seismograd.outbox.recording import Recording
from seismograd.outbox.report import FlushReport, Phase, SenderState
from seismograd.outbox.ring import Ring, ring_bytes
from seismograd.outbox.rings import Rings
from seismograd.outbox.shipper import POLL_SECONDS, Shipper
from seismograd.outbox.spooled import SpooledQueue
from seismograd.outbox.transport import MAX_FRAME_BYTES, Transport
from seismograd.record import AlertNotice, Catalog, Directive, DirectiveAnswer, RunIdentity, StepRecord
from seismograd_proto.v1 import telemetry

__all__ = ["FlushReport", "PendingRecord", "Phase", "Sender", "SenderState"]

_log = logging.getLogger("seismograd")

# A turn that raises is a defect of ours. It is said each time it happens, but not without end.
_MOST_FAILED_TURNS = 10


class Sender:
    """Ships records to the server. Every method but finish() returns at once, for the training thread.

    In a forked child, and with mode `off`, it does nothing.
    """

    def __init__(
        self,
        options: Options,
        transport: Transport | None = None,
        clock: Clock | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """Starts nothing. `transport`, `clock` and `uniform` (random numbers from 0 to 1) are for tests."""
        self._options = options
        self._clock = clock or SystemClock()
        self._transport = transport or GrpcTransport(options)
        self._uniform = uniform
        self._process = os.getpid()
        self._inert = options.mode == "off"
        frames = 4 * min(MAX_FRAME_BYTES, options.queue_bytes // 16)
        offline = options.mode == "offline"
        self._queue = SpooledQueue(options.queue_bytes - frames, options.flush_steps, hoards=offline)
        self._extras = Extras()
        # SimpleQueue is re-entrant: a signal handler may call finish() in the middle of an offer.
        self._mailbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._parting = Parting(self._clock)
        self._recording: Recording | None = None
        if transport is None or offline or options.spool_dir is not None:
            # A stand-in for the network is not worth a file, unless its owner says where.
            self._recording = Recording(options, self._queue, self._clock, self._mailbox.put)
        self._shipper: Shipper | None = None
        self._thread: threading.Thread | None = None
        self.dozing = False
        self.closed = False
        self._known_at_once = False
        self._report: FlushReport | None = None

    # -------------------------------------------------------------------------------------- the training thread

    def open(
        self,
        identity: Callable[[], RunIdentity | None],
        catalogs: Sequence[Catalog],
        provisional: RunIdentity | None = None,
    ) -> None:
        """Says whose records will come. The first offer starts the thread.

        `identity` is called on the sender's thread, again and again until it returns an identity. Where that may take a
        while, the spool says what is known (`provisional`, whose launch id only tells which processes belong together).
        """
        if self._is_inert() or self._shipper is not None:
            return
        for catalog in catalogs:
            self._extras.add(catalog)
        self._queue.expect(max((len(catalog.parameters) for catalog in catalogs), default=0))
        for catalog in catalogs:
            size = ring_bytes(self._options.ring_steps, len(catalog.parameters), self._options.ring_bytes)
            self._queue.rings.add(catalog.optimizer, Ring(None, size))
            self._note(note_catalog(catalog))
        self._known_at_once = provisional is None
        if provisional is not None:
            self._note(note_identity(provisional, provisional=True))
        self._shipper = Shipper(
            options=self._options,
            queue=self._queue,
            extras=self._extras,
            transport=self._transport,
            clock=self._clock,
            uniform=self._uniform,
            identity=lambda: self._identify(identity),
            post=self._mailbox.put,
            rings=self._queue.rings,
            spool=lambda: None if self._recording is None else self._recording.disk.path,
        )

    def offer(self, record: StepRecord | PendingRecord) -> None:
        """Takes a record. Never blocks, never raises; when memory is full, something is dropped and counted."""
        if self._is_inert() or self.closed:
            return
        try:
            if self._thread is None:
                self._start()
            urgent = self._queue.offer(record)
            if urgent or self.dozing:
                self.dozing = False
                self._mailbox.put(None)
        except Exception:  # noqa: BLE001  # training first: nothing that goes wrong here may reach it
            self._inert = self.closed = True
            _log.exception("a defect in the sender; training goes on without telemetry")

    def catalog_changed(self, catalog: Catalog) -> None:
        """A new version of a catalog, before the first record that uses it."""
        if not self._is_inert():
            self._extras.add(catalog)
            if self._recording is not None:
                self._recording.note_and_wait(note_catalog(catalog))

    def checkpoint_saved(self, step: int, path: str) -> None:
        """The job has written a checkpoint."""
        if self._is_inert():
            return
        now = self._clock.unix_seconds()
        try:
            event = telemetry.CheckpointEvent(step=step, path=path, time_unix_seconds=now)
            self._extras.add(event)
            self._note(note_checkpoint(event))
        except (TypeError, ValueError) as error:
            _log.warning("checkpoint_saved(%r, %r) cannot be sent: %s", step, path, error)
            return
        self._mailbox.put(None)

    def answer_directive(self, answer: DirectiveAnswer) -> None:
        """What the job did about a directive."""
        if not self._is_inert():
            outcome = encode_answer(answer)
            self._extras.add(outcome)
            self._note(note_answer(outcome))
            self._mailbox.put(None)

    def express(self, optimizer: int) -> Express | None:
        """The short way for an optimizer's steps that are packed already; None before there is one."""
        if self._thread is None or self._shipper is None or self._is_inert():
            return None
        return Express(self, optimizer, self._queue, self._shipper.recorder, self._mailbox.put)

    def ask_health(self, health: Callable[[], Callable[[], HookHealth] | None]) -> None:
        """Where to ask what the hooks cost: on the sender's thread, once a second, as long as there is somebody."""
        self._extras.health = health

    def take_notices(self) -> list[AlertNotice]:
        """Alerts that arrived since the last call."""
        return [] if self._shipper is None or self._is_inert() else self._shipper.inbound.take_notices()

    def take_directives(self) -> list[Directive]:
        """Directives that arrived since the last call."""
        return [] if self._shipper is None or self._is_inert() else self._shipper.inbound.take_directives()

    @property
    def sample_until(self) -> int | None:
        """Number of the last step that the server wants sampled whole; None before it has asked for any."""
        return None if self._shipper is None else self._shipper.recorder.sample_until

    @property
    def rings(self) -> Rings:
        """The last steps of each optimizer, to be read from any thread."""
        return self._queue.rings

    @property
    def state(self) -> SenderState:
        """The sender at this moment."""
        if self._is_inert():
            return SenderState(Phase.INERT)
        totals = self._queue.totals()
        shipper = self._shipper
        return SenderState(
            phase=Phase.WAITING if shipper is None else shipper.phase,
            offered=totals.offered,
            sent=0 if shipper is None else shipper.lane.sent,
            acknowledged=totals.delivered,
            waiting=totals.waiting,
            queued_bytes=totals.queued_bytes,
            spooled=totals.spooled,
            dropped=totals.dropped,
            last_error="" if shipper is None else shipper.last_error,
        )

    def finish(self, outcome: Outcome, reason: str, timeout_seconds: float | None = None) -> FlushReport:
        """Sends what is left and says goodbye. Returns within the timeout (default: the option's), whatever happens.

        A second call returns the first one's report.
        """
        if self._is_inert():
            return FlushReport()
        if self._report is None:
            self.finish_soon(outcome, reason, timeout_seconds)
            self._parting.wait()
            self._report = self._final_report()
        return self._report

    def finish_soon(
        self,
        outcome: Outcome,
        reason: str,
        timeout_seconds: float | None = None,
        *,
        used_seconds: float = 0.0,
        then: Callable[[], object] | None = None,
    ) -> None:
        """Begins to do so; returns at once. `used_seconds` of the time have gone. `then`, at the end: on any thread."""
        if self._is_inert() or self._parting.said:
            return
        self.closed = True
        timeout = self._options.finish_timeout_seconds if timeout_seconds is None else timeout_seconds
        finish = self._parting.say(outcome, reason, max(timeout - used_seconds, 0.0), then)
        if (shipper := self._shipper) is None or self._thread is None:
            self._parting.over(self._final_report)
            return
        try:
            self._note(note_ending(outcome, reason))
        except Exception:  # noqa: BLE001  # what cannot be noted keeps no record from being delivered
            _log.exception("how the run ended cannot be noted: %r, because of %r", outcome, reason)
        self._mailbox.put(lambda: shipper.finish(finish))

    def _final_report(self) -> FlushReport:
        secured = self._recording is not None and self._recording.secured
        refused = self._shipper is not None and self._shipper.keeps
        return report_of(self.state, secured=secured, refused=refused, offline=self._options.mode == "offline")

    def _is_inert(self) -> bool:
        return self._inert or os.getpid() != self._process

    # -------------------------------------------------------------------------------------- the sender's thread

    def _start(self) -> None:
        if self._shipper is not None:
            self._thread = threading.Thread(target=self._run, name="seismograd-sender", daemon=True)
            self._thread.start()
            if self._recording is not None:
                self._recording.begin()

    def _note(self, note: Note) -> None:
        if self._recording is not None:
            self._recording.note(note)

    def _identify(self, identity: Callable[[], RunIdentity | None]) -> RunIdentity | None:
        return identity() if self._recording is None else self._recording.identify(identity)

    def _run(self) -> None:
        shipper, recording = self._shipper, self._recording
        failures = 0
        delay = 0.0
        if recording is not None and shipper is not None and self._known_at_once:
            # Before the first step is over: a process that is killed then shall leave a folder that says whose it is.
            shipper.agree()
        while shipper is not None:
            try:
                if recording is not None:
                    recording.attend(shipper.phase, over=self.closed)
                self._wait(delay)
                delay = shipper.turn()
            except Exception:  # noqa: BLE001  # a defect of ours must end neither the thread at once nor the training
                failures += 1
                delay = self._options.flush_seconds
                _log.exception("a defect in the sender; training goes on")
                self._recover(shipper)
            if shipper.phase is Phase.DONE or failures >= _MOST_FAILED_TURNS:
                break
        self.closed = True
        if recording is not None and shipper is not None:
            recording.end(settled=shipper.settled)
        self._parting.over(self._final_report)

    def _recover(self, shipper: Shipper) -> None:
        try:
            shipper.recover()
        except Exception:  # noqa: BLE001  # see above
            _log.exception("a defect in the sender, and none of its connections can be dropped")

    def _wait(self, delay: float) -> None:
        """Until something arrives or the delay is over; then makes all calls that are there."""
        # A turn that comes soon anyway is not worth a wake-up, which costs the training thread ten times its offer.
        self.dozing = delay > 2 * POLL_SECONDS
        if self.dozing and self._queue.has_pending():
            # Offered between the last look and the flag: nobody will wake us for it.
            delay = POLL_SECONDS
        try:
            call = self._mailbox.get(timeout=delay) if delay > 0.0 else self._mailbox.get_nowait()
            while True:
                if call is not None:
                    call()
                call = self._mailbox.get_nowait()
        except queue.Empty:
            self.dozing = False
