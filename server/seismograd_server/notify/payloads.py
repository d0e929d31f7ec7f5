"""What is written to the outbox and what each kind of target makes of it. Pure.

    Transition --notification--> JSON in the outbox --> Alertmanager's alerts
                                                    '-> webhook's body

A notification is written once, with the transition; what depends on the time of sending is added when it is sent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from seismograd_server.display.text import printable
from seismograd_server.model import Alert, AlertState, Severity, Signature, Transition
from seismograd_server.notify.config import RESENDS_TO_LIVE

# Raised when a field changes its meaning; receivers may rely on it.
PAYLOAD_VERSION = 1

# Alertmanager drops nothing silently: one label name outside of this costs its whole batch.
_LABEL_NAME = re.compile(r"[^a-zA-Z0-9_]")

# What is the same about all alerts of a signature; Alertmanager shows it as the title.
SUMMARIES: Mapping[Signature, str] = {
    Signature.NONFINITE: "NaN or Inf in the gradients or the loss",
    Signature.RUNAWAY: "The gradient norm is running away",
    Signature.SPIKE: "A spike in the gradient norm",
    Signature.DEPTH_GROWTH: "Gradients grow with depth",
    Signature.RECURRENT_GAIN: "A recurrent matrix amplifies its gradients",
    Signature.UPDATE_OVERSHOOT: "Updates are too large for the weights",
    Signature.CLIP_SATURATION: "Clipping hides a growing gradient norm",
    Signature.RANK_OUTLIER: "One rank's gradients stand out",
    Signature.REPLICA_DESYNC: "Replicas that must agree differ",
    Signature.LOSS_SCALE_COLLAPSE: "The loss scale is collapsing",
    Signature.LOSS_DIVERGENCE: "The loss has diverged",
    Signature.VANISHING: "Gradients are vanishing",
    Signature.DEAD_LAYER: "A layer no longer gets a gradient",
    Signature.STALLED: "The run makes no steps",
    Signature.FLEET: "Several runs show the same signature",
}


def run_url(external_url: str, alert: Alert) -> str:
    """The page of the alert's run; empty when nobody said where this server is reached."""
    if not external_url:
        return ""
    project, run = (quote(printable(part), safe="") for part in (alert.key.project, alert.key.run))
    return f"{external_url.rstrip('/')}/runs/{project}/{run}"


def runbook_url(runbooks_url: str, signature: Signature) -> str:
    """The page that says what to do about a signature; empty when nobody said where they are served."""
    return f"{runbooks_url.rstrip('/')}/{alert_name(signature.value)}.md" if runbooks_url else ""


def notification(transition: Transition, external_url: str, runbooks_url: str = "") -> dict[str, Any]:
    """A transition as JSON values, for the outbox.

    `notification_id` is the same in every attempt to deliver it: a receiver that has seen it may ignore the repetition.
    """
    alert = transition.alert
    rose = Severity.NONE < transition.told_before < alert.told
    return describe(alert, external_url, runbooks_url) | {
        # Cause and step alone would take the second reopening at one step for the first.
        "notification_id": f"{alert.alert_id}/{transition.cause}/{alert.last_step}/{transition.at!r}",
        "cause": transition.cause,
        "at": transition.at,
        "severity_before": transition.told_before.label if rose else "",
    }


def describe(alert: Alert, external_url: str, runbooks_url: str = "") -> dict[str, Any]:
    """An alert as people are told of it, as JSON values; numbers may be "NaN", "Infinity" and "-Infinity".

    The severity is the one that they have heard of: a silence or an explosion may have spoken over a higher one.
    """
    evidence = alert.evidence
    return {
        "version": PAYLOAD_VERSION,
        "alert_id": alert.alert_id,
        "fingerprint": alert.fingerprint,
        "project": printable(alert.key.project),
        "run": printable(alert.key.run),
        "signature": alert.signature.value,
        "scope": printable(alert.scope),
        "severity": (alert.told or alert.severity).label,
        "state": alert.state.value,
        "since_step": alert.since_step,
        "opened_step": alert.opened_step,
        "last_step": alert.last_step,
        "opened_at": alert.opened_at,
        "resolved_at": alert.resolved_at,
        "resolution": alert.resolution.value if alert.resolution is not None else "",
        "reason": printable(alert.reason),
        "evidence": json_value(
            {
                "value": evidence.value,
                "baseline": evidence.baseline,
                "threshold": evidence.threshold,
                "doubling_time_steps": evidence.doubling_time_steps,
                "steps_to_overflow": evidence.steps_to_overflow,
                "leading_layer": evidence.leading_layer,
                "leading_rank": evidence.leading_rank,
                "details": evidence.details,
            }
        ),
        "url": run_url(external_url, alert),
        "runbook_url": runbook_url(runbooks_url, alert.signature),
    }


