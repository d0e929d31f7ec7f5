"""The one delivery worker: takes what is due from the outbox, and tells every target, at least once.

    outbox --due--> lane of its target --send--> delivered | try again later | dropped and counted
    firing alerts --every resend_seconds--> lane of each target that forgets

A lane sends one request at a time and keeps the order of its notifications, also over failures: while the oldest one
waits, those behind it wait. What is held back (`holding.py`) holds up only its own alert. A target that hangs holds up
nobody else. Calls of the store block, and run in a thread.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence

import structlog

from seismograd_server.errors import StorageError, StorageFencedError
from seismograd_server.instruments import Instruments
from seismograd_server.notify.endpoint import Target
from seismograd_server.notify.holding import not_held
from seismograd_server.notify.lane import DEFAULT_POLICY, DeliveryPolicy, Lane
from seismograd_server.notify.reminders import reminders
from seismograd_server.store.database import Database
from seismograd_server.store.outbox import OutboxEntry

_log = structlog.get_logger(__name__)

# Entries of one target looked at in one go.
_LIMIT = 500
# A row whose target is not configured is looked at again after this: the operator may put it back.
_UNKNOWN_TARGET_SECONDS = 300.0
# How long finished rows are kept, for whoever asks what was sent; and how often old ones are deleted.
_KEEP_FINISHED_SECONDS = 7 * 24 * 3600.0
_PRUNE_EVERY_SECONDS = 3600.0
# How long a stop waits for requests in flight: a little longer than one may take.
_STOP_SECONDS = 6.0


class Worker:
    """Delivers notifications: `run` in a task, `wake` after each commit that wrote entries, `stop` at the end."""

    def __init__(
        self,
        database: Database,
        targets: Sequence[Target],
        instruments: Instruments,
        clock: Callable[[], float] = time.time,
        *,
        policy: DeliveryPolicy = DEFAULT_POLICY,
        external_url: str = "",
        runbooks_url: str = "",
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._database = database
        self._instruments = instruments
        self._clock = clock
        self._policy = policy
        self._external_url = external_url
        self._runbooks_url = runbooks_url
        self._lanes = {
            target.name: Lane(target, database, instruments, clock=clock, policy=policy, jitter=jitter)
            for target in targets
        }
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._awake = asyncio.Event()
        self._finished = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._next_reminder_at = 0.0
        self._next_prune_at = 0.0

    async def run(self) -> None:
        """Deliver until `stop`, waiting out every failure of the store but one.

        Raises:
            StorageFencedError: another server owns the database now, and delivers from it.
        """
        self._loop = asyncio.get_running_loop()
        try:
            while not self._stopping:
                self._awake.clear()
                try:
                    await self.tick()
                except StorageFencedError:
                    raise
                except StorageError as error:
                    self._note_storage_failure(error)
                await self._rest()
        finally:
            await self._settle()
            self._finished.set()

    async def stop(self) -> None:
        """End `run`. What is in flight is given a few seconds; everything else stays in the outbox."""
        self._stopping = True
        self._awake.set()
        if self._loop is not None:
            await self._finished.wait()

    def wake(self) -> None:
        """Look at the outbox now; may be called from any thread at any time."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._awake.set)

    async def tick(self) -> None:
        """Start whatever can be sent now, and return without waiting for it.

        Raises:
            StorageError: the outbox cannot be read, or a delivery could not be recorded as such.
        """
        self._collect()
        now = self._clock()
        for name, rows in (await asyncio.to_thread(self._read, now)).items():
            lane = self._lanes.get(name)
            if lane is None:
                if unknown := [row for row in rows if _is_due(row, now, _UNKNOWN_TARGET_SECONDS)]:
                    await asyncio.to_thread(self._postpone_unknown, unknown, now)
            # The oldest row decides for all of its lane, so that no news overtakes older news.
            elif rows and name not in self._in_flight and _is_due(rows[0], now, self._policy.longest_retry_seconds):
                self._start(name, lane.deliver(rows))
        self._remind(now)
        if not 0 < self._next_prune_at - now <= _PRUNE_EVERY_SECONDS:
            self._next_prune_at = now + _PRUNE_EVERY_SECONDS
            await asyncio.to_thread(self._prune, now)

    async def drain(self) -> None:
        """Wait until everything that has been started is over."""
        while self._in_flight:
            await asyncio.wait(self._in_flight.values())
            self._collect()

    def _remind(self, now: float) -> None:
        # A clock that was set back must not silence the reminders: Alertmanager would take every alert for resolved.
        if 0 < self._next_reminder_at - now <= self._policy.resend_seconds:
            return
        self._next_reminder_at = now + self._policy.resend_seconds
        for name, lane in self._lanes.items():
            # A lane that is delivering has its turn with the next round; four of them may fail.
            if lane.target.resends and name not in self._in_flight:
                self._start(name, self._remind_lane(lane))

    async def _remind_lane(self, lane: Lane) -> None:
        # Read in the lane's own turn, so that no reminder overtakes the word that its alert is resolved.
        notes = await asyncio.to_thread(
            reminders,
            self._database,
            lane.target,
            self._clock(),
            self._policy.repeat_resolved_seconds,
            external_url=self._external_url,
            runbooks_url=self._runbooks_url,
        )
        await lane.remind(notes)

    def _start(self, name: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=f"notify {name}")
        # News may have come while the lane was busy.
        task.add_done_callback(lambda _: self._awake.set())
        self._in_flight[name] = task

    def _collect(self) -> None:
        """Take finished tasks off the books; the first failure among them is raised, after all have been looked at."""
        failures: list[BaseException] = []
        for name, task in list(self._in_flight.items()):
            if task.done():
                del self._in_flight[name]
                failure = None if task.cancelled() else task.exception()
                if failure is not None:
                    failures.append(failure)
        failures.sort(key=lambda failure: not isinstance(failure, StorageFencedError))
        if failures:
            raise failures[0]

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._policy.poll_seconds):
                await self._awake.wait()
        except TimeoutError:
            return

    async def _settle(self) -> None:
        tasks = list(self._in_flight.values())
        if not tasks:
            return
        _, unfinished = await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        for task in unfinished:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, StorageError):
                self._note_storage_failure(result)

    def _note_storage_failure(self, error: StorageError) -> None:
        self._instruments.storage_errors.labels(op="notify").inc()
        _log.warning("the outbox is not available; trying again", reason=str(error))

    def _read(self, now: float) -> dict[str, list[OutboxEntry]]:
        """Rows that are due, and those that wait for their next attempt, because order is kept among all of them."""
        with self._database.read() as transaction:
            entries = transaction.outbox.waiting(_LIMIT)
            for name, rows in entries.items():
                hold = self._lanes[name].target.hold_resolved_seconds if name in self._lanes else 0.0
                if hold > 0:
                    delivered_at = transaction.outbox.delivered_at(name, {row.alert_id for row in rows})
                    entries[name] = not_held(rows, delivered_at, hold, now)
            self._instruments.notifications_pending.set(transaction.outbox.pending_count())
        return entries

    def _postpone_unknown(self, entries: Sequence[OutboxEntry], now: float) -> None:
        with self._database.begin() as transaction:
            for entry in entries:
                too_old = now - entry.created_at >= self._policy.give_up_seconds
                retry_at = None if too_old else now + _UNKNOWN_TARGET_SECONDS
                if entry.entry_id is not None:
                    transaction.outbox.failed(entry.entry_id, now, retry_at, "no such target is configured")

    def _prune(self, now: float) -> None:
        with self._database.begin() as transaction:
            transaction.outbox.prune(now - _KEEP_FINISHED_SECONDS)


def _is_due(entry: OutboxEntry, now: float, longest_wait: float) -> bool:
    # No row waits so long: the clock has been set back, and would hold the notification up by as much.
    return not now < entry.due_at <= now + longest_wait
