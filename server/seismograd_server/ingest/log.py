"""The in-process log: frames from the event loop to one worker thread, in ticks, and acks back.

    append(stream, frame)  --20 ms-->  one decode per stream, one transaction, one ack per stream  -->  detect

The event loop never commits and never detects; the worker never touches a socket. What is in flight is bounded in
bytes: when it is full, streams are not read until there is room, which gRPC's flow control hands on to the clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from seismograd_server.errors import IngestError, SeismogradError, StorageBusyError, StorageError
from seismograd_server.ingest.backlog import Backlog
from seismograd_server.ingest.calls import Call, give, prepared
from seismograd_server.ingest.jumps import Jumps
from seismograd_server.ingest.limits import IngestLimits
from seismograd_server.ingest.load import Load
from seismograd_server.ingest.storing import Storing
from seismograd_server.ingest.stream import Frame, Outcome, Stream
from seismograd_server.instruments import Instruments
from seismograd_server.pipeline import Notice, Pipeline

_log = structlog.get_logger(__name__)
_Answer = TypeVar("_Answer")

# Without frames, time still closes steps and loses runs: this often is looked.
_IDLE_SECONDS = 0.25
# While a run waits to be judged together with its next steps, this often.
_PACED_SECONDS = 0.05
# How often the ranks behind open streams count as alive.
_HEAR_SECONDS = 1.0
# A client that has waited so long for room is told to come back later.
_ROOM_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the log collects.

    Attributes:
        tick_seconds: how long frames are collected before they are made durable together.
        max_inflight_bytes: received and not yet durable, over all streams.
        limits: what a client may send.
    """

    tick_seconds: float = 0.02
    max_inflight_bytes: int = 64 * 2**20
    limits: IngestLimits = field(default_factory=IngestLimits)


