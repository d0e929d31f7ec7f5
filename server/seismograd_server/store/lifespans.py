"""How long runs have been over, and how much they hold: what retention decides by, and its note of what it began."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update

from seismograd_server.errors import BeingDeletedError
from seismograd_server.model import AlertState, RunKey, RunState
from seismograd_server.store.alert_tables import alerts
from seismograd_server.store.schema import closed_blocks, launches, runs, segments

# Begins the failure reason of a run that is being deleted, piece by piece. It is where people see it, and no client can
# say it: what ranks say begins with the rank.
_BEING_DELETED = "being deleted: "


def refuse_if_being_deleted(run: RunKey, failure_reason: str) -> None:
    """Raises BeingDeletedError for a run whose deletion has begun: what it is given now would be deleted with it."""
    if failure_reason.startswith(_BEING_DELETED):
        raise BeingDeletedError(f"run {run} is being deleted: send again in a moment, and it begins anew")


@dataclass(frozen=True, slots=True)
class Lifespan:
    """What retention must know of one run."""

    run_id: int
    key: RunKey
    ended_at: float | None  # Unix seconds; None = it goes on
    size_bytes: int  # of its records and closed steps, as stored; 0 when it was not asked for
    alerts_open: bool
    deletion: str  # the reason for which its deletion has begun; empty = it has not


class LifespanRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, *, sizes: bool) -> list[Lifespan]:
        """Every run, the one that ended first before the others; `sizes` read a little of every segment."""
        size_bytes = self._sizes() if sizes else {}
        open_alerts = set(
            self._connection.scalars(select(alerts.c.run_id).where(alerts.c.state != AlertState.RESOLVED).distinct())
        )
        columns = (runs.c.run_id, runs.c.project, runs.c.run, runs.c.state, runs.c.ended_at, runs.c.failure_reason)
        found = [
            Lifespan(
                row.run_id,
                RunKey(row.project, row.run),
                None if row.state == RunState.RUNNING else row.ended_at,
                size_bytes.get(row.run_id, 0),
                row.run_id in open_alerts,
                row.failure_reason.removeprefix(_BEING_DELETED)
                if row.failure_reason.startswith(_BEING_DELETED)
                else "",
            )
            for row in self._connection.execute(select(*columns).order_by(runs.c.run_id))
        ]
        return sorted(found, key=lambda each: (each.ended_at is None, each.ended_at or 0.0, each.run_id))

    def begin_deletion(self, span: Lifespan, reason: str) -> bool:
        """Note that a run is being deleted, and why; False when it goes on, is gone, or has an open alert by now."""
        opened = select(alerts.c.alert_row).where(alerts.c.run_id == span.run_id, alerts.c.state != AlertState.RESOLVED)
        changed = self._connection.execute(
            update(runs)
            .where(runs.c.run_id == span.run_id, runs.c.state != RunState.RUNNING, ~opened.exists())
            .values(failure_reason=_BEING_DELETED + reason)
        )
        return bool(changed.rowcount)

    def is_being_deleted(self, run_id: int) -> bool:
        """Whether the deletion of a run has begun, and nobody has ended it: by deleting the run, or by reviving it."""
        reason = self._connection.scalar(select(runs.c.failure_reason).where(runs.c.run_id == run_id))
        return reason is not None and reason.startswith(_BEING_DELETED)

    def _sizes(self) -> dict[int, int]:
        of_segments = (
            select(launches.c.run_id, func.sum(func.length(segments.c.payload)).label("size"))
            .join_from(segments, launches)
            .group_by(launches.c.run_id)
        )
        of_steps = select(
            closed_blocks.c.run_id, func.sum(func.length(closed_blocks.c.payload)).label("size")
        ).group_by(closed_blocks.c.run_id)
        sizes: dict[int, int] = {}
        for statement in (of_segments, of_steps):
            for row in self._connection.execute(statement):
                sizes[row.run_id] = sizes.get(row.run_id, 0) + int(row.size)
        return sizes
