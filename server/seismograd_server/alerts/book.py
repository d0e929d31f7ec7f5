"""The alerts of one run while transitions are entered: what each becomes, and who hears of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from seismograd_server.alerts.inhibition import inhibitor
from seismograd_server.alerts.silencing import silencer
from seismograd_server.alerts.table import Row, Voice
from seismograd_server.model import Alert, AlertState, Severity, Silence, Transition


class Book:
    """The alerts of one run while transitions are being entered: one alert at a time for each fingerprint."""

    def __init__(
        self, open_alerts: Iterable[Alert], recent: Iterable[Alert], now: float, silences: Sequence[Silence] = ()
    ) -> None:
        self.transitions: list[Transition] = []
        self._silences = silences
        self._now = now
        self._by_id: dict[str, Alert] = {}
        self._latest: dict[str, Alert] = {}
        # Open ones last, so that an open alert always is the latest of its fingerprint.
        for alert in [*sorted(recent, key=lambda each: (each.updated_at, each.opened_step)), *open_alerts]:
            self._keep(alert)

    def open(self) -> list[Alert]:
        """Those that are pending or firing."""
        return [alert for alert in self._latest.values() if alert.state is not AlertState.RESOLVED]

    def latest(self, name: str) -> Alert | None:
        """The alert of a fingerprint that is open, else the one that changed last."""
        return self._latest.get(name)

    def silencer(self, alert: Alert) -> str:
        """The silence that covers an alert now."""
        return silencer(alert, self._silences, self._now)

    def by_id(self, alert: str) -> Alert | None:
        """An alert by its id."""
        return self._by_id.get(alert)

    def enter(self, alert: Alert, row: Row) -> None:
        """Write a transition down, with who hears of it."""
        before = self._by_id.get(alert.alert_id)
        # Who has heard of an alert will hear of its end, even when something speaks over what lies between.
        told = before.told if before is not None and before.state is AlertState.FIRING else Severity.NONE
        notify = row.voice is Voice.REPLY and told > Severity.NONE
        if row.voice is Voice.ALOUD:
            explosion, silence = inhibitor(alert, self.open()), self.silencer(alert)
            notify = not explosion and not silence and not alert.acknowledged_by
            alert = replace(
                alert,
                inhibited_by=explosion if told is Severity.NONE else "",
                silenced_by=silence,
                told=alert.severity if notify else told,
            )
        self._keep(alert)
        self.transitions.append(
            Transition(
                alert=alert,
                before=before.state if before is not None else None,
                cause=row.cause,
                at=self._now,
                notify=notify,
                severity_before=before.severity if before is not None else Severity.NONE,
                told_before=told,
            )
        )

    def _keep(self, alert: Alert) -> None:
        self._by_id[alert.alert_id] = alert
        self._latest[alert.fingerprint] = alert
