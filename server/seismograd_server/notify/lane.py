"""One target's lane: sends its notifications one request at a time, in order, and writes down what became of each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from seismograd_server.errors import DeliveryError, PermanentDeliveryError, TransientDeliveryError
from seismograd_server.instruments import Instruments
from seismograd_server.notify.endpoint import Target
from seismograd_server.store.database import Database
from seismograd_server.store.outbox import OutboxEntry

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How patient deliveries are; all in seconds.

    Attributes:
        resend_seconds: how often a firing alert is repeated to a target that forgets it otherwise.
        repeat_resolved_seconds: for how long a resolved one is repeated to such a target.
        first_retry_seconds: the first wait is drawn from 0 to this; each further one from twice as much.
        longest_retry_seconds: the largest wait to draw from; a target that is up again hears within this.
        give_up_seconds: how long one notification is tried.
        poll_seconds: how often the outbox is looked at when nobody wakes the worker.
    """

    resend_seconds: float = 30.0
    repeat_resolved_seconds: float = 300.0
    first_retry_seconds: float = 0.5
    longest_retry_seconds: float = 60.0
    give_up_seconds: float = 24 * 3600.0
    poll_seconds: float = 1.0


DEFAULT_POLICY = DeliveryPolicy()


class Lane:
    """What happens between the outbox and one target. At most one of its coroutines may run at a time."""

    def __init__(
        self,
        target: Target,
        database: Database,
        instruments: Instruments,
        *,
        clock: Callable[[], float],
        policy: DeliveryPolicy,
        jitter: Callable[[float, float], float],
    ) -> None:
        self.target = target
        self._database = database
        self._instruments = instruments
        self._clock = clock
        self._policy = policy
        self._jitter = jitter
        # Delivered, and the store would not take it down: to be recorded later, not to be sent every second until then.
        self._unrecorded: set[int] = set()
        for result in ("delivered", "retried", "dropped", "expired", "reminded", "not_reminded"):
            instruments.notifications.labels(target=target.name, result=result)

    async def deliver(self, entries: Sequence[OutboxEntry]) -> None:
        """Send entries in the order in which they were written, and record the result of each.

        Raises:
            StorageError: a result could not be recorded; that is tried again with the next delivery.
        """
        waiting = sorted(entries, key=_number)
        known = [entry for entry in waiting if _number(entry) in self._unrecorded]
        if known:
            await asyncio.to_thread(self._record_delivery, known)
            waiting = [entry for entry in waiting if entry not in known]
        try:
            while waiting:
                batch = waiting[: self.target.batch_size]
                await self._send_batch(batch, waiting)
        except TransientDeliveryError as error:
            await self._postpone(waiting, str(error))

    async def remind(self, notes: Sequence[Mapping[str, Any]]) -> None:
        """Repeat what the target must not forget. A failure is counted, and made good by the next reminder."""
        now = self._clock()
        for start in range(0, len(notes), self.target.batch_size):
            batch = notes[start : start + self.target.batch_size]
            try:
                await self._send(batch, now)
            except PermanentDeliveryError:
                await self._remind_one_by_one(batch, now)
            except TransientDeliveryError as error:
                _log.info("a reminder did not arrive", target=self.target.name, reason=str(error))
                self._count("not_reminded", len(notes) - start)
                return
            else:
                self._count("reminded", len(batch))

    async def _remind_one_by_one(self, batch: Sequence[Mapping[str, Any]], now: float) -> None:
        for note in batch:
            try:
                await self._send([note], now)
            except DeliveryError as error:
                _log.info("a reminder did not arrive", target=self.target.name, reason=str(error))
                self._count("not_reminded")
            else:
                self._count("reminded")

    async def _send_batch(self, batch: list[OutboxEntry], waiting: list[OutboxEntry]) -> None:
        """Send one request; take from `waiting` what is settled. A refused batch is sent again one by one."""
        try:
            await self._send([json.loads(entry.payload) for entry in batch], self._clock())
        except (PermanentDeliveryError, ValueError) as error:
            if len(batch) > 1:
                for entry in batch:
                    await self._send_batch([entry], waiting)
                return
            self._note_lost(batch, str(error))
            await asyncio.to_thread(self._record_failures, batch, None, str(error))
            self._count("dropped")
        else:
            self._unrecorded.update(_number(entry) for entry in batch)
            await asyncio.to_thread(self._record_delivery, batch)
        del waiting[: len(batch)]

    async def _send(self, notes: Sequence[Mapping[str, Any]], now: float) -> None:
        try:
            await self.target.send(notes, now)
        except DeliveryError:
            raise
        except Exception as error:
            # A mistake in one target must not silence the others; it is loud here, and tried again.
            _log.exception("a notification target raised", target=self.target.name)
            raise TransientDeliveryError(f"{type(error).__name__}: {error}") from error

    async def _postpone(self, entries: Sequence[OutboxEntry], reason: str) -> None:
        """All wait for the same moment, so that none overtakes another; those that are too old are given up."""
        now = self._clock()
        expired = [entry for entry in entries if now - entry.created_at >= self._policy.give_up_seconds]
        waiting = [entry for entry in entries if now - entry.created_at < self._policy.give_up_seconds]
        attempts = max((entry.attempts for entry in waiting), default=0)
        # Full jitter: servers that lost the same target do not come back to it at the same moment.
        doubled = self._policy.first_retry_seconds * 2.0 ** min(attempts, 30)
        retry_at = now + self._jitter(0.0, min(self._policy.longest_retry_seconds, doubled))
        if waiting:
            _log.warning("notifications wait", target=self.target.name, count=len(waiting), reason=reason)
        self._note_lost(expired, reason)
        await asyncio.to_thread(self._record_failures, waiting, retry_at, reason)
        await asyncio.to_thread(self._record_failures, expired, None, reason)
        self._count("retried", len(waiting))
        self._count("expired", len(expired))

    def _note_lost(self, entries: Sequence[OutboxEntry], reason: str) -> None:
        """Name the alerts of which this target will not hear: nobody else does."""
        for entry in entries:
            _log.error("a notification is dropped", target=self.target.name, alert=entry.alert_id, reason=reason)

    def _record_delivery(self, entries: Sequence[OutboxEntry]) -> None:
        now = self._clock()
        with self._database.begin() as transaction:
            for entry in entries:
                transaction.outbox.delivered(_number(entry), now)
        for entry in entries:
            self._unrecorded.discard(_number(entry))
            self._instruments.notification_latency.observe(max(0.0, now - entry.created_at))
        self._count("delivered", len(entries))

    def _record_failures(self, entries: Sequence[OutboxEntry], retry_at: float | None, reason: str) -> None:
        if not entries:
            return
        with self._database.begin() as transaction:
            for entry in entries:
                transaction.outbox.failed(_number(entry), self._clock(), retry_at, reason)

    def _count(self, result: str, amount: int = 1) -> None:
        self._instruments.notifications.labels(target=self.target.name, result=result).inc(amount)


def _number(entry: OutboxEntry) -> int:
    """Entries are numbered in the order in which they were written."""
    if entry.entry_id is None:
        raise ValueError(f"outbox entry {entry.dedupe_key} was never stored")
    return entry.entry_id
