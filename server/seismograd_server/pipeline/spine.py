"""The spine of the server. Read it first: every record goes through these two transactions, in this order.

    open_rank                 a process says who it is
    ingest  (transaction 1)   records + what has been received of each stream -> commit -> receipts (the acks)
    detect  (transaction 2)   closed steps + alert transitions + outbox + progress + detector checkpoint -> commit

Between the two lies nothing but memory: whatever is stored and not yet judged is found again after a restart
(`restoring.py`), and judged as if nothing had happened. When transaction 2 fails, the runs concerned are thrown away in
memory and rebuilt from the store: the same path as a restart, so that there is only one to get right.

An ack says that records are durable, and nothing about what the detectors think of them: it is given between the
two, so that a detector that is slow, or a run that is far behind, costs no client its memory. A farewell is answered
behind transaction 2, for whoever ends a run wants to see how it ended.

Everything here runs on one thread (the log's worker), except `snapshot`. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import structlog

from seismograd_server.errors import (
    NotFoundError,
    StorageBusyError,
    StorageError,
    StorageFencedError,
    StorageUncertainError,
)
from seismograd_server.instruments import Instruments
from seismograd_server.model import Catalog, RankIdentity, RecordKind, RunState, Snapshot, StepBatch, Transition
from seismograd_server.pipeline.arrivals import Arrival, Notice, Opened, Receipt
from seismograd_server.pipeline.asking import Asking
from seismograd_server.pipeline.capacity import Capacity
from seismograd_server.pipeline.engine import PipelineSettings, RunEngine
from seismograd_server.pipeline.fleet import Fleet
from seismograd_server.pipeline.judging import Job, OutboxEntries, save_states, take_turns, write
from seismograd_server.pipeline.ranks import RankBook, Sender, read_sender
from seismograd_server.pipeline.receiving import Intake, commit_to_book, count, report_health, show_spools, take_in
from seismograd_server.store.database import Database, Transaction

FailurePoint = Callable[[str], None]
"""Called with the name of a point in the spine; tests make it raise, or kill the process, to prove what survives."""

_log = structlog.get_logger(__name__)
# A store that is busy or full is asked again after this: rebuilding what it refused costs a replay each time.
_RETRY_SECONDS = 1.0
# Below this what a turn costs anyway is more than what its steps cost.
_SMALL_TURN_STEPS = 32


class Pipeline:
    """Stores what arrives, closes steps, judges them, and keeps the picture of all live runs."""

    def __init__(
        self,
        database: Database,
        instruments: Instruments,
        settings: PipelineSettings,
        entries_for: OutboxEntries = lambda transition, now: (),  # noqa: ARG005 (nobody is to be told)
        failure_point: FailurePoint = lambda name: None,  # noqa: ARG005 (nothing fails)
    ) -> None:
        self._database = database
        self._instruments = instruments
        self._settings = settings
        self._entries_for = entries_for
        self._failure_point = failure_point
        self._book = RankBook(database)
        self._fleet = Fleet(database, instruments, settings, self._book)
        self.capacity = Capacity(database, self._fleet, self._book, instruments, settings.standing_bytes)
        self.asking = Asking(database, self._book, settings.capture)  # what jobs are asked for
        self._notices: list[Notice] = []
        self.hasty = False  # whether the runs that were judged last would better have waited for more of their steps
        self._failed_at: float | None = None  # when the store last refused what was judged

    @property
    def book(self) -> RankBook:
        """The ranks that may send."""
        return self._book

    def start(self, now: float) -> None:
        """Take up every run where the last server left it.

        Raises:
            StorageError: the store cannot be read.
        """
        self._fleet.start(now)
        self.asking.start(now)

    def stop(self, now: float) -> None:
        """Judge what is left and store the detectors' state, so that the next start has nothing to replay."""
        while self.detect(now, hurry=True):
            pass
        with self._database.begin() as transaction:
            save_states(transaction, [(engine, each) for engine in self._fleet for each in engine.series], now)

    def snapshot(self) -> Snapshot:
        """All live runs, at the moment of the last `detect`. From any thread."""
        return self._fleet.snapshot

    def waiting_bytes(self) -> int:
        """Bytes of durable records that wait to be judged, about."""
        return sum(engine.waiting_bytes for engine in self._fleet)

    def follow_clock(self, seconds: float) -> None:
        """The clock has been set forward by so much (back, when negative): no wait ends sooner or later for that."""
        self._failed_at = None if self._failed_at is None else self._failed_at + seconds
        self._fleet.follow_clock(seconds)

    def take_notices(self) -> list[Notice]:
        """Alerts that changed since the last call."""
        notices, self._notices = self._notices, []
        return notices

    # ---------------------------------------------------------------------------------------------- opening, closing

    def open_rank(self, identity: RankIdentity, catalogs: Sequence[Catalog], now: float) -> Opened:
        """Give a process its handle, and tell it what is durable already.

        Raises:
            RankTakenError, LaunchConflictError: what it says contradicts what is known.
            InvalidBatchError: a catalog's version is known with other parameters.
            LimitError: there is no room for it.
            StorageError: nothing has been changed.
        """
        self.capacity.admit_rank(identity, catalogs, now)
        with self._database.begin() as transaction:
            opened = transaction.runs.open_rank(identity, now)
            for catalog in catalogs:
                transaction.runs.save_catalog(opened.rank.handle, catalog)
            sender = read_sender(transaction, opened.rank.handle)
        self.book.keep(sender)
        engine = self._fleet.fetch(opened.run.run_id, now)
        if engine is not None:
            engine.run = opened.run
            engine.follow(self._settings.rules())  # its tags may be others now
            if opened.launch.attempt >= engine.launch.attempt:
                engine.begin(opened.launch, now)
            engine.know(sender, now)
            self._fleet.expect(opened.run.run_id)
            self._fleet.show(engine)
        return Opened(opened.rank.handle, opened.run.run_id, opened.launch.attempt, sender.watermarks())

    def close_rank(self, handle: int, outcome: str, reason: str, now: float) -> Receipt:
        """Note a rank's farewell. The run ends with the next `detect`, after its last steps have been judged.

        Raises:
            UnknownRankError: the handle was never given.
            StorageError: nothing has been changed.
        """
        sender = self.book.sender(handle)
        with self._database.begin() as transaction:
            sender.rank = transaction.runs.close_rank(handle, outcome, reason, now)
        self.asking.ended(handle)
        engine = self._fleet.fetch(sender.rank.run_id, now)
        if engine is not None:
            engine.hear(sender, now)
            engine.say_farewell(sender)
            self._fleet.expect(engine.run_id, first=True)
        show_spools(self.book, self._instruments, {sender.project})
        return Receipt(sender.watermarks(), ())

    # ------------------------------------------------------------------------------------------------ transaction 1

    def ingest(self, arrivals: Sequence[Arrival], now: float) -> list[Receipt]:
        """Make what arrived durable, exactly once, and answer each arrival in order.

        Raises:
            UnknownRankError: a handle that was never given, or whose run has been deleted.
            StorageUncertainError: all or nothing of these arrivals has been stored; sent again, they are stored once.
            StorageError: nothing of these arrivals has been stored.
        """
        try:
            with self._instruments.storage_commit_duration.time(), self._database.begin() as transaction:
                before = transaction.segments.last_id()
                intake = take_in(transaction, self.book, arrivals, now)
                revived = self._revive(transaction, intake)
                self._failure_point("ingest.before_commit")
        except StorageUncertainError:
            self._fleet.doubt({handle for arrival in arrivals for handle in arrival.handles})
            raise
        self._failure_point("ingest.after_commit")
        receipts = commit_to_book(intake, self.book, arrivals)
        for arrival in arrivals:
            self.asking.answered(arrival.answers)
        count(intake, self._instruments, now)
        report_health(intake, self.book, self._instruments)
        self._fleet.report(intake.health.values())
        for engine in revived:
            engine.resume()
        self._hand_over(intake, before, now)
        self.hear({handle for arrival in arrivals for handle in arrival.handles}, now)
        return receipts

    def check(self) -> None:
        """Raises StorageError when nothing can ever be written again: this server must exit, and not just refuse."""
        self._database.check()

    def probe(self) -> bool:
        """After an error of the store: whether it can be written now.

        Raises:
            StorageError: it cannot, and never will: this server must exit rather than acknowledge and lose.
        """
        return self._database.writable()

    def hear(self, handles: Iterable[int], now: float) -> None:
        """These ranks are alive: they sent something, or their streams are open."""
        self._fleet.hear(handles, now)

    def _revive(self, transaction: Transaction, intake: Intake) -> list[RunEngine]:
        """Records of a run that was over: it is running again until they are judged (also if we die before that)."""
        revived = []
        steps = [batch for batch in intake.batches if batch.kind is RecordKind.STEP]
        for run_id in {self.book.sender(batch.rank_handle).rank.run_id for batch in steps}:
            engine = self._fleet.get(run_id)
            if engine is None or engine.run.state is not RunState.RUNNING:
                transaction.runs.revive(run_id)
                if engine is not None:
                    revived.append(engine)
        return revived

    def _hand_over(self, intake: Intake, segment: int, now: float) -> None:
        """Give new records to their runs. A run that is not in memory is built from the store, which has them."""
        by_run: dict[int, list[tuple[Sender, StepBatch]]] = {}
        for batch in intake.batches:
            if batch.kind is not RecordKind.STEP:
                continue  # details are stored for whoever asks, and never judged
            sender = self.book.sender(batch.rank_handle)
            by_run.setdefault(sender.rank.run_id, []).append((sender, batch))
        for run_id, batches in by_run.items():
            engine = self._fleet.get(run_id)
            if engine is None:
                self._fleet.distrust(run_id)
                continue
            for sender, batch in batches:
                engine.offer(sender, batch, now, segment)
            self._fleet.expect(run_id)
        self._fleet.settle(intake.received)

    # ------------------------------------------------------------------------------------------------ transaction 2

    @property
    def waits(self) -> bool:
        """Whether a run waits to be judged, for its pace or its turn."""
        return self._fleet.waits

    def detect(self, now: float, *, hurry: bool = False, crowded: bool = False) -> bool:
        """Close what can be closed, judge it, and store all that follows from it.

        With `hurry` nobody waits for more; `crowded` (more waits than may), not for ranks that are to come back either.

        Returns:
            whether there is more to judge at once: a bounded number of steps is taken at a time, so that acks of
            other streams need not wait for it.

        Raises:
            StorageError: this server has been replaced, or the disk has failed for good: it must exit.
        """
        if self._failed_at is not None and 0 <= now - self._failed_at < _RETRY_SECONDS:
            return False
        self._failed_at = None
        self.capacity.look(now)
        if not self._fleet.refresh(now, crowded=crowded):
            self._failed_at = now
            return False
        jobs = take_turns(self._fleet, self._settings, now, hurry=hurry)
        for together in [[job] for job in jobs] if self._fleet.suspicious else [jobs]:
            if together:
                self._judge(together, now)
        self.hasty = len(jobs) > 1 and sum(job.steps for job in jobs) < _SMALL_TURN_STEPS * len(jobs)
        self._fleet.lay_to_rest(job.engine for job in jobs)
        self._fleet.take_snapshot(now)
        return self._fleet.any_due(now) or (hurry and self._fleet.waits)

    def _judge(self, jobs: Sequence[Job], now: float) -> None:
        try:
            with self._database.begin() as transaction:
                write(transaction, jobs, self._entries_for, self.asking, now)
                self._failure_point("detect.before_commit")
        except StorageFencedError:
            raise
        except Exception as error:  # noqa: BLE001 (as above)
            self._withdraw(jobs, error, now)
        else:
            self._failure_point("detect.after_commit")
            for job in jobs:
                self._tell(job)

    def _withdraw(self, jobs: Sequence[Job], error: Exception, now: float) -> None:
        """What was judged is not stored: again. That a disk fails, or a run was deleted, is no fault of the run."""
        of_store = isinstance(error, StorageError)
        self._instruments.storage_errors.labels(op="detect").inc(of_store)
        passing = isinstance(error, StorageBusyError | NotFoundError) or (of_store and not self.probe())
        if passing:
            _log.warning("steps were closed but not stored: trying again", reason=str(error))
            self._failed_at = now if of_store else None
        for run_id in [job.engine.run_id for job in jobs]:
            self._fleet.distrust(run_id) if passing else self._fleet.give_up(run_id, error)

    def _tell(self, job: Job) -> None:
        """After the commit: notices for the jobs, counts for the instruments, the view for readers."""
        engine = job.engine
        self._notices += [
            Notice(engine.run_id, each.alert, each.alert.last_step) for each in job.transitions if _is_news(each)
        ]
        self.asking.take_over(job.asked)
        if job.steps:
            self._instruments.detector_evaluations.inc(job.steps)
        failures = [failure for judged in job.judged for failure in judged.observation.failures]
        for signature, why in failures:
            self._instruments.detector_failures.labels(signature=signature.value).inc()
            _log.error("a detector failed and is quarantined", run=str(engine.run.key), signature=signature, why=why)
        self._fleet.show(engine, ask=bool(job.chores or job.transitions or failures))


def _is_news(transition: Transition) -> bool:
    """Whether a job may want to react: the state or the severity of an alert changed."""
    return transition.before is not transition.alert.state or transition.severity_before != transition.alert.severity
