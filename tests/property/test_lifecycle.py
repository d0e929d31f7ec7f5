"""The life of alerts under any order of findings, time, ends and acknowledgements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seismograd_server.alerts.lifecycle import LifecyclePolicy, acknowledge, advance, end_of_run, expire, mute
from seismograd_server.model import (
    Alert,
    AlertState,
    Evidence,
    Finding,
    Run,
    RunKey,
    RunState,
    Severity,
    Signature,
    Transition,
)

DAY = 24 * 3600.0
NEW_RUN = Run(
    run_id=1,
    key=RunKey("p", "r"),
    state=RunState.RUNNING,
    started_at=0.0,
    last_record_at=None,
    ended_at=None,
    failure_reason="",
    config_json="",
    tags={},
    framework="",
    strategy="",
    attempts=1,
    world_size=1,
    last_step=None,
    closed_steps=0,
)

# Few of each, so that conditions meet, return, and inhibit one another.
found = st.builds(
    Finding,
    signature=st.sampled_from([Signature.NONFINITE, Signature.RUNAWAY, Signature.SPIKE, Signature.STALLED]),
    severity=st.sampled_from(Severity),
    scope=st.sampled_from(["", "rank:1"]),
    step=st.integers(0, 30),
    since_step=st.integers(0, 30),
    evidence=st.builds(Evidence, value=st.sampled_from([1.0, 10.0])),
    reason=st.just("because"),
)


# One thing that happens: from the open and the resolved alerts to what changes.
Happening = Callable[[list[Alert], list[Alert]], list[Transition]]


class Shelf:
    """The alerts of the run as the store keeps them, and everything that has happened to them."""

    def __init__(self) -> None:
        self.stored: dict[str, Alert] = {}
        self.transitions: list[Transition] = []

    def open(self) -> list[Alert]:
        return [alert for alert in self.stored.values() if alert.state is not AlertState.RESOLVED]

    def apply(self, happening: Happening) -> list[Transition]:
        resolved = [alert for alert in self.stored.values() if alert.state is AlertState.RESOLVED]
        transitions = happening(self.open(), resolved)
        for transition in transitions:
            self.stored[transition.alert.alert_id] = transition.alert
        self.transitions += transitions
        return transitions


class LifeOfAlerts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.watched = NEW_RUN
        self.policy = LifecyclePolicy()
        self.shelf = Shelf()
        self.happenings: list[Happening] = []
        self.told: set[str] = set()  # somebody heard that it fires, and not yet that it is over

    def happens(self, happening: Happening) -> None:
        before = dict(self.shelf.stored)
        self.happenings.append(happening)
        for transition in self.shelf.apply(happening):
            self.check(before.get(transition.alert.alert_id), transition)
            before[transition.alert.alert_id] = transition.alert

    def check(self, before: Alert | None, transition: Transition) -> None:
        alert = transition.alert
        assert transition.before == (None if before is None else before.state)
        assert transition.cause
        if before is not None:
            assert (alert.fingerprint, alert.opened_step) == (before.fingerprint, before.opened_step)
            if before.state is AlertState.FIRING:
                assert alert.state is not AlertState.PENDING
                assert alert.severity >= before.severity
            if before.state is AlertState.RESOLVED:
                assert before.resolved_at is not None
                recent = self.now - before.resolved_at <= self.policy.reopen_seconds
                assert recent or alert.last_step == before.opened_step
        if alert.state is AlertState.FIRING and transition.notify:
            self.told.add(alert.alert_id)
        if alert.state is AlertState.RESOLVED:
            assert transition.notify == (alert.alert_id in self.told), "only what was told is taken back, and always"
            self.told.discard(alert.alert_id)
        inhibiting = {each.signature for each in self.shelf.open() if self.explodes(each)}
        if alert.signature is Signature.SPIKE and transition.notify and alert.state is AlertState.FIRING:
            # At the end of one call an explosion may have begun after the spike spoke, so look at what it had cleared.
            assert not inhibiting or transition in self.spoke_before_an_explosion()

    def explodes(self, alert: Alert) -> bool:
        explosions = {Signature.NONFINITE, Signature.RUNAWAY}
        return (
            alert.state is AlertState.FIRING and alert.severity is Severity.CRITICAL and alert.signature in explosions
        )

    def spoke_before_an_explosion(self) -> list[Transition]:
        """Transitions at whose moment no explosion was firing."""
        firing: dict[str, Alert] = {}
        result = []
        for transition in self.shelf.transitions:
            firing[transition.alert.alert_id] = transition.alert
            if not any(self.explodes(alert) for alert in firing.values()):
                result.append(transition)
        return result

    @initialize(hold=st.sampled_from([0.0, 10.0]))
    def policy_is_chosen(self, hold: float) -> None:
        self.policy = LifecyclePolicy(hold_seconds=hold)

    @rule(findings=st.lists(found, max_size=4))
    def detectors_speak(self, findings: list[Finding]) -> None:
        run, now, policy = self.watched, self.now, self.policy
        self.happens(lambda opened, recent: advance(opened, recent, findings, run, now, policy=policy))

    @rule(seconds=st.sampled_from([1.0, 20.0, 14 * 60.0, 16 * 60.0, DAY]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        run, now, policy = self.watched, self.now, self.policy
        self.happens(lambda opened, _: expire(opened, run, now, policy))
        if run.ended_at is not None:
            for alert in self.shelf.open():
                assert alert.state is AlertState.FIRING
                assert not alert.acknowledged_by
                assert now - run.ended_at < DAY

    @rule(muted=st.sets(st.sampled_from([Signature.NONFINITE, Signature.SPIKE])))
    def signatures_are_muted(self, muted: set[Signature]) -> None:
        now, before = self.now, self.shelf.open()
        self.happens(lambda opened, _: mute(opened, muted, now))
        assert self.shelf.open() == [alert for alert in before if alert.signature not in muted]

    @precondition(lambda self: self.watched.state is RunState.RUNNING)
    @rule()
    def run_ends(self) -> None:
        unseen = {
            each.alert_id for each in self.shelf.open() if each.state is AlertState.FIRING and not each.acknowledged_by
        }
        run, now, policy = self.watched, self.now, self.policy
        self.happens(lambda opened, _: end_of_run(opened, run, now, policy))
        self.watched = replace(run, state=RunState.FAILED, ended_at=now)
        assert {alert.alert_id for alert in self.shelf.open()} == unseen

    @precondition(lambda self: self.watched.state is not RunState.RUNNING)
    @rule()
    def run_resumes(self) -> None:
        self.watched = replace(self.watched, state=RunState.RUNNING, ended_at=None, attempts=self.watched.attempts + 1)

    @precondition(lambda self: self.shelf.open())
    @rule(which=st.integers(0, 10))
    def somebody_acknowledges(self, which: int) -> None:
        chosen = self.shelf.open()[which % len(self.shelf.open())].alert_id
        run, now = self.watched, self.now

        def acknowledged(opened: list[Alert], _: list[Alert]) -> list[Transition]:
            alert = next(each for each in opened if each.alert_id == chosen)
            transition = acknowledge(alert, "ada", run, now)
            return [] if transition is None else [transition]

        self.happens(acknowledged)

    @invariant()
    def one_alert_at_most_is_open_for_a_fingerprint(self) -> None:
        names = [alert.fingerprint for alert in self.shelf.open()]
        assert len(names) == len(set(names))

    @invariant()
    def what_is_resolved_says_when_and_why_and_nothing_else_does(self) -> None:
        for alert in self.shelf.stored.values():
            resolved = alert.state is AlertState.RESOLVED
            assert (alert.resolved_at is not None) == resolved
            assert (alert.resolution is not None) == resolved

    def teardown(self) -> None:
        replay = Shelf()
        for happening in self.happenings:
            replay.apply(happening)
        assert replay.transitions == self.shelf.transitions


LifeOfAlerts.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLifeOfAlerts = LifeOfAlerts.TestCase