def json_value(value: Any) -> Any:
    """The value with everything replaced that JSON or UTF-8 cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): json_value(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(each) for each in value]
    return value


def alertmanager_alerts(
    note: Mapping[str, Any], now: float, resend_seconds: float, extra_labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What Alertmanager's API v2 is sent for a notification: one alert, or two when the severity has risen.

    The severity is a label, labels are the identity, and so the milder alert has to be closed by hand.
    A firing alert ends by itself after four missed resends, should this server die.
    """
    firing = note["state"] == AlertState.FIRING.value
    ends_at = now + RESENDS_TO_LIVE * resend_seconds if firing else note["resolved_at"] or now
    alerts = [_alertmanager_alert(note, note["severity"], ends_at, extra_labels)]
    if note.get("severity_before"):
        alerts.append(_alertmanager_alert(note, note["severity_before"], note["at"], extra_labels))
    return alerts


def _alertmanager_alert(
    note: Mapping[str, Any], severity: str, ends_at: float, extra_labels: Mapping[str, str]
) -> dict[str, Any]:
    labels = {label_name(name): printable(value) for name, value in extra_labels.items()} | {
        "alertname": alert_name(note["signature"]),
        "project": note["project"],
        "run": note["run"],
        "signature": note["signature"],
        "severity": severity,
        "scope": note["scope"],
    }
    starts_at = note["opened_at"]
    annotations = {
        "summary": SUMMARIES[Signature(note["signature"])],
        "description": description(note),
        "runbook_url": note.get("runbook_url", ""),  # an older version has written none
    }
    return {
        # An empty value is dropped by Alertmanager, and would be a difference to the same alert from a rule.
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {name: value for name, value in annotations.items() if value},
        "startsAt": _timestamp(starts_at),
        # An end before the start is refused with 400; a clock that was set back can bring that about.
        "endsAt": _timestamp(max(ends_at, starts_at)),
        **({"generatorURL": note["url"]} if note["url"] else {}),
    }


def alert_name(signature: str) -> str:
    """The alert's name, as in the shipped Prometheus rules.

    >>> alert_name("rank_outlier")
    'SeismogradRankOutlier'
    """
    return "Seismograd" + "".join(word.capitalize() for word in signature.split("_"))


def label_name(name: str) -> str:
    """A name that every Alertmanager takes.

    >>> label_name("2nd team-name")
    '_2nd_team_name'
    """
    clean = _LABEL_NAME.sub("_", name)
    return f"_{clean}" if not clean or clean[0].isdigit() else clean


def description(note: Mapping[str, Any]) -> str:
    """What has been seen, in a few sentences."""
    evidence = note["evidence"]
    parts = [f"{note['project']}/{note['run']}: {note['reason']}.", f"Since step {note['since_step']}."]
    for name, text in (
        ("leading_layer", "Led by layer {}."),
        ("leading_rank", "Led by rank {}."),
        ("doubling_time_steps", "Doubles every {} steps."),
        ("steps_to_overflow", "Overflows in {} steps."),
    ):
        value = evidence.get(name)
        if value is not None:
            parts.append(text.format(f"{value:.3g}" if isinstance(value, float) else value))
    text = " ".join(parts).replace("..", ".")
    details = evidence.get("details") or {}
    # Behind the cleaning: a path may hold two dots.
    if (step := details.get("checkpoint_step")) is not None:
        text += f" Last good checkpoint: step {step}, {details.get('checkpoint_path') or 'path not given'}."
    if data := details.get("data"):
        text += f" Data of step {note['opened_step']}: {data}."
    return text


def webhook_body(note: Mapping[str, Any]) -> bytes:
    """A webhook's body: the notification as compact JSON."""
    return json.dumps(note, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()


def _timestamp(unix_seconds: float) -> str:
    # Alertmanager reads RFC 3339; beyond the year 9999 there is no such thing.
    bounded = min(max(unix_seconds, 0.0), 253402300799.0)
    return datetime.fromtimestamp(bounded, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
