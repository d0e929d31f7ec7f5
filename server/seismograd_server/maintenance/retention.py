"""Old runs are deleted: those that ended too long ago, and the oldest ones of a project that holds too much.

    plan: runs, limits, now -> which ones, the oldest first, and why        (pure)
    step: note that it has begun -> piece by piece -> the run itself -> give the space back

A run that goes on, or of which an alert is open, is never deleted; open alerts of an ended run are resolved by
acknowledgement, or by themselves after a day. That a deletion has begun is stored before anything is deleted: one that
a crash has interrupted is finished by the next server, so that no run is ever left with holes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from seismograd_server.instruments import Instruments
from seismograd_server.pipeline import FailurePoint
from seismograd_server.store.database import Database
from seismograd_server.store.lifespans import Lifespan

_log = structlog.get_logger(__name__)

_DAY_SECONDS = 86_400.0
# Between two looks at all runs: days are counted here.
_LOOK_SECONDS = 60.0
# Deleted, or given back to the file system, in one transaction: some ten milliseconds that an ack may have to wait.
_PIECE_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of a project is kept.

    Attributes:
        days: since a run ended; None = for ever.
        size_bytes: records and closed steps of all its runs, as stored; None = without limit.
        detail_days: since a run ended, with every single step of it (see `downsampling.py`); None = as long as it.
    """

    days: float | None = None
    size_bytes: int | None = None
    detail_days: float | None = None


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What is kept, of each project; the default keeps everything."""

    every: Keep = field(default_factory=Keep)
    projects: Mapping[str, Keep] = field(default_factory=dict)  # those that differ

    def of(self, project: str) -> Keep:
        """What is kept of a project."""
        return self.projects.get(project, self.every)

    @property
    def limits(self) -> tuple[Keep, ...]:
        """Everything that is said of any project."""
        return (self.every, *self.projects.values())


@dataclass(frozen=True, slots=True)
class Expiry:
    """A run that is to be deleted."""

    span: Lifespan
    reason: str  # "age" or "size"


def plan(spans: Sequence[Lifespan], policy: RetentionPolicy, now: float) -> list[Expiry]:
    """Which runs are to be deleted, the one that ended first before the others, and why."""
    expiries: list[Expiry] = []
    held: dict[str, int] = {}
    for span in spans:
        held[span.key.project] = held.get(span.key.project, 0) + span.size_bytes
    for span in sorted(spans, key=lambda each: (each.ended_at or 0.0, each.run_id)):
        if span.ended_at is None or span.alerts_open:
            continue
        keep = policy.of(span.key.project)
        reason = span.deletion
        if not reason and keep.days is not None and now - span.ended_at > keep.days * _DAY_SECONDS:
            reason = "age"
        if not reason and keep.size_bytes is not None and held[span.key.project] > keep.size_bytes:
            reason = "size"
        if reason:
            held[span.key.project] -= span.size_bytes
            expiries.append(Expiry(span, reason))
    return expiries


class Retention:
    """The chore."""

    name = "retention"

    def __init__(
        self,
        database: Database,
        policy: RetentionPolicy,
        instruments: Instruments,
        failure_point: FailurePoint = lambda name: None,  # noqa: ARG005 (nothing fails)
    ) -> None:
        self._database = database
        self._policy = policy
        self._instruments = instruments
        self._failure_point = failure_point
        self._looked_at: float | None = None
        self._waiting: list[Expiry] = []
        self._begun = False  # whether the deletion of the first one in wait has begun
        self._freed = False  # whether there may be space to give back

    def step(self, now: float) -> bool:
        """Delete a piece of a run, or give some space back; tell whether there is more to do at once.

        Raises:
            StorageError: nothing of this piece has been changed.
        """
        if self._waiting:
            self._delete_piece(self._waiting[0])
        elif self._freed:
            self._freed = self._database.reclaim(_PIECE_BYTES) > 0
        elif self._looked_at is None or abs(now - self._looked_at) >= _LOOK_SECONDS:
            self._looked_at = now
            self._look(now)
        return bool(self._waiting) or self._freed

    def _look(self, now: float) -> None:
        sizes = any(keep.size_bytes is not None for keep in self._policy.limits)
        with self._database.read() as transaction:
            spans = transaction.lifespans.list(sizes=sizes)
        self._waiting = plan(spans, self._policy, now)
        expired = {expiry.span.run_id for expiry in self._waiting}
        kept = [span.ended_at for span in spans if span.ended_at is not None and span.run_id not in expired]
        self._instruments.retention_oldest.set(min(kept, default=now))

    def _delete_piece(self, expiry: Expiry) -> None:
        """In one transaction; what follows from it is taken in when that is committed."""
        more, begun = True, True
        with self._database.begin() as transaction:
            if not self._begun:
                more = begun = transaction.lifespans.begin_deletion(expiry.span, expiry.reason)
            elif not transaction.lifespans.is_being_deleted(expiry.span.run_id):
                more = begun = False
            elif not transaction.runs.delete_part(expiry.span.run_id, _PIECE_BYTES):
                more = False
                transaction.runs.delete(expiry.span.run_id)
            self._failure_point("retention.before_commit")
        self._failure_point("retention.after_commit")
        self._begun = more
        if more:
            return
        self._waiting = self._waiting[1:]
        if begun:
            self._freed = True
            self._instruments.retention_deleted_runs.labels(reason=expiry.reason).inc()
            _log.info("a run has been deleted", run=str(expiry.span.key), reason=expiry.reason)
