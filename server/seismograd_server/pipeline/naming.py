"""What an alert names beside what its detector saw: the checkpoint to go back to, and the data that the step saw.

Both were told by the job (`checkpoint_saved`, `log(batch=...)`), and go into the evidence's details, so that whoever is
paged reads them where he reads the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seismograd_server.model import Alert, AlertState, Checkpoint, Transition
from seismograd_server.pipeline.engine import RunEngine
from seismograd_server.store.database import Transaction

# Ranks whose data is named: the one that leads and the first ones. A batch of a large job is on thousands of them.
_RANKS = 4
# Characters of each: enough to find the batch again.
_CHARACTERS = 200
_KEYS = ("checkpoint_step", "checkpoint_path", "data")


def name_all(
    transaction: Transaction, engine: RunEngine, open_alerts: Sequence[Alert], changes: Sequence[Transition]
) -> list[Transition]:
    """The changes of a run's alerts, each alert with its checkpoint and its data; what was named once stays."""
    if not any(change.alert.state is not AlertState.RESOLVED for change in changes):
        return list(changes)
    known = {alert.alert_id: alert for alert in open_alerts}
    checkpoints = transaction.runs.checkpoints(engine.run_id)
    named = []
    for change in changes:
        alert = change.alert
        before = known.get(alert.alert_id)
        if before is None:
            details = {**_checkpoint(checkpoints, alert.since_step), **_data(transaction, engine, alert)}
        else:
            details = {key: value for key, value in before.evidence.details.items() if key in _KEYS}
        evidence = replace(alert.evidence, details={**alert.evidence.details, **details})
        known[alert.alert_id] = replace(alert, evidence=evidence) if details else alert
        named.append(replace(change, alert=known[alert.alert_id]))
    return named


def _checkpoint(checkpoints: Sequence[Checkpoint], onset: int) -> Mapping[str, Any]:
    """The last one of a step before the condition began."""
    good = [each for each in checkpoints if each.step < onset]
    if not good:
        return {}
    last = max(good, key=lambda each: (each.step, each.saved_at))
    return {"checkpoint_step": last.step, "checkpoint_path": last.path}


def _data(transaction: Transaction, engine: RunEngine, alert: Alert) -> Mapping[str, Any]:
    """What the ranks said that the step saw at which the alert opened."""
    step, found = alert.opened_step, {}
    numbers = {rank.handle: rank.rank for rank in transaction.runs.ranks(engine.launch.launch_row)}
    batches = transaction.segments.read(
        engine.launch.launch_row,
        0,
        first_step=step,
        last_step=step,
        on_damage=transaction.damage.noting(engine.run_id),
    )
    for _, batch in batches:
        for row, ids in batch.data_ids.items():
            if int(batch.steps[row]) == step and batch.rank_handle in numbers:
                found[numbers[batch.rank_handle]] = ids
    leading = alert.evidence.leading_rank
    shown = sorted(found, key=lambda rank: (rank != leading, rank))[:_RANKS]
    if not shown:
        return {}
    if len(engine.opened) <= 1:
        return {"data": found[shown[0]][:_CHARACTERS]}
    return {"data": "; ".join(f"rank {rank}: {found[rank][:_CHARACTERS]}" for rank in shown)}
