"""Old runs are downsampled: of their single steps only those around incidents and at their ends stay, and summaries.

    runs that ended long enough ago -> is every step of them summarised? -> what is kept -> row by row, the rest goes

Rows go whole: one that touches what is kept stays as it is, bit for bit. Minima, maxima, means and counts of every
stretch of steps were stored before, so that every chart of the whole run looks as it did. Nothing has to be noted: a
run that a crash left half done is looked at again, and one that is done has no row that could go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import structlog

from seismograd_server.instruments import Instruments
from seismograd_server.maintenance.retention import RetentionPolicy
from seismograd_server.model import Alert, AlertState, Severity, Signature, joined_ranges
from seismograd_server.pipeline import FailurePoint
from seismograd_server.reading.lines import Stretch, visible_stretches
from seismograd_server.store.database import Database
from seismograd_server.store.downsampling import Dropped, Kept
from seismograd_server.store.lifespans import Lifespan

_log = structlog.get_logger(__name__)

_DAY_SECONDS = 86_400.0
# Between two looks at all runs: days are counted here.
_LOOK_SECONDS = 60.0
# Let go of in one transaction: some ten milliseconds that an ack may have to wait.
_PIECE_BYTES = 4 * 2**20
# Steps kept before and behind an incident: what was usual before it, and what came of it.
_AROUND = 1024
# And where a run, or a part of it behind a rewind, begins and ends: of buckets that are cut there, single steps tell.
_ENDS = 1024
# Alerts of one run: far more than one opens.
_ALERTS = 10_000


def kept_of(optimizer: int, stretches: Sequence[Stretch], alerts: Sequence[Alert]) -> Kept:
    """Which steps of one optimizer stay as they are: those of every incident, and at the ends of every stretch. Pure.

    An incident is an alert of warning or worse that was more than pending.
    """
    windows = [
        (alert.since_step - _AROUND, alert.last_step + _AROUND)
        for alert in alerts
        if alert.severity >= Severity.WARNING
        and alert.state is not AlertState.PENDING
        and alert.signature is not Signature.FLEET
    ]
    for stretch in stretches:
        windows.append((stretch.first_step, stretch.first_step + _ENDS - 1))
        windows.append((stretch.last_step - _ENDS + 1, stretch.last_step))
    return Kept(optimizer, tuple(joined_ranges(windows)))


def is_summarised(stretches: Sequence[Stretch]) -> bool:
    """Whether the summaries have every step that is to be seen. Pure."""
    return all(
        stretch.line.summarised_to is not None and stretch.line.summarised_to >= stretch.last_step
        for stretch in stretches
    )


class Downsampling:
    """The chore. Points of failure: `downsample.before_commit`, `downsample.after_commit`."""

    name = "downsample"

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
        self._pieces: Iterator[None] | None = None
        self._done: dict[int, float] = {}  # run id -> when it had ended, as it was when this was done

    def step(self, now: float) -> bool:
        """Let go of a piece of a run, or look at all runs; tell whether there is more to do at once.

        Raises:
            StorageError: nothing of this piece has been changed.
        """
        if self._pieces is None:
            none_asked = all(keep.detail_days is None for keep in self._policy.limits)
            if none_asked or (self._looked_at is not None and abs(now - self._looked_at) < _LOOK_SECONDS):
                return False
            self._looked_at, self._pieces = now, self._pass(now)
        pieces, self._pieces = self._pieces, None  # a pass that fails is over: the next look begins again
        if next(pieces, self) is self:
            return False
        self._pieces = pieces
        return True

    def _pass(self, now: float) -> Iterator[None]:
        with self._database.read() as transaction:
            spans = transaction.lifespans.list(sizes=False)
        for span in spans:
            days = self._policy.of(span.key.project).detail_days
            if days is None or span.ended_at is None or span.alerts_open or span.deletion:
                continue
            if now - span.ended_at > days * _DAY_SECONDS and self._done.get(span.run_id) != span.ended_at:
                yield from self._run(span)
        self._done = {span.run_id: self._done[span.run_id] for span in spans if span.run_id in self._done}

    def _run(self, span: Lifespan) -> Iterator[None]:
        with self._database.read() as transaction:
            lines = transaction.steps.lines(span.run_id)
            alerts = transaction.alerts.list(project=span.key.project, run=span.key.run, limit=_ALERTS)
        optimizers = sorted({line.optimizer for line in lines})
        seen = {each: visible_stretches([line for line in lines if line.optimizer == each]) for each in optimizers}
        if not all(is_summarised(stretches) for stretches in seen.values()):
            return  # it will be, in a moment
        rows = 0
        for optimizer, stretches in seen.items():
            kept = kept_of(optimizer, stretches, alerts)
            for what in ("segments", "blocks"):
                after: int | None = 0
                while after is not None:
                    dropped = self._piece(span.run_id, what, kept, after)
                    if dropped is None:
                        return  # it goes on, or is gone
                    after, rows = dropped.after, rows + dropped.rows
                    yield
        if span.ended_at is not None:
            self._done[span.run_id] = span.ended_at
        if rows:
            self._instruments.retention_downsampled_runs.inc()
            _log.info("a run has been downsampled", run=str(span.key), rows=rows)

    def _piece(self, run_id: int, what: str, kept: Kept, after: int) -> Dropped | None:
        with self._database.begin() as transaction:
            if not transaction.downsampling.is_over(run_id):
                return None
            store = transaction.downsampling
            drop = store.drop_segments if what == "segments" else store.drop_blocks
            dropped = drop(run_id, kept, after, _PIECE_BYTES)
            self._failure_point("downsample.before_commit")
        self._failure_point("downsample.after_commit")
        return dropped
