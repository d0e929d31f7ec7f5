"""What becomes of alerts: findings, time and people name an event, `table.py` says what comes of it.

Everything is a pure function of its arguments, so that replaying the same findings gives the same transitions, ids
included. The pipeline gives each finding once, in the order in which steps were closed; when it restarts, it rebuilds
the detectors without asking here, because transitions were committed together with the position they belong to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from seismograd_server.alerts.book import Book
from seismograd_server.alerts.identity import alert_id, fingerprint
from seismograd_server.alerts.inhibition import EXPLAINED
from seismograd_server.alerts.table import TABLE, Event, Row, Stage
from seismograd_server.model import (
    Alert,
    AlertState,
    Finding,
    Run,
    RunState,
    Severity,
    Signature,
    Silence,
    Transition,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class LifecyclePolicy:
    """How patient alerts are.

    Attributes:
        hold_seconds: how long a finding below critical must last before it fires; 0 = it fires at once. Critical ones
            never wait.
        reopen_seconds: what comes back within this time is the same alert again.
        keep_seconds: how long an alert goes on firing after its run has ended, when nobody acknowledges it.
    """

    hold_seconds: float = 0.0
    reopen_seconds: float = 15 * 60.0
    keep_seconds: float = 24 * 3600.0


DEFAULT_POLICY = LifecyclePolicy()


def advance(
    open_alerts: Sequence[Alert],
    recent: Sequence[Alert],
    findings: Iterable[Finding],
    run: Run,
    now: float,
    *,
    policy: LifecyclePolicy = DEFAULT_POLICY,
    silences: Sequence[Silence] = (),
) -> list[Transition]:
    """Apply the findings of one run, in the order of their steps, and give what changed.

    Args:
        open_alerts: the run's alerts that are pending or firing.
        recent: alerts of the run that are resolved; at least the latest of each fingerprint that `findings` names.
            More do no harm, and let a rerun of an old step find the alert that it opened the first time.
        findings: of this run, each given once.
        run: the run, for its id and its name.
        now: Unix seconds.
        policy: how patient to be.
        silences: what people do not want to be told of; those that are over do no harm.
    """
    book = Book(open_alerts, recent, now, silences)
    _let_time_pass(book, policy, now)
    _end_silences(book, now)
    for finding in _explosions_first(findings):
        current = book.latest(fingerprint(run.key, finding.signature, finding.scope))
        stage = _stage(current, finding.step, policy, now)
        if current is not None and stage is Stage.ABSENT:
            # A rerun of an old step meets the alert that it opened the first time, although a later one exists.
            current = book.by_id(alert_id(run.run_id, finding.signature, finding.scope, finding.step))
            stage = _stage(current, finding.step, policy, now)
        row = TABLE[stage].get(_event(stage, current, finding, policy))
        if row is None or _says_nothing_new(current, finding, row):
            continue
        book.enter(_changed(stage, current, finding, run=run, now=now, row=row), row)
    return book.transitions


def end_of_run(
    open_alerts: Sequence[Alert],
    run: Run,
    now: float,
    policy: LifecyclePolicy = DEFAULT_POLICY,
    silences: Sequence[Silence] = (),
) -> list[Transition]:
    """The run has just ended, well or badly: what was pending is over; what fires stays until it is acknowledged."""
    return expire(open_alerts, replace(run, state=RunState.FINISHED, ended_at=now), now, policy, silences)


def expire(
    open_alerts: Sequence[Alert],
    run: Run,
    now: float,
    policy: LifecyclePolicy = DEFAULT_POLICY,
    silences: Sequence[Silence] = (),
) -> list[Transition]:
    """Let time pass for the alerts of one run; to be called every few seconds, also for runs that are over."""
    book = Book(open_alerts, (), now, silences)
    if run.state is RunState.RUNNING:
        _let_time_pass(book, policy, now)
        _end_silences(book, now)
        return book.transitions
    for alert in book.open():
        event = _end_event(alert, run, now, policy)
        row = TABLE[Stage(alert.state)].get(event) if event is not None else None
        if row is not None:
            book.enter(_moved(alert, row, now), row)
    _end_silences(book, now)
    return book.transitions


def withdraw(open_alerts: Sequence[Alert], now: float) -> list[Transition]:
    """Somebody deletes the run, which is over: what fires is laid to rest."""
    book = Book(open_alerts, (), now)
    for alert in book.open():
        event = Event.RUN_ENDED if alert.state is AlertState.PENDING else Event.LAID_TO_REST
        row = TABLE[Stage(alert.state)][event]
        book.enter(_moved(alert, row, now), row)
    return book.transitions


def mute(open_alerts: Sequence[Alert], muted: Collection[Signature], now: float) -> list[Transition]:
    """The rules say that these signatures are not looked for any more: nobody would see that such an alert is over."""
    book = Book(open_alerts, (), now)
    for alert in book.open():
        if alert.signature in muted:
            row = TABLE[Stage(alert.state)][Event.MUTED]
            book.enter(_moved(alert, row, now), row)
    return book.transitions


def acknowledge(alert: Alert, by: str, run: Run, now: float, note: str = "") -> Transition | None:
    """Somebody has seen the alert. None when there is nothing to see: it is not firing, or was acknowledged before."""
    if alert.state is not AlertState.FIRING or alert.acknowledged_by:
        return None
    event = Event.ACKNOWLEDGED if run.state is RunState.RUNNING else Event.LAID_TO_REST
    row = TABLE[Stage.FIRING][event]
    book = Book([alert], (), now)
    book.enter(_moved(replace(alert, acknowledged_by=by, acknowledged_at=now), row, now), row)
    return replace(book.transitions[0], author=by, note=note)


def judge(alert: Alert, verdict: Verdict, by: str, now: float, note: str = "") -> Transition | None:
    """Somebody says whether the alert was right; he or another one may say otherwise later. None = as it was said.

    It is no news of the condition, and so leaves the time at which the alert last changed alone.
    """
    if alert.verdict is verdict:
        return None
    return Transition(
        alert=replace(alert, verdict=verdict),
        before=alert.state,
        cause=f"called {verdict.value}",
        at=now,
        notify=False,
        severity_before=alert.severity,
        told_before=alert.told,
        author=by,
        note=note,
    )


def _explosions_first(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Give the findings in their order, but at one step an explosion before what it explains.

    Steps are not sorted: after a rewind a lower one is the later one.
    """
    for _, together in groupby(findings, key=lambda finding: finding.step):
        yield from sorted(together, key=lambda finding: finding.signature in EXPLAINED)


