"""A report as JSON with stable keys, for programs; non-finite numbers are strings, unknown ones null. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from seismograd_server.display.curves import CurveData
from seismograd_server.reading.encoding import (
    Json,
    alert_json,
    checkpoint_json,
    column,
    directive_json,
    dumps,
    number,
    run_json,
)
from seismograd_server.report.clip.values import clip_json
from seismograd_server.report.contents import Report


def render_json(report: Report) -> str:
    """The whole report as one JSON object."""
    return dumps(report_values(report)) + "\n"


def report_values(report: Report) -> Json:
    """The report as JSON values."""
    focus, healthy, ranks = report.focus, report.healthy, report.ranks
    return {
        "project": report.key.project,
        "run": report.key.run,
        "written_at": report.written_at,
        "verdict": report.verdict.value,
        "headline": report.headline,
        "summary": list(report.summary),
        "state": run_json(report.run, ()),
        "onset_step": focus.onset,
        "detected_step": focus.detected,
        "failure_step": focus.failure,
        "failure_kind": focus.failure_kind.value if focus.failure_kind else None,
        "last_healthy_step": focus.last_healthy,
        "healthy_norm": None
        if healthy is None
        else {name: getattr(healthy, name) for name in healthy.__dataclass_fields__},
        "facts": [{"label": fact.label, "value": fact.value, "note": fact.note} for fact in report.facts],
        "timeline": [
            {"step": event.step, "time": event.time, "title": event.title, "detail": event.detail}
            for event in report.timeline
        ],
        "layers": [
            {
                "order": rise.order,
                "layer": rise.name,
                "step": rise.step,
                "octaves": number(rise.octaves),
                "peak_octaves": number(rise.peak_octaves),
                "nonfinite_step": rise.nonfinite_step,
            }
            for rise in report.rises
        ],
        "rank": None
        if ranks is None or ranks.suspect is None
        else {
            "rank": ranks.suspect,
            "step": ranks.suspect_step,
            "ratio": number(ranks.suspect_ratio),
            "quantity": ranks.suspect_quantity,
        },
        "alerts": [{"number": entry.number, **alert_json(entry.alert)} for entry in report.alerts],
        "checkpoint": None if report.checkpoint is None else checkpoint_json(report.checkpoint),
        "directives": [directive_json(asked) for asked in report.directives],
        "recorded": [
            {
                "rank": each.rank,
                "hostname": each.hostname,
                "first_step": each.first_step,
                "last_step": each.last_step,
                "steps": each.steps,
                "largest_norm": number(each.largest),
                "largest_step": each.largest_step,
                "layer": each.layer,
                "nonfinite_step": each.nonfinite_step,
            }
            for each in report.recorded
        ],
        "causes": [
            {"cause": cause.kind.value, "weight": cause.weight, "title": cause.title, "evidence": dict(cause.evidence)}
            for cause in report.causes
        ],
        "what_to_try": [
            {"title": advice.title, "reason": advice.reason, "numbers": dict(advice.numbers)}
            for advice in report.advice
        ],
        "clip": clip_json(report.clip),
        "nearest_healthy_run": None
        if report.nearest is None
        else {
            "project": report.nearest.key.project,
            "run": report.nearest.key.run,
            "candidates": report.nearest.candidates,
            "reason": report.nearest.reason,
            "differences": [
                {"kind": each.kind, "key": each.key, "healthy": each.values[0], "this": each.values[1]}
                for each in report.nearest.differences
            ],
            "partings": list(report.nearest.partings),
        },
        "gaps": list(report.gaps),
        "blind": list(report.blind),
        "series": _curve(report.whole),
        "heatmap": _heatmap(report),
    }


def _curve(data: CurveData | None) -> Any:
    if data is None:
        return None
    return {
        "step": data.steps.tolist(),
        "grad_norm": column(data.norm),
        "baseline": column(data.baseline),
        "loss": column(data.loss),
        "clip_threshold": column(data.clip_threshold),
        "nonfinite_steps": data.broken_steps.tolist(),
    }


def _heatmap(report: Report) -> Any:
    heatmap = report.heatmap
    if heatmap is None:
        return None
    return {
        "layers": list(heatmap.names),
        "first_step": heatmap.column_first.tolist(),
        "last_step": heatmap.column_last.tolist(),
        "grad_norm": [column(row.astype(np.float64)) for row in heatmap.norms],
        "octaves": [column(row.astype(np.float64)) for row in heatmap.octaves],
    }
