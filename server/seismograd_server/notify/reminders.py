"""What a target that forgets must be told again: alerts that fire, and for a while those that have been resolved."""

from __future__ import annotations

from typing import Any

from seismograd_server.model import Alert, AlertState
from seismograd_server.notify.endpoint import Target, is_told
from seismograd_server.notify.payloads import describe
from seismograd_server.store.database import Database
from seismograd_server.store.transaction import Transaction

_PAGE = 500
# More alerts than this firing at once would be one outage, and its first thousands say so.
_MOST = 5000


def reminders(
    database: Database,
    target: Target,
    now: float,
    repeat_resolved_seconds: float,
    *,
    external_url: str,
    runbooks_url: str = "",
) -> list[dict[str, Any]]:
    """Notifications to repeat now, the firing ones first. Blocks.

    An alert of which nobody was told, because an explosion explains it or a silence covers it, is not repeated.

    Raises:
        StorageError: the store cannot be read.
    """
    with database.read() as transaction:
        firing = _firing(transaction)
        # Newest first by opening: one that opened long ago may be missed, and then was told once, by the outbox.
        resolved = transaction.alerts.list(state=AlertState.RESOLVED, limit=_PAGE)
        # Its end is in the outbox still, perhaps held back: it is told first from there.
        untold = transaction.outbox.waiting_alerts(target.name)
    recent = [
        alert
        for alert in resolved
        if alert.resolved_at is not None and 0 <= now - alert.resolved_at < repeat_resolved_seconds
    ]
    told = [*firing, *(alert for alert in recent if alert.alert_id not in untold)]
    return [
        describe(alert, external_url, runbooks_url)
        for alert in told
        if alert.told and is_told(target, alert.key.project)
    ]


def _firing(transaction: Transaction) -> list[Alert]:
    found: list[Alert] = []
    before: str | None = None
    while len(found) < _MOST:
        page = transaction.alerts.list(state=AlertState.FIRING, limit=_PAGE, before=before)
        found.extend(page)
        if len(page) < _PAGE:
            break
        before = page[-1].alert_id
    return found
