"""All live runs: which are in memory, which must be rebuilt from the store, and the picture of them for readers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import structlog

from seismograd_server.errors import NotFoundError, SeismogradError, StorageBusyError
from seismograd_server.instruments import Instruments
from seismograd_server.model import AlertState, Health, RunView, Snapshot, StreamKey
from seismograd_server.pipeline.engine import PipelineSettings, RunEngine
from seismograd_server.pipeline.ranks import RankBook
from seismograd_server.pipeline.restoring import load_engine
from seismograd_server.pipeline.turns import Turns
from seismograd_server.store.database import Database

_log = structlog.get_logger(__name__)
# A run whose judgement fails for a reason of its own (not the disk's) is tried so often before it is set aside.
_TRIES = 3
# Runs and alerts looked at when a server starts: more than anybody runs at once.
_RECENT_RUNS = 200
_OPEN_ALERTS = 10_000


class Fleet:
    """The engines by run. An engine is only ever a cache: throwing it away is always right, and costs a replay."""

    def __init__(
        self, database: Database, instruments: Instruments, settings: PipelineSettings, book: RankBook
    ) -> None:
        self._database = database
        self._instruments = instruments
        self._settings = settings
        self._book = book
        self._engines: dict[int, RunEngine] = {}  # of which something is to be expected
        self._resting: dict[int, RunEngine] = {}  # over, and only still shown: there may be thousands of them
        self._views: dict[int, RunView] = {}
        self._stale: set[int] = set()
        self._failures: dict[int, int] = {}  # how often in a row a run could not be judged
        self._snapshot = Snapshot(0.0)
        self._rules = settings.rules()
        self._turns = Turns()
        self._looked_at = 0.0  # when deleted runs were last looked for

    def __iter__(self) -> Iterator[RunEngine]:
        """The engines of which something is to be expected."""
        return iter(list(self._engines.values()))

    @property
    def resting(self) -> list[RunEngine]:
        """Those of runs that are over and only still shown, the longest over first."""
        return list(self._resting.values())

    def holds(self, run_id: int) -> bool:
        """Whether a run is in memory."""
        return run_id in self._engines or run_id in self._resting

    def expect(self, run_id: int, *, first: bool = False) -> None:
        """There is something to judge of a run; with `first` before all others, because somebody waits for it."""
        self._turns.expect(run_id, first=first)

    def turns(self, now: float, *, hurry: bool = False) -> Iterator[RunEngine]:
        """The runs that are due, in turn; with `hurry`, all of which anything is to be judged. Stop at any one."""
        if self._turns.sweep(self._engines, now):
            waiting = (series.oldest_arrival for engine in self for series in engine.series.values())
            oldest = min((arrival for arrival in waiting if arrival is not None), default=now)
            self._instruments.detector_lag.labels(shard="0").set(max(0.0, now - oldest))
        for run_id in self._turns.take(lambda each: hurry or self._is_due(each, now)):
            if run_id in self._engines:
                yield self._engines[run_id]

    def any_due(self, now: float) -> bool:
        """Whether a run should have its turn at once."""
        return self._turns.any_due(lambda each: self._is_due(each, now))

    @property
    def waits(self) -> bool:
        """Whether there is anything to judge of any run, at once or in a moment."""
        return bool(self._turns)

    def _is_due(self, run_id: int, now: float) -> bool:
        engine = self._engines.get(run_id)
        return engine is None or engine.due(now)

    @property
    def suspicious(self) -> bool:
        """Whether some run has just failed, so that each is better judged alone."""
        return any(tries < _TRIES for tries in self._failures.values())

    def start(self, now: float) -> None:
        """Take up every run that is live, that ended a moment ago, or whose alerts are open.

        Raises:
            StorageError: the store cannot be read.
        """
        with self._database.read() as transaction:
            wanted = {run.run_id for run in transaction.runs.live()}
            for state in (AlertState.FIRING, AlertState.PENDING):
                wanted |= {alert.run_id for alert in transaction.alerts.list(state=state, limit=_OPEN_ALERTS)}
            for run in transaction.runs.list(limit=_RECENT_RUNS):
                if run.ended_at is not None and now - run.ended_at < self._settings.view_seconds:
                    wanted.add(run.run_id)
        for run_id in sorted(wanted):
            self._load(run_id, now)
        self.take_snapshot(now)

    def get(self, run_id: int) -> RunEngine | None:
        """A run that is in memory and sound; whoever asks has news of it."""
        if run_id in self._resting:
            self._engines[run_id] = self._resting.pop(run_id)
        return None if run_id in self._stale else self._engines.get(run_id)

    def fetch(self, run_id: int, now: float) -> RunEngine | None:
        """A run, built from the store when it is not in memory; None while it cannot be built.

        A process has just spoken for it: one that was set aside gets another chance.
        """
        if self.get(run_id) is None:
            self._failures.pop(run_id, None)
            self._load(run_id, now)
        return self.get(run_id)

    def distrust(self, run_id: int) -> None:
        """What is in memory of a run is not what the store says: build it anew before it is judged again."""
        self._stale.add(run_id)

    def doubt(self, handles: Iterable[int]) -> None:
        """Nobody knows whether what these ranks sent was stored: the store is asked, for them and for their runs."""
        for run_id in {self._book.sender(handle).rank.run_id for handle in handles}:
            self.distrust(run_id)
            self._book.forget(run_id)

    def hear(self, handles: Iterable[int], now: float) -> None:
        """These ranks are alive."""
        for handle in handles:
            sender = self._book.sender(handle)
            if (engine := self.get(sender.rank.run_id)) is not None:
                engine.hear(sender, now)

    def report(self, healths: Iterable[Health]) -> None:
        """What clients say of themselves."""
        for health in healths:
            sender = self._book.sender(health.rank_handle)
            if (engine := self.get(sender.rank.run_id)) is not None:
                engine.report(sender, health)

    def settle(self, streams: Iterable[StreamKey]) -> None:
        """What has been received of these streams has changed."""
        for stream in streams:
            sender = self._book.sender(stream.rank_handle)
            if (engine := self.get(sender.rank.run_id)) is not None:
                engine.settle(sender, stream.optimizer)
                self.expect(engine.run_id)

    def follow_clock(self, seconds: float) -> None:
        """The clock has been set; see `Pipeline.follow_clock`."""
        self._looked_at += seconds
        self._turns.follow_clock(seconds)
        for engine in (*self._engines.values(), *self._resting.values()):
            engine.follow_clock(seconds)

    def refresh(self, now: float, *, crowded: bool = False) -> bool:
        """Let go of runs deleted or shown for long enough, build anew what is distrusted, and follow the rules.

        When it is `crowded`, there is no room to wait for ranks that are to come back behind a restart.

        Returns:
            whether that was possible: a store that is away is to be left alone for a moment.
        """
        if now - self._looked_at >= self._settings.chores_seconds:
            self._looked_at = now
            self._let_go(now)
        if not all(self._load(run_id, now) for run_id in sorted(self._stale)):
            return False
        for engine in self._engines.values() if crowded else ():
            if sum(series.aligner.expect_nobody() for series in engine.series.values()):
                self.expect(engine.run_id)
        rules = self._settings.rules()
        if rules is not self._rules:
            self._rules = rules
            for engine in (*self._engines.values(), *self._resting.values()):
                engine.follow(rules)
        return True

    def give_up(self, run_id: int, error: Exception) -> None:
        """Distrust a run that could not be judged; after a few times in a row, set it aside till it is opened again."""
        tries = self._failures[run_id] = self._failures.get(run_id, 0) + 1
        self._stale.add(run_id)
        if tries == _TRIES:
            self._instruments.detector_failures.labels(signature="all").inc()
        if tries <= _TRIES:
            text = str(error) if isinstance(error, SeismogradError) else f"{type(error).__name__}: {error}"
            _log.error("a run could not be judged", run_id=run_id, tries=tries, reason=text)

    def show(self, engine: RunEngine, *, ask: bool = True) -> None:
        """Show readers the run as it is now; it has been judged and stored. `ask` as for `RunEngine.view`."""
        self._failures.pop(engine.run_id, None)
        self._views[engine.run_id] = engine.view(ask=ask)

    def lay_to_rest(self, engines: Iterable[RunEngine]) -> None:
        """Put aside those of some runs that are over: they cost nothing until there is news of them."""
        for engine in engines:
            if engine.at_rest and self._engines.pop(engine.run_id, None) is not None:
                self._resting[engine.run_id] = engine

    def take_snapshot(self, now: float) -> None:
        """Replace the picture that readers get."""
        self._snapshot = Snapshot(now, tuple(self._views.values()))

    @property
    def snapshot(self) -> Snapshot:
        """The last picture taken; from any thread."""
        return self._snapshot

    def _let_go(self, now: float) -> None:
        for run_id in [run_id for run_id, engine in self._resting.items() if engine.may_leave(now)]:
            self.forget(run_id)
        here = self._engines.keys() | self._resting.keys()
        if here:
            with contextlib.suppress(StorageBusyError), self._database.read() as transaction:
                for run_id in here - transaction.runs.existing(here):
                    self.forget(run_id)

    def _load(self, run_id: int, now: float) -> bool:
        """Build a run from the store, unless it cannot be judged; whether the store answered."""
        self._engines.pop(run_id, None)
        self._resting.pop(run_id, None)
        if self._failures.get(run_id, 0) >= _TRIES:
            self._stale.discard(run_id)
            return True
        try:
            with self._database.read() as transaction:
                engine = load_engine(transaction, run_id, self._settings, now)
        except NotFoundError:  # deleted
            self.forget(run_id)
            return True
        except StorageBusyError as error:
            self._stale.add(run_id)
            self._instruments.storage_errors.labels(op="read").inc()
            _log.warning("a run could not be read: trying again", run_id=run_id, reason=str(error))
            return False
        except Exception as error:  # noqa: BLE001 (one run's trouble must not stop the others, nor ingest)
            self.give_up(run_id, error)
            return True
        self._stale.discard(run_id)
        if engine is not None:
            self._engines[run_id] = engine
            self._views[run_id] = engine.view()
            self.expect(run_id)
        return True

    def forget(self, run_id: int) -> None:
        """Let go of a run: it is shown no longer, and built from the store when there is news of it."""
        self._engines.pop(run_id, None)
        self._resting.pop(run_id, None)
        self._views.pop(run_id, None)
        self._stale.discard(run_id)
        self._turns.forget(run_id)
        self._book.forget(run_id)
