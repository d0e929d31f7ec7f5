"""Domain types as JSON values with stable keys: the one shape that the API, the report and the commands share. Pure.

JSON knows no NaN: non-finite numbers are the strings "NaN", "Infinity" and "-Infinity". What is not known is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from seismograd_server.alerts.silencing import is_active
from seismograd_server.model import (
    Addressee,
    Alert,
    AskedDirective,
    Checkpoint,
    DetectorStatus,
    DirectiveKind,
    Evidence,
    Launch,
    Precision,
    Rank,
    Run,
    Severity,
    Silence,
)

Json = dict[str, Any]


def number(value: float | None) -> float | str | None:
    """A number as JSON may hold it."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def plain(value: Any) -> Any:
    """Any JSON-like value with its non-finite numbers as strings."""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def column(values: npt.NDArray[Any], known: npt.NDArray[np.bool_] | None = None) -> list[Any]:
    """An array as a JSON list, null where not known; without `known`, NaN is null (it means "not known" then).

    A float32 is given in nine significant digits: no other one has the same, and a reader has half as much to parse.
    """
    if values.dtype.kind != "f":
        return list(values.tolist())
    if values.dtype == np.float32:
        values = _nine_digits(values)
    if known is None:
        known = ~np.isnan(values)
    plain_values = values.tolist()
    if known.all() and np.isfinite(values).all():
        return list(plain_values)
    return [number(value) if there else None for value, there in zip(plain_values, known.tolist(), strict=True)]


def _nine_digits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (8 - np.floor(np.log10(np.abs(wide))))
        rounded = np.rint(wide * scale) / scale
    return np.where(np.isfinite(rounded), rounded, wide)  # of zero and of Inf there is no logarithm


def dumps(value: Any) -> str:
    """JSON text of values made plain; ASCII only, so that no lone surrogate can break an encoder."""
    try:
        # Most values are plain, and to find that out by trying costs half of making them so.
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        return json.dumps(plain(value), allow_nan=False, separators=(",", ":"))


def configuration_of(config_json: str) -> Any:
    """The configuration as JSON; null when there is none or it is not JSON."""
    try:
        return json.loads(config_json) if config_json else None
    except ValueError:
        return None


def run_json(run: Run, firing: Sequence[Alert]) -> Json:
    """A run as lists show it."""
    severity = max((alert.severity for alert in firing), default=Severity.NONE)
    return {
        "project": run.key.project,
        "run": run.key.run,
        "state": run.state.value,
        "severity": severity.label if severity else "",
        "firing_alerts": len(firing),
        "last_step": run.last_step,
        "closed_steps": run.closed_steps,
        "started_at": run.started_at,
        "last_record_at": run.last_record_at,
        "ended_at": run.ended_at,
        "world_size": run.world_size,
        "attempts": run.attempts,
        "framework": run.framework,
        "strategy": run.strategy,
        "failure_reason": run.failure_reason,
        "tags": dict(run.tags),
        "config": plain(configuration_of(run.config_json)),
    }


def evidence_values(evidence: Evidence) -> Json:
    """Evidence as JSON; every key is always there."""
    return {field.name: plain(getattr(evidence, field.name)) for field in fields(evidence)}


def evidence_json(evidence: Evidence) -> str:
    """Evidence as JSON text."""
    return dumps(evidence_values(evidence))


def alert_json(alert: Alert) -> Json:
    """An alert with its evidence."""
    return {
        "alert_id": alert.alert_id,
        "project": alert.key.project,
        "run": alert.key.run,
        "signature": alert.signature.value,
        "scope": alert.scope,
        "severity": alert.severity.label,
        "state": alert.state.value,
        "since_step": alert.since_step,
        "opened_step": alert.opened_step,
        "last_step": alert.last_step,
        "opened_at": alert.opened_at,
        "updated_at": alert.updated_at,
        "resolved_at": alert.resolved_at,
        "resolution": alert.resolution.value if alert.resolution else None,
        "reason": alert.reason,
        "evidence": evidence_values(alert.evidence),
        "fingerprint": alert.fingerprint,
        "acknowledged_by": alert.acknowledged_by,
        "acknowledged_at": alert.acknowledged_at,
        "inhibited_by": alert.inhibited_by,
        "silenced_by": alert.silenced_by,
        "told": alert.told.label,
        "verdict": alert.verdict.value if alert.verdict else None,
    }


def silence_json(silence: Silence, now: float) -> Json:
    """A silence, and whether it silences anything now."""
    return {
        "silence_id": silence.silence_id,
        "active": is_active(silence, now),
        "by": silence.author,
        "reason": silence.reason,
        "project": silence.project,
        "run": silence.run,
        "signature": silence.signature.value if silence.signature else "",
        "created_at": silence.created_at,
        "expires_at": silence.expires_at,
        "ended_by": silence.ended_by,
    }


def precision_json(precision: Precision) -> Json:
    """How often alerts were called right."""
    return {
        "project": precision.project,
        "signature": precision.signature.value,
        "right": precision.right,
        "wrong": precision.wrong,
        "precision": precision.share,
    }


def launch_json(launch: Launch) -> Json:
    """An attempt of a run."""
    return {
        "launch_id": launch.launch_id,
        "attempt": launch.attempt,
        "world_size": launch.world_size,
        "opened_at": launch.opened_at,
        "ended_at": launch.ended_at,
    }


def rank_json(rank: Rank) -> Json:
    """A process of an attempt."""
    return {
        "rank": rank.rank,
        "hostname": rank.hostname,
        "device_name": rank.device_name,
        "device_uuid": rank.device_uuid,
        "driver_version": rank.driver_version,
        "host": dict(rank.host_facts),
        "process_id": rank.process_id,
        "opened_at": rank.opened_at,
        "last_seen_at": rank.last_seen_at,
        "ended_at": rank.ended_at,
        "outcome": rank.outcome,
        "reason": rank.reason,
    }


def checkpoint_json(checkpoint: Checkpoint) -> Json:
    """A checkpoint that the job has written."""
    return {"step": checkpoint.step, "path": checkpoint.path, "saved_at": checkpoint.saved_at}


def directive_json(asked: AskedDirective) -> Json:
    """What the job was asked for, by whom, and what each rank made of it."""
    directive = asked.directive
    window = directive.kind is DirectiveKind.CAPTURE_MORE
    return {
        "directive_id": directive.directive_id,
        "kind": directive.kind.word,
        "asked_by": directive.asked_by,
        "asked_at": directive.asked_at,
        "expires_at": directive.expires_at,
        "reason": directive.reason,
        "alert_id": directive.alert_id,
        "first_step": directive.first_step if window else None,
        "last_step": directive.last_step if window else None,
        "ranks": [_addressee_json(each) for each in asked.addressees],
    }


def _addressee_json(addressee: Addressee) -> Json:
    return {
        "rank": addressee.rank,
        "sent_at": addressee.sent_at,
        "outcome": addressee.outcome.value if addressee.outcome else None,
        "reason": addressee.reason,
        "step": addressee.step,
        "by_another_rank": addressee.by_another_rank,
        "answered_at": addressee.answered_at,
    }


def status_json(status: DetectorStatus) -> Json:
    """What a detector can see."""
    return {"signature": status.signature.value, "visibility": status.visibility.value, "because": status.because}
