"""The transactional outbox: notifications written with the alert that causes them, delivered at least once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update

from seismograd_server.store.schema import outbox
from seismograd_server.store.upsert import insert_into


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One notification for one target.

    `dedupe_key` names the change and the target: a second entry with the same key is not stored.
    """

    entry_id: int | None  # None = not stored yet
    target: str
    alert_id: str
    created_at: float
    due_at: float
    attempts: int
    payload: str  # JSON
    last_error: str
    dedupe_key: str


# Not "is not null", which would read the finished rows of a week: a range is looked up in the index.
_PENDING = outbox.c.due_at >= 0.0


class OutboxRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, entries: Sequence[OutboxEntry]) -> int:
        """Store entries, and tell how many were new by their `dedupe_key`."""
        statement = (
            insert_into(self._connection, outbox)
            .on_conflict_do_nothing(index_elements=[outbox.c.dedupe_key])
            .returning(outbox.c.entry_id)
        )
        added = 0
        for entry in entries:  # a handful at a time
            made = self._connection.execute(
                statement.values(
                    dedupe_key=entry.dedupe_key,
                    target=entry.target,
                    alert_id=entry.alert_id,
                    created_at=entry.created_at,
                    due_at=entry.due_at,
                    attempts=entry.attempts,
                    payload=entry.payload,
                    last_error=entry.last_error,
                    delivered=0,
                )
            )
            added += made.first() is not None
        return added

    def due(self, now: float, limit: int = 100) -> list[OutboxEntry]:
        """Entries to send now, the longest due first."""
        rows = self._connection.execute(
            select(outbox).where(outbox.c.due_at <= now).order_by(outbox.c.due_at, outbox.c.entry_id).limit(limit)
        )
        return [_entry(row) for row in rows]

    def waiting(self, limit_each: int = 100) -> dict[str, list[OutboxEntry]]:
        """By target, its oldest entries that are not delivered, due or not, in the order in which they were written.

        So many of each, so that a target that is down crowds out nobody else.
        """
        targets = self._connection.scalars(select(outbox.c.target).where(_PENDING).distinct()).all()
        of_one = select(outbox).where(_PENDING, outbox.c.target == bindparam("of"))
        # An expression, because in the order of the table itself every finished row would be passed.
        of_one = of_one.order_by(outbox.c.entry_id + 0).limit(limit_each)
        return {target: [_entry(row) for row in self._connection.execute(of_one, {"of": target})] for target in targets}

    def waiting_alerts(self, target: str) -> set[str]:
        """The alerts of which something is not delivered to a target yet."""
        return set(self._connection.scalars(select(outbox.c.alert_id).where(_PENDING, outbox.c.target == target)))

    def delivered_at(self, target: str, alert_ids: Collection[str]) -> dict[str, float]:
        """When something of these alerts was last delivered to a target; those of which nothing was are missing."""
        statement = (
            select(outbox.c.alert_id, func.max(outbox.c.finished_at))
            .where(outbox.c.target == target, outbox.c.alert_id.in_(alert_ids), outbox.c.delivered == 1)
            .group_by(outbox.c.alert_id)
        )
        return {row[0]: row[1] for row in self._connection.execute(statement)}

    def delivered(self, entry_id: int, now: float) -> None:
        """The target has accepted it."""
        self._finish(entry_id, now, delivered=1, error="")

    def failed(self, entry_id: int, now: float, retry_at: float | None, error: str) -> None:
        """An attempt failed; `retry_at` None = never try again (it is kept until pruned, with its error)."""
        if retry_at is None:
            self._finish(entry_id, now, delivered=0, error=error)
            return
        self._connection.execute(
            update(outbox)
            .where(outbox.c.entry_id == entry_id)
            .values(due_at=retry_at, attempts=outbox.c.attempts + 1, last_error=error)
        )

    def next_due_at(self) -> float | None:
        """When the next entry is due; None = nothing is pending."""
        due_at: float | None = self._connection.scalar(select(func.min(outbox.c.due_at)))
        return due_at

    def pending_count(self) -> int:
        """How many entries wait for delivery."""
        statement = select(func.count()).select_from(outbox).where(_PENDING)
        return self._connection.scalars(statement).one()

    def oldest_pending_at(self) -> float | None:
        """When the oldest entry that still waits was created; None = nothing is pending."""
        oldest: float | None = self._connection.scalar(select(func.min(outbox.c.created_at)).where(_PENDING))
        return oldest

    def prune(self, before: float) -> int:
        """Forget entries that were finished before that time, and tell how many."""
        return self._connection.execute(delete(outbox).where(outbox.c.finished_at < before)).rowcount

    def _finish(self, entry_id: int, now: float, *, delivered: int, error: str) -> None:
        self._connection.execute(
            update(outbox)
            .where(outbox.c.entry_id == entry_id)
            .values(due_at=None, finished_at=now, delivered=delivered, attempts=outbox.c.attempts + 1, last_error=error)
        )


def _entry(row: Row[tuple[object, ...]]) -> OutboxEntry:
    return OutboxEntry(
        entry_id=row.entry_id,
        target=row.target,
        alert_id=row.alert_id,
        created_at=row.created_at,
        due_at=row.due_at,
        attempts=row.attempts,
        payload=row.payload,
        last_error=row.last_error,
        dedupe_key=row.dedupe_key,
    )
