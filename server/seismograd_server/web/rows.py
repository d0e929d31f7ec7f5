"""Runs, alerts and directives as the pages show them: plain values for the templates."""

from __future__ import annotations

from collections import Counter
from typing import Any

from seismograd_server.display.numbers import duration, timestamp
from seismograd_server.model import BY_ALERT, Alert, AlertState, AskedDirective, Run, Severity, Tally
from seismograd_server.reading.runs import worst
from seismograd_server.web.trail_picture import trail_path


def run_row(run: Run, firing: list[Alert], tally: Tally | None, now: float) -> dict[str, Any]:
    """A run in a list, or the facts at the head of its page."""
    severity = worst(firing)
    newest = max(firing, key=lambda alert: (alert.severity, alert.opened_at), default=None)
    return {
        "key": run.key,
        "rank": int(severity),
        "severity": severity.label if severity > Severity.NONE else "",
        "state": run.state.value,
        "step": run.last_step,
        "steps": run.closed_steps,
        "norm": tally.grad_norm if tally else None,
        "baseline": tally.grad_norm_baseline if tally else None,
        "loss": tally.loss if tally else None,
        "trail": trail_path(run),
        "age": duration(max(0.0, now - run.last_record_at)) if run.last_record_at else "never",
        "firing": len(firing),
        "reason": newest.reason if newest else run.failure_reason,
        "world_size": run.world_size,
        "attempts": run.attempts,
        "framework": run.framework,
    }


def asked_row(asked: AskedDirective) -> dict[str, Any]:
    """What was asked of a job, by whom, and what the ranks answered."""
    directive = asked.directive
    outcomes = Counter(each.outcome.value if each.outcome else "no answer" for each in asked.addressees)
    return {
        "kind": directive.kind.word,
        "by": "an alert" if directive.asked_by == BY_ALERT else directive.asked_by,
        "when": timestamp(directive.asked_at),
        "reason": directive.reason,
        "outcomes": ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())),
    }


def alert_row(alert: Alert, now: float, number: str) -> dict[str, Any]:
    """An alert on the page of its run; `number` is that of its mark on the charts, "" = it has none."""
    evidence = alert.evidence
    return {
        "number": number,
        "alert_id": alert.alert_id,
        "signature": alert.signature.value,
        "severity": alert.severity.label,
        "state": alert.state.value if alert.resolution is None else f"resolved, {alert.resolution.value}",
        "firing": alert.state is AlertState.FIRING,
        "step": alert.opened_step,
        "ago": duration(max(0.0, now - alert.opened_at)),
        "reason": alert.reason,
        "layer": evidence.leading_layer,
        "leading_rank": evidence.leading_rank,
        "checkpoint_step": evidence.details.get("checkpoint_step"),
        "checkpoint_path": evidence.details.get("checkpoint_path"),
        "data": evidence.details.get("data"),
        "acknowledged_by": alert.acknowledged_by,
        "silenced": bool(alert.silenced_by) and alert.state is AlertState.FIRING,
        "verdict": alert.verdict.value if alert.verdict else "",
    }
