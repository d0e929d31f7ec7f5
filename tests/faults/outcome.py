"""What has come of the runs that `shipping.py` ships, record by record: the same, however often somebody was killed."""

from __future__ import annotations

from typing import Any

import numpy as np

from seismograd_server.model import RecordKind
from seismograd_server.store.database import Database
from tests.faults.shipping import RANKS, RUNS, STEPS, totals

Outcome = tuple[Any, ...]


def outcome_in(url: str) -> Outcome:
    """Every closed step and every alert with its history, after a look at each stored record."""
    outcome: list[Any] = []
    with Database.open(url, owner="test") as database, database.read() as transaction:
        shipped = [run for run in transaction.runs.list() if run.key.run in RUNS]
        for run in sorted(shipped, key=lambda each: each.key.run):
            (launch,) = transaction.runs.launches(run.run_id)
            numbers = {rank.handle: rank.rank for rank in transaction.runs.ranks(launch.launch_row)}
            received = transaction.segments.received(numbers)
            assert {tuple(intervals) for intervals in received.values()} == {((0, STEPS),)}, "no hole, nothing more"
            batches = [batch for _, batch in transaction.segments.read(launch.launch_row, 0, RecordKind.STEP)]
            for handle, rank in numbers.items():
                own = [batch for batch in batches if batch.rank_handle == handle]
                order = np.argsort(np.concatenate([batch.steps for batch in own]))
                assert np.concatenate([batch.steps for batch in own])[order].tolist() == list(range(STEPS)), "each once"
                sent = RUNS[run.key.run] if rank == 0 else totals(run.key.run)
                stored = [batch.gradient_norms if rank == 0 else batch.total_norms for batch in own]
                # A compactor keeps twelve bits of the mantissa.
                np.testing.assert_allclose(np.concatenate(stored)[order], sent, rtol=2**-12)  # type: ignore[arg-type]  # none is missing
            chunks = list(transaction.steps.read(run.run_id, 0, all_branches=True))
            assert [step for chunk in chunks for step in chunk.steps.tolist()] == list(range(STEPS))
            assert all(chunk.ranks_present.shape[1] == RANKS and chunk.ranks_present.all() for chunk in chunks)
            norms = [norm for chunk in chunks for norm in chunk.global_norm.tolist()]
            alerts = transaction.alerts.list(run.key.project, run.key.run, limit=100)
            told = sorted(
                (alert.signature.value, alert.scope, alert.since_step, alert.opened_step, alert.severity, alert.state)
                for alert in alerts
            )
            history = sorted(
                (alert.signature.value, alert.scope, alert.opened_step, change.step, change.state, change.cause)
                for alert in alerts
                for change in transaction.alerts.history(alert.alert_id)
            )
            outcome.append((run.key.run, run.state, run.closed_steps, run.last_step, norms, told, history))
    return tuple(outcome)
