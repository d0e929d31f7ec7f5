"""The second transaction: closed steps, what they say of alerts, who must hear of it, the checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from seismograd_server.alerts import lifecycle
from seismograd_server.alerts.silencing import lasting_silences
from seismograd_server.detect.facts import facts_of
from seismograd_server.detect.together import look_together
from seismograd_server.detect.watch import Observation
from seismograd_server.model import Alert, AlertState, AskedDirective, Finding, Run, Transition
from seismograd_server.pipeline.asking import Asking
from seismograd_server.pipeline.correlating import correlate, findings_of_time
from seismograd_server.pipeline.engine import Ending, Judged, PipelineSettings, RunEngine
from seismograd_server.pipeline.fleet import Fleet
from seismograd_server.pipeline.naming import name_all
from seismograd_server.pipeline.series import Closed
from seismograd_server.store.database import Transaction
from seismograd_server.store.detectors import DetectorCheckpoint
from seismograd_server.store.outbox import OutboxEntry
from seismograd_server.store.progress import Progress

# To judge fewer steps again costs no more than to save a state; so it is done only this many times less often.
_WORTH_SAVING_STEPS = 64
_PATIENT = 20
# When many states are due at once, as after a pause of the whole fleet, they are saved by and by, those first that have
# waited longest: so few in one go, or one for so many runs. To save one costs about as much as to judge fifty steps.
_SAVES_AT_ONCE = 4
_RUNS_A_SAVE = 32
# What a run's turn costs at least, in steps that are judged along with others.
_LEAST_COST = 16

OutboxEntries = Callable[[Transition, float], Sequence[OutboxEntry]]
"""Who must hear of a transition: (transition, now) -> rows of the outbox."""


@dataclass(slots=True)
class Job:
    """What one run has to have written now, and what came of it."""

    engine: RunEngine
    closed: list[Closed]
    ending: Ending | None
    chores: bool
    judged: list[Judged] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    asked: list[AskedDirective] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Number of steps closed."""
        return sum(each.block.count for each in self.closed)


def take_turns(fleet: Fleet, settings: PipelineSettings, now: float, *, hurry: bool) -> list[Job]:
    """Let the runs that are due close and look at their steps, in turn, until there is enough to write."""
    jobs = _close(fleet, settings, now, hurry=hurry)
    facts = facts_of([each.block for job in jobs for each in job.closed])
    watches = [job.engine.series[each.optimizer].watch for job in jobs for each in job.closed]
    said = iter(look_together(watches, facts))
    judged = []
    for job in jobs:
        own = list(islice(said, len(job.closed)))
        try:
            job.judged = [job.engine.take(closed, _sound(each)) for closed, each in zip(job.closed, own, strict=True)]
        except Exception as error:  # noqa: BLE001 (one run's trouble must not stop the others, nor ingest)
            fleet.give_up(job.engine.run_id, error)
        else:
            judged.append(job)
    return judged


def _sound(said: Observation | Exception) -> Observation:
    """What was said. Raises what was raised."""
    if isinstance(said, Exception):
        raise said
    return said


def _close(fleet: Fleet, settings: PipelineSettings, now: float, *, hurry: bool) -> list[Job]:
    jobs = []
    room = settings.steps_at_once
    for engine in fleet.turns(now, hurry=hurry):
        try:
            ending = engine.ending(now)
            closed = engine.close(now, everything=ending is not None, most=min(room, settings.steps_of_a_run))
        except Exception as error:  # noqa: BLE001 (as above)
            fleet.give_up(engine.run_id, error)
            continue
        if engine.behind:
            ending = None  # its last steps come first
            fleet.expect(engine.run_id)
        chores = now - engine.chores_at >= settings.chores_seconds
        if closed or ending is not None or chores:
            jobs.append(Job(engine, closed, ending, chores))
        room -= max(_LEAST_COST, sum(each.block.count for each in closed))
        if room <= 0:
            break
    return jobs


def write(
    transaction: Transaction, jobs: Sequence[Job], entries_for: OutboxEntries, asking: Asking, now: float
) -> None:
    """Write jobs of different runs; the engines' own fields move along: throw them away if the transaction fails.

    What every job writes is written for all of them at once, because a statement costs more than its rows.

    Raises:
        NotFoundError: a run has been deleted.
        StorageError: the transaction must be rolled back.
    """
    _check_they_exist(transaction, [job.engine.run_id for job in jobs if job.chores])
    _append(transaction, jobs)
    transaction.runs.progress([_progress(job, now) for job in jobs if job.judged])
    for job in jobs:
        _alerts(transaction, job, now)
        for transition in job.transitions:
            if transition.notify:
                transaction.outbox.add(entries_for(transition, now))
        if job.ending is None:
            job.asked = asking.for_alerts(
                transaction, job.engine.run_id, job.transitions, job.engine.rules.policies, now
            )
        else:
            transaction.runs.set_state(job.engine.run_id, job.ending.state, now, job.ending.reason)
            job.engine.end(job.ending, now)
    _do_chores(transaction, [job.engine for job in jobs if job.chores], now)
    save_states(transaction, _due_checkpoints(jobs, now), now)


def _check_they_exist(transaction: Transaction, run_ids: Sequence[int]) -> None:
    missing = set(run_ids) - transaction.runs.existing(run_ids)
    for run_id in missing:
        transaction.runs.by_id(run_id)  # raises, and says which


