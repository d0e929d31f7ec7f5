"""Alerts as they are, and the history of each; written once however often a replay repeats it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, Row, Select, case, func, insert, select, update

from seismograd_server.errors import NotFoundError
from seismograd_server.model import (
    Alert,
    AlertState,
    Evidence,
    Precision,
    Resolution,
    RunKey,
    Severity,
    Signature,
    Transition,
    Verdict,
)
from seismograd_server.store.alert_tables import alert_transitions, alerts
from seismograd_server.store.schema import runs

# Ids looked through for "did you mean"; so many digits of one are no chance any more, and so alike is one mistyped.
_COMPARED, _PREFIX, _ALIKE = 1000, 4, 0.8


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """One entry of an alert's history; `ordinal` counts from 0 per alert."""

    alert_id: str
    ordinal: int
    before: AlertState | None  # None = opened now
    state: AlertState
    severity: Severity
    step: int
    cause: str
    at: float
    notify: bool
    reason: str
    evidence: Evidence
    author: str  # "" = nobody: it came of itself
    note: str  # what the author wrote


class AlertRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def apply(self, transitions: Sequence[Transition]) -> list[Transition]:
        """Store transitions in order, and return those that were not stored before.

        A transition is known by (run, signature, scope, opened step) and (step, state, severity, cause, time); one
        that is known changes nothing, not even the alert.
        """
        return [transition for transition in transitions if self._apply_one(transition)]

    def get(self, alert_id: str) -> Alert:
        """An alert by its id.

        Raises:
            NotFoundError: there is none.
        """
        return _alert(self._row(alert_id))

    def find(self, run_id: int, signature: Signature, scope: str) -> Alert | None:
        """The alert of a run about this that changed last; None = there has been none.

        By time and not by step, because a run that resumes from a checkpoint goes back in steps.
        """
        row = self._connection.execute(
            _select_alerts()
            .where(alerts.c.run_id == run_id, alerts.c.signature == signature, alerts.c.scope == scope)
            .order_by(alerts.c.updated_at.desc(), alerts.c.alert_row.desc())
            .limit(1)
        ).one_or_none()
        return None if row is None else _alert(row)

    def open_for_run(self, run_id: int) -> list[Alert]:
        """The alerts of a run that are not resolved, in the order in which they opened."""
        rows = self._connection.execute(
            _select_alerts()
            .where(alerts.c.run_id == run_id, alerts.c.state != AlertState.RESOLVED)
            .order_by(alerts.c.alert_row)
        )
        return [_alert(row) for row in rows]

    def list(
        self,
        project: str | None = None,
        run: str | None = None,
        state: AlertState | None = None,
        limit: int = 100,
        before: str | None = None,
        *,
        signature: Signature | None = None,
    ) -> Sequence[Alert]:
        """Alerts, newest first; the next page is the one `before` the last alert_id of this one.

        Raises:
            NotFoundError: `before` names no alert.
        """
        statement = _select_alerts().order_by(alerts.c.alert_row.desc()).limit(limit)
        if project is not None:
            statement = statement.where(runs.c.project == project)
        if run is not None:
            statement = statement.where(runs.c.run == run)
        if state is not None:
            statement = statement.where(alerts.c.state == state)
        if signature is not None:
            statement = statement.where(alerts.c.signature == signature)
        if before is not None:
            statement = statement.where(alerts.c.alert_row < self._row(before).alert_row)
        return [_alert(row) for row in self._connection.execute(statement)]

    def history(self, alert_id: str) -> Sequence[AlertEvent]:
        """What has happened to an alert, in order.

        Raises:
            NotFoundError: there is no such alert.
        """
        rows = self._connection.execute(
            select(alert_transitions)
            .where(alert_transitions.c.alert_row == self._row(alert_id).alert_row)
            .order_by(alert_transitions.c.ordinal)
        )
        return [_event(row, alert_id) for row in rows]

    def openings(self, run_id: int) -> Mapping[str, AlertEvent]:
        """What each alert of a run said when it opened, by alert_id."""
        history = alert_transitions.c
        rows = self._connection.execute(
            select(alert_transitions, alerts.c.alert_id)
            .join(alerts, alerts.c.alert_row == history.alert_row)
            .where(alerts.c.run_id == run_id, history.ordinal == 0)
        )
        return {row.alert_id: _event(row, row.alert_id) for row in rows}

    def precision(self, project: str | None = None) -> Sequence[Precision]:
        """How often alerts were called right, by project and signature, of those that somebody judged."""
        right = func.sum(case((alerts.c.verdict == Verdict.RIGHT, 1), else_=0))
        statement = (
            select(runs.c.project, alerts.c.signature, right, func.count())
            .join(runs, runs.c.run_id == alerts.c.run_id)
            .where(alerts.c.verdict != "")
            .group_by(runs.c.project, alerts.c.signature)
            .order_by(runs.c.project, alerts.c.signature)
        )
        if project is not None:
            statement = statement.where(runs.c.project == project)
        rows = self._connection.execute(statement).all()
        return [Precision(name, Signature(signature), hits, count - hits) for name, signature, hits, count in rows]

    def _row(self, alert_id: str) -> Row[tuple[object, ...]]:
        row = self._connection.execute(_select_alerts().where(alerts.c.alert_id == alert_id)).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no alert {alert_id}{self._hint(alert_id)}")
        return row

    def _hint(self, alert_id: str) -> str:
        """Which alert may have been meant: one whose id begins so, or looks like it."""
        known = self._connection.scalars(select(alerts.c.alert_id).order_by(alerts.c.alert_row.desc()).limit(_COMPARED))
        ids = known.all()
        begins = [each for each in ids if len(alert_id) >= _PREFIX and each.startswith(alert_id)]
        meant = begins[:1] or difflib.get_close_matches(alert_id, ids, n=1, cutoff=_ALIKE)
        return f": did you mean {meant[0]}?" if meant else ": `seismograd alerts list` shows those there are"

    def _apply_one(self, transition: Transition) -> bool:
        alert = transition.alert
        existing = self._connection.execute(
            select(alerts.c.alert_row).where(
                alerts.c.run_id == alert.run_id,
                alerts.c.signature == alert.signature,
                alerts.c.scope == alert.scope,
                alerts.c.opened_step == alert.opened_step,
            )
        ).one_or_none()
        if existing is None:
            statement = insert(alerts).values(_values(alert)).returning(alerts.c.alert_row)
            alert_row, ordinal = self._connection.scalars(statement).one(), 0
        else:
            alert_row = existing.alert_row
            history = alert_transitions.c
            is_known = select(history.ordinal).where(
                history.alert_row == alert_row,
                history.step == alert.last_step,
                history.state == alert.state,
                history.severity == int(alert.severity),
                history.cause == transition.cause,
                history.at == transition.at,
            )
            if self._connection.execute(is_known).first() is not None:
                return False
            last = self._connection.scalar(select(func.max(history.ordinal)).where(history.alert_row == alert_row))
            ordinal = 0 if last is None else last + 1
            self._connection.execute(update(alerts).where(alerts.c.alert_row == alert_row).values(_values(alert)))
        self._connection.execute(
            insert(alert_transitions).values(
                alert_row=alert_row,
                ordinal=ordinal,
                before=transition.before,
                state=alert.state,
                severity=int(alert.severity),
                step=alert.last_step,
                cause=transition.cause,
                at=transition.at,
                notify=int(transition.notify),
                reason=alert.reason,
                evidence_json=_evidence_json(alert.evidence),
                author=transition.author,
                note=transition.note,
            )
        )
        return True


