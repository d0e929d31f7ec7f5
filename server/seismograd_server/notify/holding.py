"""Which notifications of a target wait although they are due: the end of what has only just begun. Pure.

Alertmanager groups what it is told for `group_wait` before it tells anybody, and of an alert that is over by then it
tells nobody at all: a fast explosion with a recovery would never be heard of. So the end is held back until the target
has known the alert as firing for long enough. Behind it waits what comes later of the same alert, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from seismograd_server.model import AlertState
from seismograd_server.store.outbox import OutboxEntry


def not_held(
    rows: Sequence[OutboxEntry], delivered_at: Mapping[str, float], hold_seconds: float, now: float
) -> list[OutboxEntry]:
    """The rows that need not wait, in their order.

    Args:
        rows: of one target, not delivered, in the order in which they were written.
        delivered_at: when something of an alert was last delivered to it, by alert_id.
        hold_seconds: how long it must have known an alert as firing; 0 = nothing is held.
        now: Unix seconds.
    """
    if hold_seconds <= 0:
        return list(rows)
    free: list[OutboxEntry] = []
    held: set[str] = set()
    news: set[str] = set()  # alerts of which the target does not know yet that they fire
    for row in rows:
        if row.alert_id not in held and _is_over(row):
            told_at = delivered_at.get(row.alert_id)
            # A clock that was set back holds nothing.
            is_fresh = told_at is not None and 0 <= now - told_at < hold_seconds
            if row.alert_id in news or is_fresh:
                held.add(row.alert_id)
        if row.alert_id not in held:
            news.add(row.alert_id)
            free.append(row)
    return free


def _is_over(row: OutboxEntry) -> bool:
    try:
        note = json.loads(row.payload)
    except ValueError:  # the lane drops it, and says so
        return False
    return isinstance(note, dict) and note.get("state") == AlertState.RESOLVED.value
