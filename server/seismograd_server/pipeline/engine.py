"""One run as it goes: its optimizers, its ranks, its alerts, and whether it lives. In memory only; the spine stores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from seismograd_server.alerts.asking import CapturePolicy
from seismograd_server.alerts.fleet import FleetPolicy
from seismograd_server.alerts.lifecycle import DEFAULT_POLICY, LifecyclePolicy
from seismograd_server.detect.align import Patience
from seismograd_server.detect.watch import Observation
from seismograd_server.model import (
    Alert,
    AlertState,
    DetectorStatus,
    Finding,
    Health,
    Launch,
    RecordKind,
    Run,
    RunState,
    RunView,
    Severity,
    Signature,
    StepBatch,
    Tally,
)
from seismograd_server.pipeline.ranks import Sender
from seismograd_server.pipeline.series import Closed, Series
from seismograd_server.rules.ruleset import Rules, RunRules

_SHIPPED = Rules()

# So many records are enough to be judged together: the detectors look no further ahead at once.
_MANY_RECORDS = 512
# Up to here detectors arm one after the other. Later what they can see changes so seldom that it is asked with the
# chores: to ask all of them costs as much as to judge a dozen steps.
_ARMING_STEPS = 512


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """How the pipeline judges.

    Attributes:
        patience: how long a step waits for missing ranks.
        lost_after_seconds: a run of which nothing has been heard for so long is lost.
        checkpoint_seconds: between two stored states of the detectors of a run that has closed many steps since: what
            a restart may have to replay; more while many runs are due at once.
        chores_seconds: between two looks at what only time changes: aged alerts, ranks that were last seen.
        view_seconds: how long a run that is over stays among the live ones, so that a scraper sees how it ended.
        view_layers: whether views hold norms by layer; what is usual for each has to be worked out for every view.
        rules: what is looked for, as of now; asked before every judgement.
        policy: how patient alerts are, where the rules say nothing else.
        capture: what alerts ask of the flight recorders.
        fleet: when alerts of several runs are one incident.
        steps_at_once: closed in one go, over all runs. More would keep the acks of others waiting; a quarter as many
            cost a fifth more a step, because each go has a commit, and code must come back into caches.
        steps_of_a_run: of these, of one run: its tables by rank, layer and step are in memory together.
        pace_seconds: a run that has just been judged waits so long for more of its steps: judging costs about as much
            for one step as for fifty. No longer than an alert may wait.
        standing_bytes: what live runs, their ranks and open streams may hold before newcomers are refused.
    """

    patience: Patience = field(default_factory=Patience)
    lost_after_seconds: float = 60.0
    checkpoint_seconds: float = 15.0
    chores_seconds: float = 5.0
    view_seconds: float = 900.0
    view_layers: bool = False
    rules: Callable[[], Rules] = lambda: _SHIPPED
    policy: LifecyclePolicy = DEFAULT_POLICY
    capture: CapturePolicy = field(default_factory=CapturePolicy)
    fleet: FleetPolicy = field(default_factory=FleetPolicy)
    steps_at_once: int = 16_384
    steps_of_a_run: int = 4096
    pace_seconds: float = 0.0
    standing_bytes: int = sys.maxsize


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends."""

    state: RunState
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A closed block and what the detectors said of it."""

    closed: Closed
    observation: Observation


@dataclass(slots=True)
class RunEngine:
    """The live state of one run. Every field is derived from the store and can be rebuilt from it."""

    run: Run
    launch: Launch
    settings: PipelineSettings
    heard_at: float
    rules: RunRules = field(default_factory=RunRules)
    series: dict[int, Series] = field(default_factory=dict)  # by optimizer
    opened: set[int] = field(default_factory=set)  # ranks of the launch
    farewells: dict[int, tuple[str, str]] = field(default_factory=dict)  # rank -> (outcome, reason)
    seen: dict[int, float] = field(default_factory=dict)  # handle -> when, since the last chores
    open_alerts: list[Alert] = field(default_factory=list)  # as last read
    chores_at: float = 0.0
    judged_at: float = 0.0
    recorded_at: float | None = None  # when its latest records arrived; None = none since it is in memory
    health: dict[int, Health] = field(default_factory=dict)  # by rank, the latest that each told
    statuses: tuple[DetectorStatus, ...] = ()  # what the first optimizer's detectors could see when they were asked
    silent_since: float = field(init=False)  # when its latest records arrived, or when it came into memory

    def __post_init__(self) -> None:
        """While it was not in memory, nobody could be heard: silence is counted from now on."""
        self.silent_since = self.heard_at

    @property
    def run_id(self) -> int:
        """The run's number."""
        return self.run.run_id

    @property
    def tally(self) -> Tally:
        """Of the first optimizer."""
        return self.series[min(self.series)].tally if self.series else Tally()

    def follow(self, rules: Rules) -> None:
        """Judge by these rules from the next step on; what the detectors have learnt stays."""
        found = rules.for_run(self.run.key, self.run.tags)
        if found != self.rules:
            self.rules = found
            for series in self.series.values():
                series.watch_for(found.watch)

    def begin(self, launch: Launch, now: float) -> None:
        """Go on with a newer launch; the same one again changes nothing."""
        if launch.launch_row == self.launch.launch_row:
            return
        self.launch = launch
        self.opened, self.farewells, self.health = set(), {}, {}
        for series in self.series.values():
            series.begin(launch, now)

    def know(self, sender: Sender, now: float) -> None:
        """A rank has opened, again or for the first time."""
        self.hear(sender, now)
        if sender.rank.launch_row == self.launch.launch_row:
            self.opened.add(sender.rank.rank)
            for series in self.series.values():
                series.know(sender)

    def hear(self, sender: Sender, now: float) -> None:
        """A rank is alive."""
        self.heard_at = max(self.heard_at, now)
        self.seen[sender.rank.handle] = now
        if sender.rank.launch_row == self.launch.launch_row:
            for series in self.series.values():
                series.aligner.hear(sender.rank.rank, now)

    def offer(self, sender: Sender, batch: StepBatch, now: float, segment: int) -> None:
        """Take new, durable records. Details and records of earlier launches are stored, not judged."""
        if batch.kind is not RecordKind.STEP or sender.rank.launch_row != self.launch.launch_row:
            return
        self.opened.add(sender.rank.rank)
        self.recorded_at = self.silent_since = now
        self.series_of(batch.optimizer, now).offer(sender, batch, now, segment)

    def report(self, sender: Sender, health: Health) -> None:
        """A rank has told how it fares."""
        if sender.rank.launch_row == self.launch.launch_row:
            self.health[sender.rank.rank] = health

    def follow_clock(self, seconds: float) -> None:
        """The clock has been set: silence is not longer or shorter for that."""
        self.heard_at += seconds
        self.silent_since += seconds
        self.chores_at += seconds
        self.judged_at += seconds
        for series in self.series.values():
            series.follow_clock(seconds)

    def settle(self, sender: Sender, optimizer: int) -> None:
        """The watermark of a rank's stream may have moved."""
        if sender.rank.launch_row != self.launch.launch_row or optimizer not in self.series:
            return
        for stream, intervals in sender.received.items():
            if stream.optimizer == optimizer and stream.kind is RecordKind.STEP:
                self.series[optimizer].aligner.settle(sender.rank.rank, intervals.watermark())

    def say_farewell(self, sender: Sender) -> None:
        """A rank has ended."""
        if sender.rank.launch_row != self.launch.launch_row:
            return
        self.opened.add(sender.rank.rank)
        self.farewells[sender.rank.rank] = (sender.rank.outcome, sender.rank.reason)
        for series in self.series.values():
            series.aligner.end(sender.rank.rank)

    def series_of(self, optimizer: int, now: float) -> Series:
        """The series of an optimizer, begun when it is new."""
        found = self.series.get(optimizer)
        if found is None:
            found = self.series[optimizer] = Series(optimizer, self.settings.patience, self.rules.watch)
            found.begin(self.launch, now)
            for rank in self.farewells:
                found.aligner.end(rank)
        return found

    def due(self, now: float) -> bool:
        """Whether it should be judged without waiting for more of its steps."""
        return (
            not 0 <= now - self.judged_at < self.settings.pace_seconds
            or bool(self.farewells)
            or any(series.waiting_records >= _MANY_RECORDS for series in self.series.values())
        )

    @property
    def at_rest(self) -> bool:
        """Whether the run is over and nothing of it can change by itself any more: it is only still shown."""
        return (
            self.run.state is not RunState.RUNNING
            and not self.open_alerts
            and not any(series.waits for series in self.series.values())
        )

    @property
    def behind(self) -> bool:
        """Whether more could have been closed at the last `close`."""
        return any(series.behind for series in self.series.values())

    @property
    def waiting_bytes(self) -> int:
        """Bytes of records that wait for their steps to close, about."""
        return sum(series.aligner.size for series in self.series.values())

    @property
    def layers(self) -> int:
        """How many layers are watched, over all optimizers."""
        return sum(series.width for series in self.series.values())

    def close(self, now: float, *, everything: bool, most: int) -> list[Closed]:
        """Close what can be closed, about `most` steps of it."""
        closed = [
            each for series in self.series.values() for each in series.close(now, everything=everything, most=most)
        ]
        if closed:
            self.judged_at = now
        return closed

    def take(self, closed: Closed, observation: Observation) -> Judged:
        """Take in what the detectors said of what was closed, block by block in order."""
        self.series[closed.optimizer].take(closed.block, observation)
        return Judged(closed, observation)

    def silence(self, now: float) -> list[Finding]:
        """What is to be said of a run that lives and has sent no record for some time."""
        if (
            self.run.state is not RunState.RUNNING
            or not self.series
            or any(each.waits for each in self.series.values())
        ):
            return []
        found = self.series[min(self.series)].watch.silence(now - self.silent_since)
        return [] if found is None else [found]

    def ending(self, now: float) -> Ending | None:
        """Whether, and how, the run is over now."""
        if self.run.state is not RunState.RUNNING:
            return None
        failed = min((rank for rank, (outcome, _) in self.farewells.items() if outcome == "failed"), default=None)
        if len(self.farewells) < self.launch.world_size:
            if now - self.heard_at <= self.settings.lost_after_seconds:
                return None
            if failed is None and (not self.farewells or self.opened - self.farewells.keys()):
                return Ending(RunState.LOST, f"no rank has been heard of for {self.settings.lost_after_seconds:g} s")
        if failed is not None:
            return Ending(RunState.FAILED, f"rank {failed}: {self.farewells[failed][1] or 'failed'}")
        return Ending(RunState.FINISHED, "")

    def end(self, ending: Ending, now: float) -> None:
        """Take the ending in, once it is stored."""
        self.run = replace(self.run, state=ending.state, ended_at=now, failure_reason=ending.reason)

    def resume(self) -> None:
        """The run goes on after all, once that is stored."""
        self.run = replace(self.run, state=RunState.RUNNING, ended_at=None, failure_reason="")

    def count_signatures(self, opened: Mapping[str, int]) -> None:
        """Set how many alerts of each signature the run has opened so far."""
        if self.series:
            first = self.series[min(self.series)]
            first.tally = replace(first.tally, signatures=dict(opened))

    def may_leave(self, now: float) -> bool:
        """Whether nothing of the run needs to be live any more."""
        return self.at_rest and now - max(self.run.ended_at or 0.0, self.heard_at) > self.settings.view_seconds

    def view(self, *, ask: bool = True) -> RunView:
        """The run as pages and metrics show it; without `ask`, what detectors can see as they said it last."""
        active: dict[Signature, Severity] = {}
        for alert in self.open_alerts:
            if alert.state is AlertState.FIRING:
                active[alert.signature] = max(alert.severity, active.get(alert.signature, Severity.NONE))
        first = self.series[min(self.series)] if self.series else None
        if first is not None and (ask or not self.statuses or first.tally.steps < _ARMING_STEPS):
            self.statuses = first.watch.statuses()
        dtype = first.dtype if first is not None else ""
        layers = first.layers() if first is not None and self.settings.view_layers else None
        skew = max((each.clock_skew_seconds for each in self.health.values()), key=abs, default=None)
        share = max((each.capture_share for each in self.health.values()), default=0.0)  # the wire's 0 = unknown
        return RunView(self.run, self.tally, active, self.statuses, dtype, skew, share if share > 0.0 else None, layers)