class Log:
    """Between the servicer and the pipeline. Made and used on the event loop; `start` starts the worker."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: LogSettings,
        instruments: Instruments,
        *,
        clock: Callable[[], float] = time.time,
        steady_clock: Callable[[], float] = time.monotonic,
        on_fatal: Callable[[SeismogradError], None] = lambda error: None,  # noqa: ARG005 (nobody to tell)
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._instruments = instruments
        self._clock = clock
        self._steady_clock = steady_clock
        self._on_fatal = on_fatal
        self._on_commit = on_commit
        self._storing = Storing(pipeline, settings.limits, instruments)
        self._backlog = Backlog(pipeline.waiting_bytes, settings.max_inflight_bytes)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._frames: list[Frame] = []
        self._calls: list[Call] = []
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._inflight = 0
        self._held = 0  # bytes of frames that wait for room
        self._room = asyncio.Event()
        self._room.set()
        self._streams: set[Stream] = set()
        self.load = Load()
        self._heard_at = 0.0
        self._judges_from = 0.0  # while frames come
        self._jumps = Jumps()
        self._thread = threading.Thread(target=self._run, name="seismograd-log", daemon=True)
        instruments.ingest_limit_bytes.set(settings.max_inflight_bytes)

    # ------------------------------------------------------------------------------------------- on the event loop

    def start(self) -> None:
        """Start the worker; the pipeline is its own from now on."""
        self._thread.start()

    async def stop(self) -> None:
        """Make durable and answer what is here, store the detectors' state, and end the worker."""
        self._stopping.set()
        self._work.set()
        await asyncio.to_thread(self._thread.join)

    def hang_up(self) -> None:
        """End every open stream, so that its client comes back to whoever serves next."""
        for stream in self._streams:
            stream.fail(StorageBusyError("the server is stopping: what is not acknowledged, send again"))

    @property
    def takes_records(self) -> bool:
        """Whether the store takes what it is given; a full disk does not."""
        return self._storing.takes_records

    def attach(self, stream: Stream) -> None:
        """A stream has opened."""
        self._streams.add(stream)
        self._pipeline.capacity.streams = len(self._streams)

    def detach(self, stream: Stream) -> None:
        """A stream has ended; its frames that wait here are still stored."""
        self._streams.discard(stream)
        self._pipeline.capacity.streams = len(self._streams)

    async def append(self, stream: Stream, data: bytes) -> None:
        """Take a frame, waiting for room.

        Raises:
            StorageBusyError: there was no room for too long, or too much waits for it.
        """
        if not self._room.is_set():
            await self._wait_for_room(len(data))
        stream.waiting += 1
        self._inflight += len(data)
        if self._inflight >= self._settings.max_inflight_bytes:
            self._room.clear()
        with self._lock:
            self._frames.append(Frame(stream, data, time.perf_counter()))
        if not self._work.is_set():  # asking is cheaper than telling, once a message
            self._work.set()

    async def _wait_for_room(self, size: int) -> None:
        """What waits here is in memory as well: of that there may be as much as is in flight, and no more."""
        most = self._settings.max_inflight_bytes
        refusal = StorageBusyError(f"more than {most} bytes wait to be stored: send again later")
        if self._held + size > most:
            raise refusal
        self._held += size
        try:
            async with asyncio.timeout(_ROOM_SECONDS):
                await self._room.wait()
        except TimeoutError:
            raise refusal from None
        finally:
            self._held -= size

    async def call(self, function: Callable[[float], _Answer], *, behind_frames: bool = False) -> _Answer:
        """Run a function of `now` on the worker.

        With `behind_frames`, it runs behind every frame that is here already, and is answered when those that were
        stored in the same tick have been judged.

        Raises:
            StorageBusyError: the server is stopping.
            anything that the function raises.
        """
        if self._stopping.is_set():
            raise StorageBusyError("the server is stopping: try again in a moment")
        future: asyncio.Future[_Answer] = self._loop.create_future()
        with self._lock:
            self._calls.append(prepared(function, future, self._storing.heed, behind_frames=behind_frames))
        self._work.set()
        return await future

    def _delivered(self, outcomes: Sequence[Outcome], size: int) -> None:
        """Hand a tick's outcomes to their streams."""
        self._inflight -= size
        self._instruments.ingest_inflight_bytes.set(self._inflight)
        if self._inflight < self._settings.max_inflight_bytes:
            self._room.set()
        for outcome in outcomes:
            outcome.stream.take(outcome)

    def _notify(self, notices: Sequence[Notice], runs: dict[int, int]) -> None:
        """Send alerts down the streams of their runs; `runs` maps rank handles to runs."""
        for stream in self._streams:
            own = {runs.get(handle) for handle in stream.handles}
            for notice in notices:
                if notice.run_id in own:
                    stream.warn(notice)

    # ------------------------------------------------------------------------------------------------ on the worker

    def _run(self) -> None:
        try:
            behind = False
            while not self._stopping.is_set():
                # With steps left to judge, the next tick has been filling all the while.
                rest = _PACED_SECONDS if self._pipeline.waits else _IDLE_SECONDS
                if not behind and self._work.wait(rest):
                    self._stopping.wait(self._settings.tick_seconds)
                full = behind and self._backlog.is_full(self._steady_clock())
                with self.load.working():
                    behind = self._tick(full=full)
                self._pipeline.check()  # whoever has met a failed disk first: a call, a form or a chore
            self._tick()
            self._pipeline.stop(self._clock())
        except StorageError as error:
            # Fenced, or the disk has failed for good: going on would only lose more.
            self._post(self._on_fatal, error)
        except Exception as error:  # noqa: BLE001 (a mistake of ours must not leave a server that accepts and never stores)
            _log.exception("the log's worker has died")
            self._post(self._on_fatal, SeismogradError(f"the log's worker died: {type(error).__name__}: {error}"))

    def _tick(self, *, full: bool = False) -> bool:
        """Store, answer, judge; tell whether there is more to judge at once. `full`: take no frames, only judge."""
        self._work.clear()
        with self._lock:  # the calls first: the frames that one of them is behind are here then
            calls = [each for each in self._calls if not (full and each.behind_frames)]
            self._calls = [each for each in self._calls if full and each.behind_frames]
        now = self._clock()
        self._follow_clock(now)
        came = not full and self._store(now)
        self._storing.look(now)
        answers = [(call.behind_frames, call.work(now)) for call in calls]
        self._post(give, [answer for behind_frames, answer in answers if not behind_frames])
        if now - self._heard_at >= _HEAR_SECONDS or now < self._heard_at:
            self._heard_at = now
            self._hear(now)
        farewells = [answer for behind_frames, answer in answers if behind_frames]
        if came and not farewells and time.perf_counter() < self._judges_from:
            return False
        try:
            behind = self._judge(now)
        finally:
            # Farewells come last: who has closed a run finds it ended, and its steps judged, when it asks.
            self._post(give, farewells)
        self._tell(now)
        notices = self._pipeline.take_notices()
        if notices:
            self._on_commit()
            self._post(self._notify, notices, self._runs())
        return behind

    def _store(self, now: float) -> bool:
        """Store the frames that are here, and answer; False = there were none. No error of judging can keep them."""
        with self._lock:
            frames, self._frames = self._frames, []
        self._instruments.log_pending_messages.labels(partition="0").set(len(frames))
        if not frames:
            return False
        # Durable is all that an ack says: however slow the detectors are, no client waits for them.
        size = sum(len(frame.data) for frame in frames)
        self._post(self._delivered, self._storing.store(frames, now), size)
        self._backlog.came(size)
        return True

    def _judge(self, now: float) -> bool:
        """Let the pipeline judge. When many runs had few steps each, records alone are taken as long again.

        So a fleet that brings more turns than there is time for has more steps in each.
        """
        began = time.perf_counter()
        behind = self._pipeline.detect(now, crowded=self._backlog.is_full(self._steady_clock()))
        ended = time.perf_counter()
        self._judges_from = ended + (ended - began) * self._pipeline.hasty
        return behind

    def _follow_clock(self, now: float) -> None:
        """See whether the clock has been set (or the machine has slept) since the last tick: no wait ends by that."""
        if jump := self._jumps.since_last(now, self._steady_clock()):
            _log.warning("the clock has been set", seconds=round(jump, 1))
            self._pipeline.follow_clock(jump)

    def _tell(self, now: float) -> None:
        """Send what jobs are asked for down the streams that have not heard it; a new stream hears all of it again."""
        waited_for = self._pipeline.asking.waited_for
        if not waited_for:
            return
        told: list[tuple[str, int]] = []
        for stream in list(self._streams):
            for handle in stream.handles & waited_for:
                fresh = [
                    each
                    for each in self._pipeline.asking.untold(handle, now)
                    if (each.directive_id, handle) not in stream.told
                ]
                if fresh:
                    stream.told |= {(each.directive_id, handle) for each in fresh}
                    told += [(each.directive_id, handle) for each in fresh]
                    self._post(stream.ask, fresh)
        if told:
            with contextlib.suppress(StorageBusyError):  # that it was sent is worth a note, not a failure
                self._pipeline.asking.sent(told, now)

    def _hear(self, now: float) -> None:
        for handle in {handle for stream in list(self._streams) for handle in stream.handles}:
            with contextlib.suppress(IngestError, StorageError):  # a deleted run has nobody to hear
                self._pipeline.hear([handle], now)

    def _runs(self) -> dict[int, int]:
        runs = {}
        for handle in {handle for stream in list(self._streams) for handle in stream.handles}:
            with contextlib.suppress(IngestError, StorageError):
                runs[handle] = self._pipeline.book.sender(handle).rank.run_id
        return runs

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)
