"""Compaction: many small rows become few large ones that take a third of the bytes. The first chore.

    every run of which anything has changed -> its segments and closed blocks, by tiers -> one group of them a piece
    read and decode -> merge, round, encode -> (one short transaction) are all sources there? the merged row, no sources

Only what no restart will replay is touched: what lies behind the last stored checkpoint of the detectors. Only if that
cannot be read (another version wrote it, or the disk has changed it) does a restart replay a run from its start, and
then from rounded norms: the closings are the same, baselines differ in their fourth digit, and alerts are as they were
committed. Which records have been received is stored elsewhere (`streams`) and stays untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from seismograd_server.errors import StorageDamageError
from seismograd_server.instruments import Instruments
from seismograd_server.maintenance.tiers import Group, Sizes, Tiers
from seismograd_server.model import RecordKind, StepBatch
from seismograd_server.store.blocks import StepChunk, encode_block, join_chunks, narrow
from seismograd_server.store.codec import encode_dense
from seismograd_server.store.compacting import ROWS_LISTED, RunStanding, SeriesPosition, StoredRow, Stretch
from seismograd_server.store.database import Database
from seismograd_server.store.mantissa import EXACT_BITS
from seismograd_server.store.merging import Window, merge

# Between two looks at which runs have changed; checkpoints, behind which there is something to do, come as often.
_PASS_SECONDS = 10.0
# A run that seems unchanged is looked at after this all the same: details may have come after its end.
_LOOK_AGAIN_SECONDS = 3600.0
# A run that has ended is at rest after this: till then it may be resumed, and people look at it, exact as it came.
_REST_SECONDS = 900.0
# Steps around an alert that stay exact: what its flight recorders are asked for, seen from all other ranks.
_STEPS_AROUND_ALERTS = 64
# Alerts of one run: far more than one opens.
_ALERTS = 10_000
# Free pages that stay in the file: ingest fills them again within minutes, faster than it extends a file.
_RESERVE_BYTES = 32 * 2**20
# Given back at once; it takes the writer's turn for some 15 ms.
_RECLAIM_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class CompactionSettings:
    """How exact norms are kept.

    Attributes:
        mantissa_bits: of norms by layer, 23 = all.
        lossless_projects: whose norms keep all, whatever the server's rule is.
        sizes: of the rows.
    """

    mantissa_bits: int = 12
    lossless_projects: frozenset[str] = frozenset()
    sizes: Sizes = field(default_factory=Sizes)

    def bits(self, project: str) -> int:
        """Mantissa bits that the norms of a project keep."""
        return EXACT_BITS if project in self.lossless_projects else self.mantissa_bits


class Compaction:
    """The chore. Points of failure: `compact.before_commit`, `compact.after_commit`."""

    name = "compaction"

    def __init__(
        self,
        database: Database,
        instruments: Instruments,
        settings: CompactionSettings,
        failure_point: Callable[[str], None] = lambda name: None,  # noqa: ARG005 (nothing fails)
    ) -> None:
        self._database = database
        self._instruments = instruments
        self._settings = settings
        self._failure_point = failure_point
        self._pieces: Iterator[None] | None = None
        self._began_at: float | None = None
        self._seen: dict[int, _Look] = {}  # at each run, when anything was last done
        self._damaged: set[tuple[str, int]] = set()

    def step(self, now: float) -> bool:
        """Merge one group of rows, or look at some more runs; False = rest until the next pass."""
        if self._pieces is None:
            if self._began_at is not None and 0 <= now - self._began_at < _PASS_SECONDS:
                return False
            self._began_at, self._pieces = now, self._pass(now)
        pieces, self._pieces = self._pieces, None  # a pass that fails is over: the next one begins again
        if next(pieces, self) is self:
            return False
        self._pieces = pieces
        return True

    def _pass(self, now: float) -> Iterator[None]:
        """All runs, and then the pages that have become free; yields behind each piece."""
        after, seen = 0, dict[int, _Look]()
        while True:
            with self._database.read() as transaction:
                page = transaction.compaction.runs(after)
            if not page:
                break
            for standing in page:
                look, last = _Look(standing, _is_at_rest(standing, now), now), self._seen.get(standing.run_id)
                if last is None or look.shows_more_than(last):
                    yield from self._run(look)
                    last = look
                seen[standing.run_id] = last
            after = page[-1].run_id
            yield
        self._seen = seen
        while self._database.reclaim(_RECLAIM_BYTES, keep_bytes=_RESERVE_BYTES):
            yield

    def _run(self, look: _Look) -> Iterator[None]:
        with self._database.read() as transaction:
            positions = transaction.compaction.positions(look.run.run_id)
            launches = transaction.runs.launches(look.run.run_id)
        ends = [*(launch.opened_at for launch in launches[1:]), None]
        for position in positions:
            for launch, superseded_at in zip(launches, ends, strict=True):
                for kind in RecordKind:
                    # Details are never replayed; steps are from the checkpoint on.
                    if kind is RecordKind.STEP and launch.attempt > position.attempt:
                        continue
                    behind = kind is RecordKind.DETAIL or launch.attempt < position.attempt
                    through = None if behind else position.segment
                    stretch = Stretch(launch.launch_row, position.optimizer, kind, through, superseded_at)
                    yield from self._segments(look, stretch)
            yield from self._blocks(look, position)

    def _segments(self, look: _Look, stretch: Stretch) -> Iterator[None]:
        def page(after: int) -> list[StoredRow]:
            with self._database.read() as transaction:
                return transaction.compaction.segments(stretch, after)

        bits = self._settings.bits(look.run.project) if stretch.kind is RecordKind.STEP else EXACT_BITS
        for group in self._groups("segment", page, at_rest=look.at_rest):
            self._merge_segments(look.run, group, bits, stretch.kind.name.lower())
            yield

    def _blocks(self, look: _Look, position: SeriesPosition) -> Iterator[None]:
        def page(after: int) -> list[StoredRow]:
            with self._database.read() as transaction:
                return transaction.compaction.blocks(
                    look.run.run_id, position.optimizer, after=after, through=position.ordinal
                )

        for group in self._groups("closed block", page, at_rest=look.at_rest):
            self._merge_blocks(look.run, position.optimizer, group)
            yield

    def _groups(self, what: str, page: Callable[[int], list[StoredRow]], *, at_rest: bool) -> Iterator[Group]:
        tiers, after = Tiers(self._settings.sizes, at_rest=at_rest), 0
        more = True
        while more and (rows := page(after)):
            after, more = rows[-1].row_id, len(rows) == ROWS_LISTED
            yield from tiers.add([row for row in rows if (what, row.row_id) not in self._damaged])
        yield from tiers.finish()

    # -------------------------------------------------------------------------------------------------- one group

    def _merge_segments(self, run: RunStanding, group: Group, bits: int, kind: str) -> None:
        exact: Sequence[Window] = ()
        with self._database.read() as transaction:
            if group.settle and bits < EXACT_BITS:
                alerts = transaction.alerts.list(project=run.project, run=run.run, limit=_ALERTS)
                exact = [
                    (alert.since_step - _STEPS_AROUND_ALERTS, alert.last_step + _STEPS_AROUND_ALERTS)
                    for alert in alerts
                ]
            taken: list[StoredRow] = []
            batches: list[StepBatch] = []
            size = 0
            for row in group.rows:
                try:
                    found = transaction.compaction.read_segment(row.row_id)
                except StorageDamageError as error:
                    self._report(run, "segment", row, error)
                    continue
                own = sum(_bytes_of(batch) for batch in found)
                if taken and size + own > self._settings.sizes.full_bytes:
                    break  # decoded they are larger than they looked: the rest is left for the next pass
                taken.append(row)
                batches += found
                size += own
        if not _is_worth_it(taken, group):
            return
        merged = merge(batches, bits if group.settle else EXACT_BITS, exact)
        payload = encode_dense(merged)
        sources = [row.row_id for row in taken]
        with self._database.begin() as transaction:
            done = transaction.compaction.replace_segments(sources, merged, payload, settled=group.settle)
            self._failure_point("compact.before_commit")
        self._failure_point("compact.after_commit")
        if done:
            self._count(kind, taken, payload)

    def _merge_blocks(self, run: RunStanding, optimizer: int, group: Group) -> None:
        taken: list[StoredRow] = []
        chunks: list[StepChunk] = []
        with self._database.read() as transaction:
            for row in group.rows:
                try:
                    chunk = transaction.compaction.read_block(row.row_id)
                except StorageDamageError as error:
                    self._report(run, "closed block", row, error)
                    break  # blocks are merged with their neighbours only
                if chunk is None:
                    return
                taken.append(row)
                chunks.append(chunk)
        if not _is_worth_it(taken, group):
            return
        merged = join_chunks(chunks)
        if self._settings.bits(run.project) < EXACT_BITS:
            merged = narrow(merged)
        payload = encode_block(merged, dense=True)
        sources = [row.row_id for row in taken]
        with self._database.begin() as transaction:
            done = transaction.compaction.replace_blocks(sources, run.run_id, optimizer, merged, payload)
            self._failure_point("compact.before_commit")
        self._failure_point("compact.after_commit")
        if done:
            self._count("closed", taken, payload)

    def _count(self, kind: str, sources: Sequence[StoredRow], payload: bytes) -> None:
        self._instruments.compaction_rows.labels(kind=kind).inc(len(sources))
        self._instruments.compaction_bytes.labels(kind=kind, when="before").inc(sum(row.size for row in sources))
        self._instruments.compaction_bytes.labels(kind=kind, when="after").inc(len(payload))

    def _report(self, run: RunStanding, what: str, row: StoredRow, error: StorageDamageError) -> None:
        """Say it once; the row stays as it is, and is not looked at again while this process lives."""
        self._damaged.add((what, row.row_id))
        self._database.damage.note(run.run_id, error)


@dataclass(frozen=True, slots=True)
class _Look:
    """A run as it was at some moment."""

    run: RunStanding
    at_rest: bool
    at: float

    def shows_more_than(self, last: _Look) -> bool:
        """Whether there may be something to do that there was not at the last look."""
        return (self.run, self.at_rest) != (last.run, last.at_rest) or not 0 <= self.at - last.at < _LOOK_AGAIN_SECONDS


def _is_at_rest(run: RunStanding, now: float) -> bool:
    return not run.running and run.ended_at is not None and now - run.ended_at >= _REST_SECONDS


def _is_worth_it(taken: Sequence[StoredRow], group: Group) -> bool:
    return len(taken) > 1 or (len(taken) == 1 and (not taken[0].dense or (group.settle and not taken[0].settled)))


def _bytes_of(batch: StepBatch) -> int:
    norms = 0 if batch.gradient_norms is None else batch.gradient_norms.nbytes
    return norms + sum(column.values.nbytes for column in batch.tensors.values())
