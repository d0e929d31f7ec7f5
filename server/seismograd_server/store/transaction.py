"""One transaction and the repositories bound to it."""

from __future__ import annotations

from functools import cached_property

from sqlalchemy import Connection

from seismograd_server.store.alerts import AlertRepository
from seismograd_server.store.compacting import CompactionRepository
from seismograd_server.store.damage import DamageLog
from seismograd_server.store.detectors import DetectorRepository
from seismograd_server.store.directives import DirectiveRepository
from seismograd_server.store.downsampling import DownsamplingRepository
from seismograd_server.store.lifespans import LifespanRepository
from seismograd_server.store.outbox import OutboxRepository
from seismograd_server.store.runs import RunRepository
from seismograd_server.store.segments import SegmentRepository
from seismograd_server.store.silences import SilenceRepository
from seismograd_server.store.steps import StepRepository
from seismograd_server.store.summaries import SummaryRepository


class Transaction:
    """What `Database.begin` and `Database.read` give; of no use once their block has ended."""

    def __init__(self, connection: Connection, damage: DamageLog) -> None:
        self.connection = connection
        self.damage = damage  # where readers note what they have to leave out

    @cached_property
    def runs(self) -> RunRepository:
        """Runs, launches, ranks, catalogs, checkpoints and clients' health."""
        return RunRepository(self.connection)

    @cached_property
    def segments(self) -> SegmentRepository:
        """Records as they came, and which have come."""
        return SegmentRepository(self.connection)

    @cached_property
    def steps(self) -> StepRepository:
        """Closed steps."""
        return StepRepository(self.connection)

    @cached_property
    def summaries(self) -> SummaryRepository:
        """Summaries of closed steps."""
        return SummaryRepository(self.connection)

    @cached_property
    def compaction(self) -> CompactionRepository:
        """What is stored in how many rows, and fewer in their place."""
        return CompactionRepository(self.connection)

    @cached_property
    def detectors(self) -> DetectorRepository:
        """Checkpoints of the detectors."""
        return DetectorRepository(self.connection)

    @cached_property
    def alerts(self) -> AlertRepository:
        """Alerts and their history."""
        return AlertRepository(self.connection)

    @cached_property
    def silences(self) -> SilenceRepository:
        """What people do not want to be told of for a while."""
        return SilenceRepository(self.connection)

    @cached_property
    def lifespans(self) -> LifespanRepository:
        """How long runs have been over, and how much they hold."""
        return LifespanRepository(self.connection)

    @cached_property
    def downsampling(self) -> DownsamplingRepository:
        """Rows of single steps that may go."""
        return DownsamplingRepository(self.connection)

    @cached_property
    def outbox(self) -> OutboxRepository:
        """Notifications to deliver."""
        return OutboxRepository(self.connection)

    @cached_property
    def directives(self) -> DirectiveRepository:
        """What jobs were asked for, and what became of it."""
        return DirectiveRepository(self.connection)