def _append(transaction: Transaction, jobs: Sequence[Job]) -> None:
    judged = [(job.engine, each.closed) for job in jobs for each in job.judged]
    rows = [(engine.run_id, closed.launch_row, closed.optimizer, closed.block) for engine, closed in judged]
    for (engine, closed), ordinal in zip(judged, transaction.steps.append_all(rows), strict=True):
        series = engine.series[closed.optimizer]
        series.ordinal = ordinal
        series.unsaved_steps += closed.block.count


def _do_chores(transaction: Transaction, engines: Sequence[RunEngine], now: float) -> None:
    seen: dict[int, float] = {}
    for engine in engines:
        seen |= engine.seen
        engine.chores_at, engine.seen = now, {}
    transaction.runs.touch(seen, now)


def _progress(job: Job, now: float) -> Progress:
    engine = job.engine
    blocks = [each.closed.block for each in job.judged if each.closed.optimizer == min(engine.series)]
    # By this server's clock, not by the stamps of the records: a client that is a day ahead must not hide its silence.
    last_record_at = next((at for at in (engine.recorded_at, engine.run.last_record_at) if at is not None), now)
    engine.run = replace(
        engine.run,
        last_step=int(blocks[-1].steps[-1]) if blocks else engine.run.last_step,
        closed_steps=engine.run.closed_steps + sum(block.count for block in blocks),
        last_record_at=last_record_at,
    )
    return Progress(engine.run_id, engine.run.last_step, engine.run.closed_steps, last_record_at)


def _alerts(transaction: Transaction, job: Job, now: float) -> None:
    """Let findings, time and the run's end change its alerts.

    Open alerts are read from the store, because people acknowledge them there.
    """
    engine, run = job.engine, job.engine.run
    policy = engine.rules.policy(engine.settings.policy)
    findings = [
        finding
        for each in job.judged
        for finding in engine.rules.grade(each.observation.findings, each.closed.optimizer)
    ]
    if job.chores and job.ending is None:
        findings += engine.rules.grade(engine.silence(now), min(engine.series, default=0))
    if job.chores:
        findings += engine.rules.grade(findings_of_time(transaction, engine))
    if not findings and job.ending is None and not (job.chores and engine.open_alerts):
        return
    open_alerts = transaction.alerts.open_for_run(run.run_id)
    recent = _recent(transaction, run, findings)
    silences = [*transaction.silences.list(active_at=now), *lasting_silences(run)]
    changes = lifecycle.advance(open_alerts, recent, findings, run, now, policy=policy, silences=silences)
    if job.ending is not None:
        ended = replace(run, state=job.ending.state, ended_at=now)
        changes += lifecycle.end_of_run(_after(open_alerts, changes), ended, now, policy, silences)
    elif job.chores:
        changes += lifecycle.expire(_after(open_alerts, changes), run, now, policy, silences)
    changes += lifecycle.mute(_after(open_alerts, changes), engine.rules.watch.muted, now)
    changes = correlate(transaction, engine, changes, now, silences)
    changes = name_all(transaction, engine, open_alerts, changes)
    job.transitions = transaction.alerts.apply(changes)
    engine.open_alerts = _after(open_alerts, changes)
    opened = Counter(each.alert.signature.value for each in job.transitions if each.before is None)
    if opened:
        engine.count_signatures(Counter(engine.tally.signatures) + opened)


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


def _due_checkpoints(jobs: Sequence[Job], now: float) -> list[tuple[RunEngine, int]]:
    """The optimizers whose detectors are to be saved: all of runs that end, and some of those that are due."""
    ended = [job.engine for job in jobs if job.ending is not None]
    due = [each for job in jobs if job.ending is None for each in _due_of(job, now)]
    due.sort(key=lambda each: each[0].series[each[1]].saving_order)
    most = max(_SAVES_AT_ONCE, len(jobs) // _RUNS_A_SAVE)
    return [(engine, optimizer) for engine in ended for optimizer in sorted(engine.series)] + due[:most]


def _due_of(job: Job, now: float) -> list[tuple[RunEngine, int]]:
    """The optimizers that moved, and have moved for long enough since they were saved."""
    engine = job.engine
    due = []
    for optimizer in sorted({each.closed.optimizer for each in job.judged}):
        series = engine.series[optimizer]
        if series.saved_at is None:
            series.saved_at = now  # the first one is due a while after the first step
        waited = now - series.saved_at
        enough = engine.settings.checkpoint_seconds * (1 if series.unsaved_steps >= _WORTH_SAVING_STEPS else _PATIENT)
        if waited >= enough:
            due.append((engine, optimizer))
    return due


def save_states(transaction: Transaction, series_of: Iterable[tuple[RunEngine, int]], now: float) -> None:
    """Save the detectors of some (run, optimizer): a restart begins there."""
    last_segment = transaction.segments.last_id()
    saved = []
    for engine, optimizer in series_of:
        series = engine.series[optimizer]
        if series.ordinal:
            state = series.state(last_segment)
            saved.append(
                DetectorCheckpoint(
                    engine.run_id, optimizer, series.ordinal, state.to_bytes(), state.attempt, state.segment
                )
            )
            series.saved_at, series.unsaved_steps = now, 0
    transaction.detectors.save_all(saved, now)