def _let_time_pass(book: Book, policy: LifecyclePolicy, now: float) -> None:
    row = TABLE[Stage.PENDING][Event.HELD]
    for alert in book.open():
        # updated_at would move with every worse finding, and opened_at is of the first opening.
        if alert.state is AlertState.PENDING and now - alert.opened_at >= policy.hold_seconds:
            book.enter(_moved(alert, row, now), row)


def _end_silences(book: Book, now: float) -> None:
    row = TABLE[Stage.FIRING][Event.UNSILENCED]
    for alert in book.open():
        if alert.state is AlertState.FIRING and alert.silenced_by and not book.silencer(alert):
            book.enter(_moved(alert, row, now), row)


def _end_event(alert: Alert, run: Run, now: float, policy: LifecyclePolicy) -> Event | None:
    if alert.state is AlertState.PENDING:
        return Event.RUN_ENDED
    if alert.acknowledged_by:
        return Event.LAID_TO_REST
    ended_at = next((time for time in (run.ended_at, run.last_record_at) if time is not None), alert.updated_at)
    return Event.AGED if now - ended_at >= policy.keep_seconds else None


def _stage(alert: Alert | None, step: int, policy: LifecyclePolicy, now: float) -> Stage:
    if alert is None:
        return Stage.ABSENT
    if alert.state is not AlertState.RESOLVED or alert.resolved_at is None:
        return Stage(alert.state)
    # A run resumed from a checkpoint may explode at the same step again: that is the same alert, at any age.
    reopens = now - alert.resolved_at <= policy.reopen_seconds or step == alert.opened_step
    return Stage.RESOLVED if reopens else Stage.ABSENT


def _event(stage: Stage, alert: Alert | None, finding: Finding, policy: LifecyclePolicy) -> Event:
    if finding.severity is Severity.NONE:
        return Event.CLEARED
    urgent = finding.severity is Severity.CRITICAL or policy.hold_seconds <= 0
    if alert is None or stage in {Stage.ABSENT, Stage.RESOLVED}:
        return Event.STRUCK if urgent else Event.APPEARED
    if stage is Stage.PENDING and urgent:
        return Event.STRUCK
    if finding.severity == alert.severity:
        return Event.WORSENED
    return Event.ROSE if finding.severity > alert.severity else Event.EASED


def _says_nothing_new(alert: Alert | None, finding: Finding, row: Row) -> bool:
    return (
        alert is not None
        and alert.state is row.after
        and alert.severity == finding.severity
        and (alert.last_step, alert.evidence, alert.reason) == (finding.step, finding.evidence, finding.reason)
    )


def _changed(stage: Stage, alert: Alert | None, finding: Finding, *, run: Run, now: float, row: Row) -> Alert:
    """The alert after a finding."""
    if alert is None or stage is Stage.ABSENT:
        return _opened(finding, run, now, row)
    if row.resolution is not None:
        # The evidence of its worst moment stays; how it looked when it was over explains nothing.
        return replace(_moved(alert, row, now), last_step=finding.step)
    reopened = stage is Stage.RESOLVED
    severity = finding.severity if reopened else max(alert.severity, finding.severity)
    # Somebody acknowledged what was over, or what was milder: this is news.
    news = reopened or severity > alert.severity
    return replace(
        _moved(alert, row, now),
        severity=severity,
        last_step=finding.step,
        evidence=finding.evidence,
        reason=finding.reason,
        acknowledged_by="" if news else alert.acknowledged_by,
        acknowledged_at=None if news else alert.acknowledged_at,
        # One that must hold again does so from now on.
        opened_at=now if reopened and row.after is AlertState.PENDING else alert.opened_at,
    )


def _opened(finding: Finding, run: Run, now: float, row: Row) -> Alert:
    return Alert(
        alert_id=alert_id(run.run_id, finding.signature, finding.scope, finding.step),
        run_id=run.run_id,
        key=run.key,
        signature=finding.signature,
        scope=finding.scope,
        severity=finding.severity,
        state=row.after,
        since_step=finding.since_step,
        opened_step=finding.step,
        last_step=finding.step,
        opened_at=now,
        updated_at=now,
        resolved_at=None,
        resolution=None,
        evidence=finding.evidence,
        reason=finding.reason,
        fingerprint=fingerprint(run.key, finding.signature, finding.scope),
    )


def _moved(alert: Alert, row: Row, now: float) -> Alert:
    """The alert in the state that the row says, nothing else about it changed."""
    resolved = row.resolution is not None
    return replace(
        alert,
        state=row.after,
        updated_at=now,
        resolved_at=now if resolved else None,
        resolution=row.resolution,
    )
