"""The second transaction, for one run: closed steps, what they say of alerts, who must hear of it, the checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from seismograd_server.alerts import lifecycle
from seismograd_server.model import Alert, AlertState, AskedDirective, Finding, Run, Transition
from seismograd_server.pipeline.asking import Asking
from seismograd_server.pipeline.engine import Ending, Judged, RunEngine
from seismograd_server.pipeline.naming import name_all
from seismograd_server.store.database import Transaction
from seismograd_server.store.outbox import OutboxEntry

OutboxEntries = Callable[[Transition, float], Sequence[OutboxEntry]]
"""Who must hear of a transition: (transition, now) -> rows of the outbox."""


@dataclass(slots=True)
class Job:
    """What one run has to have written now, and what came of it."""

    engine: RunEngine
    judged: list[Judged]
    ending: Ending | None
    chores: bool
    transitions: list[Transition] = field(default_factory=list)
    asked: list[AskedDirective] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Number of steps closed."""
        return sum(each.closed.block.count for each in self.judged)


def write(transaction: Transaction, job: Job, entries_for: OutboxEntries, asking: Asking, now: float) -> None:
    """Write a job; the engine's own fields move along, so that it must be thrown away if the transaction fails.

    Raises:
        NotFoundError: the run has been deleted.
        StorageError: the transaction must be rolled back.
    """
    engine = job.engine
    if job.chores:
        transaction.runs.by_id(engine.run_id)
    for each in job.judged:
        closed = each.closed
        series = engine.series[closed.optimizer]
        series.ordinal = transaction.steps.append(engine.run_id, closed.launch_row, closed.optimizer, closed.block)
    _progress(transaction, job, now)
    _alerts(transaction, job, now)
    for transition in job.transitions:
        if transition.notify:
            transaction.outbox.add(entries_for(transition, now))
    if job.ending is None:
        job.asked = asking.for_alerts(transaction, engine.run_id, job.transitions, now)
    else:
        transaction.runs.set_state(engine.run_id, job.ending.state, now, job.ending.reason)
        engine.end(job.ending, now)
    if job.chores:
        engine.chores_at = now
        transaction.runs.touch(engine.seen, now)
        engine.seen = {}
    _checkpoint(transaction, job, now)


def _progress(transaction: Transaction, job: Job, now: float) -> None:
    engine = job.engine
    if not job.judged:
        return
    blocks = [each.closed.block for each in job.judged if each.closed.optimizer == min(engine.series)]
    # By this server's clock, not by the stamps of the records: a client that is a day ahead must not hide its silence.
    last_record_at = next((at for at in (engine.recorded_at, engine.run.last_record_at) if at is not None), now)
    engine.run = replace(
        engine.run,
        last_step=int(blocks[-1].steps[-1]) if blocks else engine.run.last_step,
        closed_steps=engine.run.closed_steps + sum(block.count for block in blocks),
        last_record_at=last_record_at,
    )
    transaction.runs.progress(
        engine.run_id,
        last_step=engine.run.last_step,
        closed_steps=engine.run.closed_steps,
        last_record_at=last_record_at,
    )


def _alerts(transaction: Transaction, job: Job, now: float) -> None:
    """Let findings, time and the run's end change its alerts.

    Open alerts are read from the store, because people acknowledge them there.
    """
    engine, run = job.engine, job.engine.run
    policy = engine.rules.policy(engine.settings.policy)
    findings = engine.rules.grade(finding for each in job.judged for finding in _scoped(each))
    if not findings and job.ending is None and not (job.chores and engine.open_alerts):
        return
    open_alerts = transaction.alerts.open_for_run(run.run_id)
    changes = lifecycle.advance(open_alerts, _recent(transaction, run, findings), findings, run, now, policy=policy)
    if job.ending is not None:
        ended = replace(run, state=job.ending.state, ended_at=now)
        changes += lifecycle.end_of_run(_after(open_alerts, changes), ended, now, policy)
    elif job.chores:
        changes += lifecycle.expire(_after(open_alerts, changes), run, now, policy)
    changes += lifecycle.mute(_after(open_alerts, changes), engine.rules.watch.muted, now)
    changes = name_all(transaction, engine, open_alerts, changes)
    job.transitions = transaction.alerts.apply(changes)
    engine.open_alerts = _after(open_alerts, changes)
    opened = Counter(each.alert.signature.value for each in job.transitions if each.before is None)
    if opened:
        engine.count_signatures(Counter(engine.tally.signatures) + opened)


def _scoped(judged: Judged) -> list[Finding]:
    """The findings of a block; those of further optimizers say so, because one run has one alert per scope."""
    optimizer = judged.closed.optimizer
    if optimizer == 0:
        return list(judged.observation.findings)
    prefix = f"optimizer:{optimizer}"
    return [
        replace(finding, scope=f"{prefix}/{finding.scope}" if finding.scope else prefix)
        for finding in judged.observation.findings
    ]


def _recent(transaction: Transaction, run: Run, findings: Sequence[Finding]) -> list[Alert]:
    """The latest alert about each thing that is found now, if it is over: it may be the same one again."""
    found = (
        transaction.alerts.find(run.run_id, signature, scope)
        for signature, scope in {(finding.signature, finding.scope): None for finding in findings}
    )
    return [alert for alert in found if alert is not None and alert.state is AlertState.RESOLVED]


def _after(open_alerts: Sequence[Alert], changes: Sequence[Transition]) -> list[Alert]:
    """The open alerts after some changes."""
    alerts = {alert.alert_id: alert for alert in open_alerts}
    alerts.update((change.alert.alert_id, change.alert) for change in changes)
    return [alert for alert in alerts.values() if alert.state is not AlertState.RESOLVED]


def _checkpoint(transaction: Transaction, job: Job, now: float) -> None:
    """Save the detectors of every optimizer that moved, every few seconds and at the end."""
    engine = job.engine
    due = engine.series.keys() if job.ending is not None else {each.closed.optimizer for each in job.judged}
    for optimizer in sorted(due):
        series = engine.series[optimizer]
        if series.saved_at is None:
            series.saved_at = now  # the first one is due a while after the first step
        if job.ending is not None or now - series.saved_at >= engine.settings.checkpoint_seconds:
            save_states(transaction, engine, [optimizer], now)


def save_states(transaction: Transaction, engine: RunEngine, optimizers: Iterable[int], now: float) -> None:
    """Save the detectors of some optimizers of a run: a restart begins there."""
    for optimizer in optimizers:
        series = engine.series[optimizer]
        if series.ordinal:
            state = series.state(transaction.segments.last_id()).to_bytes()
            transaction.detectors.save(engine.run_id, optimizer, series.ordinal, state, now)
            series.saved_at = now