def _select_alerts() -> Select[tuple[object, ...]]:
    return select(alerts, runs.c.project, runs.c.run).join(runs, runs.c.run_id == alerts.c.run_id)


def _values(alert: Alert) -> dict[str, object]:
    return {
        "alert_id": alert.alert_id,
        "run_id": alert.run_id,
        "signature": alert.signature,
        "scope": alert.scope,
        "severity": int(alert.severity),
        "state": alert.state,
        "since_step": alert.since_step,
        "opened_step": alert.opened_step,
        "last_step": alert.last_step,
        "opened_at": alert.opened_at,
        "updated_at": alert.updated_at,
        "resolved_at": alert.resolved_at,
        "resolution": alert.resolution,
        "evidence_json": _evidence_json(alert.evidence),
        "reason": alert.reason,
        "fingerprint": alert.fingerprint,
        "acknowledged_by": alert.acknowledged_by,
        "acknowledged_at": alert.acknowledged_at,
        "inhibited_by": alert.inhibited_by,
        "told": int(alert.told),
        "silenced_by": alert.silenced_by,
        "verdict": "" if alert.verdict is None else alert.verdict.value,
    }


def _evidence_json(evidence: Evidence) -> str:
    # Python's JSON spells NaN and Infinity and reads them back: numbers in evidence may be either.
    return json.dumps(asdict(evidence))


def _evidence(text: str) -> Evidence:
    return Evidence(**json.loads(text))


def _event(row: Row[tuple[object, ...]], alert_id: str) -> AlertEvent:
    return AlertEvent(
        alert_id=alert_id,
        ordinal=row.ordinal,
        before=None if row.before is None else AlertState(row.before),
        state=AlertState(row.state),
        severity=Severity(row.severity),
        step=row.step,
        cause=row.cause,
        at=row.at,
        notify=bool(row.notify),
        reason=row.reason,
        evidence=_evidence(row.evidence_json),
        author=row.author,
        note=row.note,
    )


def _alert(row: Row[tuple[object, ...]]) -> Alert:
    return Alert(
        alert_id=row.alert_id,
        run_id=row.run_id,
        key=RunKey(row.project, row.run),
        signature=Signature(row.signature),
        scope=row.scope,
        severity=Severity(row.severity),
        state=AlertState(row.state),
        since_step=row.since_step,
        opened_step=row.opened_step,
        last_step=row.last_step,
        opened_at=row.opened_at,
        updated_at=row.updated_at,
        resolved_at=row.resolved_at,
        resolution=None if row.resolution is None else Resolution(row.resolution),
        evidence=_evidence(row.evidence_json),
        reason=row.reason,
        fingerprint=row.fingerprint,
        acknowledged_by=row.acknowledged_by,
        acknowledged_at=row.acknowledged_at,
        inhibited_by=row.inhibited_by,
        told=Severity(row.told),
        silenced_by=row.silenced_by,
        verdict=Verdict(row.verdict) if row.verdict else None,
    )
