"""The sender's state machine: a turn looks at what happened, and does what is due. It never blocks and never sleeps.

    waiting -> opening -> streaming -> draining -> closing -> done      (offline: none of these)
                  ^           |            |
             backing off <----'------------'      (refused for good: stopped)

Every connection begins with OpenRun, whose watermarks say what is durable; the rest is sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from seismograd.options import Options
from seismograd.outbox.backoff import Backoff
from seismograd.outbox.clock import Clock
from seismograd.outbox.encode import encode_answer, encode_open
from seismograd.outbox.extras import Extras
from seismograd.outbox.farewell import Finish
from seismograd.outbox.inbound import Inbound, marks_of
from seismograd.outbox.lane import Lane
from seismograd.outbox.queue import Queue
from seismograd.outbox.recorder import Recorder
from seismograd.outbox.refusals import ACCESS, FINAL, MALFORMED, SayOnce, no_connection, refused_token, stopped
from seismograd.outbox.report import CONNECTED, Phase
from seismograd.outbox.rings import Rings
from seismograd.outbox.transport import Transport, TransportError
from seismograd.record import DirectiveAnswer, RunIdentity
from seismograd_proto.v1 import telemetry

OPEN_TIMEOUT_SECONDS = 10.0  # a healthy server answers in milliseconds, one that waits for its disk in seconds
ACK_TIMEOUT_SECONDS = 30.0  # keepalive finds dead machines; this finds servers that are alive and answer nothing
IDENTITY_RETRY_SECONDS = 0.5  # the other ranks of the launch may still be starting
UNAUTHENTICATED_PAUSE_SECONDS = 60.0  # tokens rotate: keep the records, look again in a minute
# How often to look for new records while training runs: an anomaly leaves within this time, and twenty short turns a
# second cost the training thread nothing that can be measured, where being woken by a step costs it 70 us.
POLL_SECONDS = 0.05
ACTIVE_SECONDS = 2.0  # training runs as long as steps follow one another within this time
IDLE_SECONDS = 5.0  # a turn that finds nothing is harmless; the next record makes one of its own


class Shipper:
    """Everything that happens on the sender's thread. `post` hands a call to the next turn, from any thread.

    `spool` says in which folder the records are that the queue holds; None = in none.
    """

    def __init__(
        self,
        *,
        options: Options,
        queue: Queue,
        extras: Extras,
        transport: Transport,
        clock: Clock,
        uniform: Callable[[], float],
        identity: Callable[[], RunIdentity | None],
        post: Callable[[Callable[[], None]], None],
        rings: Rings,
        spool: Callable[[], Path | None] = lambda: None,
    ) -> None:
        self._server = options.server
        self._queue = queue
        self._extras = extras
        self._transport = transport
        self._clock = clock
        self._ask_identity = identity
        self._post = post
        self._spool = spool
        self._identity: RunIdentity | None = None
        self._backoff = Backoff(uniform)
        self.lane = Lane(options, queue, extras)
        self.recorder = Recorder(rings, queue, self._answer, options.queue_bytes // 4)
        self.inbound = Inbound(queue, self.recorder.ask)
        self.phase = Phase.OFFLINE if options.mode == "offline" else Phase.WAITING
        self.settled = False  # the server has said its last word: it has noted how this rank ended, or refused it
        self.last_error = ""
        self._connection = 0  # what earlier connections still say is ignored
        self._handle = 0
        self._asked_at = 0.0  # Unix seconds
        self._arrived_at = float("-inf")  # monotonic clock: when the last turn that found records was
        self._not_before = 0.0  # monotonic clock: no attempt earlier than this
        self._finish: Finish | None = None
        self._attempts_left = float("inf")  # to connect, once the job is over
        self.keeps = False  # the server refuses records that a person may still want
        self._drained_in_vain = False  # a stream broke while the server should have ended it: once is an accident
        self.say = SayOnce()

    # ------------------------------------------------------------------------------------------------------- a turn

    def turn(self) -> float:
        """Does what is due. Returns the seconds until the next turn is due, if nothing happens before."""
        now = self._clock.monotonic()
        if self._queue.absorb(now):
            self._arrived_at = now
        if self.phase is Phase.STOPPED:
            self._give_up()
        if self._finish is not None:
            self._press_on(self._finish, now)
        if self.phase in (Phase.WAITING, Phase.BACKING_OFF) and now >= self._not_before:
            self._connect()
        elif self.phase is Phase.OFFLINE and self._identity is None and now >= self._not_before:
            # Whoever delivers the records later has to know whose they are.
            self.agree()
            self._not_before = now + IDENTITY_RETRY_SECONDS
        if self.phase is Phase.STREAMING:
            self.recorder.turn(hurry=self._finish is not None)
            self._ship(now)
        active = now - self._arrived_at < ACTIVE_SECONDS or self._queue.has_pending()
        return self._delay(self._clock.monotonic(), active)

    def _answer(self, answer: DirectiveAnswer) -> None:
        self._extras.add(encode_answer(answer))

    def _ship(self, now: float) -> None:
        if self.lane.silent_seconds(now) > ACK_TIMEOUT_SECONDS:
            self._fail(TransportError("DEADLINE_EXCEEDED", f"no ack for {ACK_TIMEOUT_SECONDS:.0f} s"))
        else:
            self.lane.ship(now, finishing=self._finish is not None)

    def _delay(self, now: float, active: bool) -> float:
        due = now + (POLL_SECONDS if active or self._finish is not None else IDLE_SECONDS)
        if self.phase in (Phase.WAITING, Phase.BACKING_OFF):
            due = min(due, self._not_before)
        elif self.phase is Phase.STREAMING:
            due = min(due, self.lane.due(now))
        if self._finish is not None:
            due = min(due, self._finish.deadline)
        return max(0.0, due - now)

    # --------------------------------------------------------------------------------------------------- connecting

    def _connect(self) -> None:
        self.agree()
        if self._identity is None:
            self._not_before = self._clock.monotonic() + IDENTITY_RETRY_SECONDS
            return
        try:
            catalogs = self._extras.catalogs_to_open(self._queue.catalog_versions())
            self._asked_at = self._clock.unix_seconds()
            request = encode_open(self._identity, catalogs, self._asked_at)
        except (ValueError, TypeError) as error:
            self._stop(f"the run cannot be described on the wire: {error}", keeps=True)
            return
        self._connection += 1
        self.phase = Phase.OPENING
        connection = self._connection
        self._transport.open_run(
            request,
            OPEN_TIMEOUT_SECONDS,
            lambda result: self._post(lambda: self._on_opened(connection, result)),
        )

    def agree(self) -> None:
        """Asks whose records these are, unless that is known."""
        try:
            self._identity = self._identity or self._ask_identity()
        except Exception as error:  # noqa: BLE001  # whatever the agreement of the launch raises, training goes on
            self.say("identity", f"the launch cannot agree on its identity yet ({error!r}); trying again")

    def _on_opened(self, connection: int, result: telemetry.OpenRunResponse | TransportError) -> None:
        if connection != self._connection or self.phase is not Phase.OPENING:
            return
        if isinstance(result, TransportError):
            self._fail(result)
            return
        if result.rank_handle == 0:
            self._fail(TransportError("INTERNAL", "the answer holds no rank handle; is this a seismograd server?"))
            return
        self._handle = result.rank_handle
        self._extras.compare_clocks(self._asked_at, result.server_time_unix_seconds, self._clock.unix_seconds())
        marks = {mark.stream: mark.durable for mark in marks_of(result.watermarks, self._handle)}
        self._queue.rewind(marks)
        self._extras.rewind()
        stream = self._transport.start_stream(
            lambda response: self._post(lambda: self._on_response(connection, response)),
            lambda error: self._post(lambda: self._on_ended(connection, error)),
        )
        self.phase = Phase.STREAMING
        self.lane.open(stream, self._handle)
        self.say("connected", f"connected to {self._server} as attempt {result.attempt}", logging.INFO)

    # ------------------------------------------------------------------------------------------- what the server says

    def _on_response(self, connection: int, response: telemetry.StreamStepsResponse) -> None:
        if connection != self._connection or self.phase not in CONNECTED:
            return
        now = self._clock.monotonic()
        self.inbound.apply(response, self._handle)
        if self.lane.settle(now):
            self._backoff.reset()
            self.last_error = ""
        if response.retry_after_milliseconds:
            self.lane.hold(now + response.retry_after_milliseconds / 1000.0)

    def _on_ended(self, connection: int, error: TransportError) -> None:
        if connection != self._connection:
            return
        if self.phase is Phase.DRAINING and self._finish is not None:
            taken = error.code == "OK"
            if taken or error.code in FINAL or self._drained_in_vain:  # CloseRun finds out whether there is any use
                self._say_goodbye(self._finish, taken=taken)
                return
            self._drained_in_vain = True
            self._fail(error)
        elif self.phase is Phase.STREAMING:
            self._fail(error)

    def _fail(self, error: TransportError) -> None:
        """The connection is lost or refused: decide whether, and when, to try again."""
        self.last_error = str(error)
        self.hang_up()
        if error.code in FINAL:
            self._stop(f"the server refuses this run: {error.details or error.code}", keeps=error.code in MALFORMED)
            return
        at_least = error.retry_after or 0.0
        too_large = self.lane.shrink_after(error)
        if error.code in ACCESS:
            at_least = max(at_least, UNAUTHENTICATED_PAUSE_SECONDS)
            self.say("access", refused_token(self._server, error))
        elif error.code not in ("OK", "NOT_FOUND") and not too_large:
            # A server that restarts or has forgotten us is nothing to report: it is asked again at once.
            self.say("unreachable", no_connection(self._server, error))
        self.phase = Phase.BACKING_OFF
        self._not_before = self._clock.monotonic() + self._backoff.next_delay(at_least)
        if self._finish is not None:
            self._after_failure_at_the_end(self._finish)

    def recover(self) -> None:
        """After a turn that raised: nothing is known of the connection any more, so make a new one later."""
        self.hang_up()
        self.phase = Phase.BACKING_OFF if self._finish is None else Phase.DONE
        self._not_before = self._clock.monotonic() + self._backoff.next_delay()

    def _stop(self, reason: str, *, keeps: bool) -> None:
        self.last_error = reason
        self.hang_up()
        self.phase, self.keeps = Phase.STOPPED, keeps
        self.settled = True
        self.say("stopped", stopped(reason, self._give_up()), logging.ERROR)

    def _give_up(self) -> Path | None:
        """Drops what the server will never take. Returns where it stays, when it is worth keeping and on a disk."""
        folder = self._spool() if self.keeps else None
        if folder is None:
            self._queue.discard_all("rejected")
        return folder

    def hang_up(self) -> None:
        """Drops the connection, if there is one."""
        self._connection += 1
        self.lane.close()
        self._transport.disconnect()

    # ------------------------------------------------------------------------------------------------------ finishing

    def finish(self, finish: Finish) -> None:
        """The job is over: send what is left at once, say goodbye, be done by the deadline."""
        if self._finish is not None:
            return
        self._finish = finish
        # Whoever was connected is worth waiting for; an absent server gets one more chance, which begins from now on.
        self._attempts_left = float("inf") if self.phase is Phase.STREAMING else 1 + (self.phase is Phase.OPENING)
        if self.phase is Phase.BACKING_OFF:
            self._not_before = 0.0

    def _press_on(self, finish: Finish, now: float) -> None:
        if now >= finish.deadline or self.phase in (Phase.STOPPED, Phase.OFFLINE):
            self._end()
            return
        late = finish.is_late(now)
        if self.phase is Phase.STREAMING and (late or (self._queue.totals().waiting == 0 and self.recorder.idle)):
            self.recorder.end()
            self.lane.ship(now, finishing=True)  # the last drops, checkpoints, answers and health
            # No watermark tells of a frame without records. The server's end of the stream does: CloseRun, which
            # hangs up behind it, might overtake what is still on its way.
            self.lane.end()
            self.phase = Phase.DRAINING
        if self.phase is Phase.DRAINING and late:
            self._say_goodbye(finish, taken=False)

    def _say_goodbye(self, finish: Finish, *, taken: bool) -> None:
        """`taken`: the server has taken all that was sent."""
        if finish.outcome is None:
            self.settled = taken
            self._end()
            return
        self.phase = Phase.CLOSING
        connection = self._connection
        self._transport.close_run(
            finish.request(self._handle),
            max(finish.deadline - self._clock.monotonic(), 0.0),
            lambda result: self._post(lambda: self._on_closed(connection, result)),
        )

    def _on_closed(self, connection: int, result: telemetry.CloseRunResponse | TransportError) -> None:
        if connection != self._connection or self.phase is not Phase.CLOSING:
            return
        if isinstance(result, TransportError):
            self._fail(result)
            return
        for mark in marks_of(result.watermarks, self._handle):
            self._queue.confirm(mark)
        self.settled = True
        self._end()

    def _after_failure_at_the_end(self, finish: Finish) -> None:
        self._attempts_left -= 1
        if self._attempts_left <= 0:
            self._end()
            return
        self._not_before = min(self._not_before, self._clock.monotonic() + finish.pause_seconds)

    def _end(self) -> None:
        self.hang_up()
        self.phase = Phase.DONE
