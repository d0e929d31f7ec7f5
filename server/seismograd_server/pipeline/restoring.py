"""Rebuilding a run's live state from the store: the last checkpoint, then exactly what happened behind it.

    checkpoint -> the closings stored after it, repeated with the same ranks -> the records that still wait

Nothing is written and no finding is acted upon: alerts were committed together with the closings that caused them.
"""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest

import structlog

from seismograd_server.detect.closing import rows_in
from seismograd_server.model import Launch, Rank, RecordKind, Run, RunState
from seismograd_server.pipeline.engine import PipelineSettings, RunEngine
from seismograd_server.pipeline.ranks import Sender
from seismograd_server.pipeline.series import SavedState, Series
from seismograd_server.store.database import Transaction

_log = structlog.get_logger(__name__)
# Alerts counted for the tally of one run: far more than one run opens.
_ALERTS = 10_000


def load_engine(transaction: Transaction, run_id: int, settings: PipelineSettings, now: float) -> RunEngine | None:
    """Rebuild the live state of a run; None when no process has opened it.

    Raises:
        NotFoundError: the run has been deleted.
        StorageError: something stored cannot be read.
    """
    run = transaction.runs.by_id(run_id)
    launches = transaction.runs.launches(run_id)
    if not launches:
        return None
    # Silence is counted from now on: while this server was down, nobody could be heard.
    engine = RunEngine(run, launches[-1], settings, now, settings.rules().for_run(run.key, run.tags))
    ranks = {launch.launch_row: transaction.runs.ranks(launch.launch_row) for launch in launches}
    received = transaction.segments.received(rank.handle for each in ranks.values() for rank in each)
    replay = _Replay(transaction, run, now)
    for optimizer in sorted({stream.optimizer for stream in received if stream.kind is RecordKind.STEP}):
        series = Series(optimizer, settings.patience, engine.rules.watch)
        replay.series(series, [(launch, ranks[launch.launch_row]) for launch in launches])
        engine.series[optimizer] = series
    for rank in ranks[engine.launch.launch_row]:
        sender = Sender(rank, engine.launch.attempt, run.key.project)
        sender.received = {stream: each for stream, each in received.items() if stream.rank_handle == rank.handle}
        engine.opened.add(rank.rank)
        for optimizer in engine.series:
            engine.settle(sender, optimizer)
        if rank.ended_at is not None:
            engine.say_farewell(sender)
        elif run.state is RunState.RUNNING:
            for series in engine.series.values():
                series.aligner.expect(rank.rank, now)
    present = {rank.handle: rank.rank for rank in ranks[engine.launch.launch_row]}
    engine.health = {
        present[health.rank_handle]: health
        for health in transaction.runs.health(run_id)
        if health.rank_handle in present
    }
    engine.open_alerts = transaction.alerts.open_for_run(run_id)
    opened = transaction.alerts.list(run.key.project, run.key.run, limit=_ALERTS)
    engine.count_signatures(Counter(alert.signature.value for alert in opened))
    return engine


class _Replay:
    """Repeats what the store says has happened to the series of one run."""

    def __init__(self, transaction: Transaction, run: Run, now: float) -> None:
        self._transaction = transaction
        self._run = run
        self._now = now

    def series(self, series: Series, launches: list[tuple[Launch, list[Rank]]]) -> None:
        """Bring a fresh series to where it was."""
        state = self._checkpoint(series)
        # What a launch sent after the next one had begun was stored and not judged; so it stays.
        ends = [after.opened_at for after, _ in launches[1:]]
        for (launch, ranks), end in zip_longest(launches, ends):
            if state is not None and launch.attempt < state.attempt:
                continue
            position = 0
            if state is not None and launch.attempt == state.attempt:
                series.begin(launch, self._now, state.frontier, state.versions)
                position = state.segment
            else:
                series.begin(launch, self._now)
            self._introduce(series, launch, ranks)
            self._launch(series, launch, ranks, position, end)

    def _checkpoint(self, series: Series) -> SavedState | None:
        saved = self._transaction.detectors.load(self._run.run_id, series.optimizer)
        if saved is None:
            return None
        ordinal, data = saved
        try:
            state = SavedState.from_bytes(data)
            series.restore(state, ordinal)
        except ValueError as error:
            # Of another version, or damaged: everything it was made of is still there.
            _log.warning("replaying a run from its start", run=str(self._run.key), reason=str(error))
            return None
        return state

    def _introduce(self, series: Series, launch: Launch, ranks: list[Rank]) -> None:
        catalogs = self._transaction.runs.catalogs(launch.launch_row, series.optimizer)
        for rank in ranks:
            own = {
                (series.optimizer, version): catalog
                for (handle, version), catalog in catalogs.items()
                if handle == rank.handle
            }
            series.know(Sender(rank, launch.attempt, self._run.key.project, catalogs=own))

    def _launch(self, series: Series, launch: Launch, ranks: list[Rank], position: int, end: float | None) -> None:
        numbers = {rank.handle: rank.rank for rank in ranks}
        # Closed steps have been judged with these rows; what waits is judged without them.
        on_damage = self._transaction.damage.noting(self._run.run_id)
        records = self._transaction.segments.read(
            launch.launch_row,
            series.optimizer,
            after_segment=position,
            received_until=end,
            on_damage=on_damage,
        )
        closings = self._transaction.steps.closings(
            launch.launch_row, series.optimizer, series.ordinal, on_damage=on_damage
        )
        for closing in closings:
            event = (closing.branch, closing.steps, closing.ranks_present)
            wanted, held = int(closing.ranks_present.sum()), series.aligner.holds(*event)
            while held < wanted and (found := next(records, None)) is not None:
                segment, batch = found
                rank = numbers[batch.rank_handle]
                series.aligner.offer(rank, batch, now=self._now, segment=segment - 1)
                held += rows_in(batch, rank, *event)
            for block in series.composer.compose(series.aligner.repeat(*event)):
                series.take(block, series.watch.observe(block))
            series.ordinal = closing.ordinal
        for segment, batch in records:
            series.aligner.offer(numbers[batch.rank_handle], batch, now=self._now, segment=segment - 1)
