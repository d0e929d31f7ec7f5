"""From a transition to its rows in the outbox, written in the transaction of the transition."""

from __future__ import annotations

import json
from collections.abc import Iterable

from seismograd_server.model import Transition
from seismograd_server.notify.endpoint import Target, is_told
from seismograd_server.notify.payloads import notification
from seismograd_server.store.outbox import OutboxEntry


def entries_for(
    transition: Transition, targets: Iterable[Target], now: float, external_url: str = "", runbooks_url: str = ""
) -> list[OutboxEntry]:
    """One entry per target that is told of the project, or none when nobody needs to hear of it.

    Args:
        transition: what happened.
        targets: whom to tell.
        now: Unix seconds; the entries are due at once.
        external_url: where people reach this server; empty = notifications carry no link.
        runbooks_url: where the pages of deploy/runbooks are served; empty = notifications lead to none.
    """
    if not transition.notify:
        return []
    note = notification(transition, external_url, runbooks_url)
    payload = json.dumps(note, allow_nan=False)
    return [
        OutboxEntry(
            entry_id=None,
            target=target.name,
            alert_id=transition.alert.alert_id,
            created_at=now,
            due_at=now,
            attempts=0,
            payload=payload,
            last_error="",
            dedupe_key=f"{note['notification_id']}/{target.name}",
        )
        for target in targets
        if is_told(target, transition.alert.key.project)
    ]
