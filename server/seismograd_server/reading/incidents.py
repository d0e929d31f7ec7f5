"""Incidents: several runs that fire the same signature together, and what each of these runs fired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seismograd_server.errors import NotFoundError
from seismograd_server.model import Alert, AlertState, Signature
from seismograd_server.reading.encoding import Json, alert_json
from seismograd_server.store.database import Database, Transaction

# Runs of an incident that are read: more than anybody looks through, and each costs a statement.
_RUNS_READ = 100


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident.

    Attributes:
        alert: the alert that tells of it; its id is the incident's.
        of: the signature that its runs fire.
        count: of its runs.
        shared: the tags that these share beyond chance, in words.
        members: the latest alert of that signature of each run that is still stored, the first hundred.
    """

    alert: Alert
    of: Signature
    count: int
    shared: tuple[str, ...]
    members: tuple[Alert, ...] = ()


def read_incidents(database: Database, state: AlertState | None, limit: int, before: str | None) -> Sequence[Incident]:
    """Incidents without their members, newest first.

    Raises:
        NotFoundError: `before` names no alert.
    """
    with database.read() as transaction:
        found = transaction.alerts.list(state=state, limit=limit, before=before, signature=Signature.FLEET)
    return [_incident(alert) for alert in found]


def read_incident(database: Database, incident_id: str) -> Incident:
    """One incident with its members.

    Raises:
        NotFoundError: there is no such incident.
    """
    with database.read() as transaction:
        alert = transaction.alerts.get(incident_id)
        if alert.signature is not Signature.FLEET:
            raise NotFoundError(f"{incident_id} is an alert of one run ({alert.signature.value}) and no incident")
        incident = _incident(alert)
        runs = alert.evidence.details.get("run_ids", ())
        members = [_member(transaction, run_id, incident.of) for run_id in runs[:_RUNS_READ]]
    return Incident(alert, incident.of, incident.count, incident.shared, tuple(each for each in members if each))


def incident_json(incident: Incident) -> Json:
    """An incident as its alert is written, with what it is about."""
    return {
        **alert_json(incident.alert),
        "incident_id": incident.alert.alert_id,
        "of": incident.of.value,
        "count": incident.count,
        "shared": list(incident.shared),
    }


def _incident(alert: Alert) -> Incident:
    details = alert.evidence.details
    return Incident(alert, Signature(details["of"]), int(details["count"]), tuple(details.get("shared", ())))


def _member(transaction: Transaction, run_id: int, signature: Signature) -> Alert | None:
    """What a run fired last; None = the run has been deleted since."""
    try:
        key = transaction.runs.by_id(run_id).key
    except NotFoundError:
        return None
    found = transaction.alerts.list(key.project, key.run, limit=1, signature=signature)
    return found[0] if found else None
