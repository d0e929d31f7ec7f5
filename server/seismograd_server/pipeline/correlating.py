"""Alerts of different runs, seen together: one incident is stored and told, and speaks for those that follow.

The incident is an alert of the run whose alert made it one, and is told to whoever is told of that run's project: it
speaks for the runs of this project alone. What is silenced counts for none: an incident of a sweep that somebody has
silenced would tell of it all the same. Everything is read from the store, so that a restart changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from seismograd_server.alerts import fleet, lifecycle
from seismograd_server.alerts.fleet import FleetPolicy, Member
from seismograd_server.model import Alert, AlertState, Finding, Run, Severity, Signature, Silence, Transition
from seismograd_server.pipeline.engine import RunEngine
from seismograd_server.store.database import Transaction

# Firing alerts looked through: more than that many runs do not fire at once on one server.
_FIRING = 2000
# Runs that an incident is compared with; more would not make the test sharper, and cost two statements each.
_OTHERS = 200


def correlate(
    transaction: Transaction,
    engine: RunEngine,
    changes: Sequence[Transition],
    now: float,
    silences: Sequence[Silence] = (),
) -> list[Transition]:
    """The changes of a run's alerts, in the light of what other runs fire: some need not be told, one may be added."""
    found = list(changes)
    if engine.run.imported:
        return found  # when it was read tells nothing of when it happened
    if Signature.FLEET in engine.rules.watch.muted or not any(_has_struck(change) for change in changes):
        return found
    policy = engine.rules.fleet_policy(engine.settings.fleet)
    firing = transaction.alerts.list(state=AlertState.FIRING, limit=_FIRING)
    for place, change in enumerate(changes):
        if not _has_struck(change):
            continue
        signature = change.alert.signature
        known = [alert for alert in firing if alert.run_id != engine.run_id and not alert.silenced_by]
        members = fleet.together([*known, change.alert], signature, now, policy)
        about, project = fleet.scope_of(signature), engine.run.key.project
        others = [each for each in members if each.alert_id != change.alert.alert_id]
        incidents = [
            each
            for each in firing
            if each.signature is Signature.FLEET and each.scope == about and fleet.goes_on(each, others)
        ]
        own = next((each for each in incidents if each.key.project == project), None)
        if incidents:
            _tell_worse(transaction, own or incidents[0], members, policy, now)
            if own is not None and fleet.speaks_for(own, change.alert):
                found[place:] = _spoken_for(found[place:])
        # Whom an incident of another project was told to, need not be who looks after this one.
        counted = [each for each in members if each.key.project == project] if incidents else members
        if own is None and len(counted) >= policy.least_runs:
            found += _open(transaction, engine, change.alert, members, now, silences=silences)
    return found


def findings_of_time(transaction: Transaction, engine: RunEngine) -> list[Finding]:
    """What has become of the incidents that a run carries."""
    carried = [alert for alert in engine.open_alerts if alert.signature is Signature.FLEET]
    if not carried:
        return []
    firing = transaction.alerts.list(state=AlertState.FIRING, limit=_FIRING)
    return [fleet.over(alert) for alert in carried if fleet.is_over(alert, firing)]


def _has_struck(change: Transition) -> bool:
    """Whether an alert has just become critical, fires, and is one that people want to hear of."""
    alert = change.alert
    if alert.signature is Signature.FLEET or alert.state is not AlertState.FIRING or alert.silenced_by:
        return False
    was_critical = change.before is AlertState.FIRING and change.severity_before is Severity.CRITICAL
    return alert.severity is Severity.CRITICAL and not was_critical


def _spoken_for(changes: Sequence[Transition]) -> list[Transition]:
    """The incident tells of the first; nobody need hear of one more run, nor of what it becomes in the same moment."""
    first, *later = changes
    if not first.notify:
        return list(changes)
    told = first.told_before
    found = [replace(first, alert=_unheard(first.alert, told), notify=False)]
    for change in later:
        if change.alert.alert_id != first.alert.alert_id:
            found.append(change)
            continue
        notify = change.notify and told > Severity.NONE
        found.append(replace(change, alert=_unheard(change.alert, told), told_before=told, notify=notify))
    return found


def _unheard(alert: Alert, told: Severity) -> Alert:
    return replace(alert, inhibited_by=alert.inhibited_by or Signature.FLEET.value, told=told)


def _open(
    transaction: Transaction,
    engine: RunEngine,
    alert: Alert,
    members: Sequence[Alert],
    now: float,
    *,
    silences: Sequence[Silence],
) -> list[Transition]:
    finding = _incident(
        transaction, alert.signature, alert.last_step, members, engine.rules.fleet_policy(engine.settings.fleet)
    )
    past = transaction.alerts.find(engine.run_id, finding.signature, finding.scope)
    policy = engine.rules.policy(engine.settings.policy)
    recent = [] if past is None else [past]
    findings = engine.rules.grade([finding])
    return lifecycle.advance((), recent, findings, engine.run, now, policy=policy, silences=silences)


def _tell_worse(
    transaction: Transaction, incident: Alert, members: Sequence[Alert], policy: FleetPolicy, now: float
) -> None:
    """Bring the evidence of an incident up to date when it has grown much; it fires already."""
    known = set(incident.evidence.details.get("run_ids", ()))
    if not fleet.is_news(len(known | {alert.run_id for alert in members}), len(known)):
        return
    before = [
        alert for alert in transaction.alerts.list(state=AlertState.FIRING, limit=_FIRING) if alert.run_id in known
    ]
    before = [alert for alert in before if fleet.scope_of(alert.signature) == incident.scope]
    grown = list({alert.run_id: alert for alert in [*before, *members]}.values())
    signature = members[0].signature
    finding = _incident(transaction, signature, incident.last_step, grown, policy)
    finding = replace(finding, severity=incident.severity, since_step=incident.since_step)
    run = transaction.runs.by_id(incident.run_id)
    transaction.alerts.apply(lifecycle.advance([incident], (), [finding], run, now))


def _incident(
    transaction: Transaction, signature: Signature, step: int, alerts: Sequence[Alert], policy: FleetPolicy
) -> Finding:
    inside = {alert.run_id for alert in alerts}
    members = [_member(transaction, transaction.runs.by_id(run_id)) for run_id in sorted(inside)]
    live = [run for run in transaction.runs.live() if run.run_id not in inside][-_OTHERS:]
    others = [_member(transaction, run) for run in live]
    return fleet.incident(signature, step, members, others, policy)


def _member(transaction: Transaction, run: Run) -> Member:
    """A run with its tags, and with what its latest launch ran on."""
    tags = set(run.tags.items())
    launches = transaction.runs.launches(run.run_id)
    for rank in transaction.runs.ranks(launches[-1].launch_row) if launches else ():
        tags |= {("host", rank.hostname), ("device", rank.device_name), ("driver", rank.driver_version)}
        tags |= set(rank.host_facts.items())
    return Member(run.run_id, run.key, frozenset((name, value) for name, value in tags if value))
