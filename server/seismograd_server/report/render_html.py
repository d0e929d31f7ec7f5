"""A report as one HTML page: nothing is fetched; its one style sheet and one script are named by hash in the policy."""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
import numpy as np
from markupsafe import Markup

from seismograd_server.display.charts import Mark, Moments, loss_chart, norm_chart, ranks_chart
from seismograd_server.display.heat_chart import LEFT as HEATMAP_LEFT
from seismograd_server.display.heat_chart import heat_chart
from seismograd_server.display.look import key_swatch, readout_script, shared_css
from seismograd_server.display.numbers import clock_time, figure, octaves, times, timestamp
from seismograd_server.display.text import plural, printable
from seismograd_server.model import Alert, AlertState, Severity
from seismograd_server.report.asked import asked_rows, recorded_rows
from seismograd_server.report.clip.values import distribution_sentence, drift_sentence, threshold_rows
from seismograd_server.report.contents import Event, LayerRise, NumberedAlert, RankView, Report
from seismograd_server.report.nearest import difference_rows
from seismograd_server.report.summary import signature_name

_TEMPLATES = Path(__file__).parent / "templates"
# More rows than these are in the JSON report.
_SHOWN_RISES = 12
_SHOWN_ALERTS = 24
_SHOWN_MARKS = 24
_DETAIL_LENGTH = 80


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = lambda value: printable(str(value))
    environment.filters["steps"] = lambda value: f"{value:,}"
    return environment


def template(name: str) -> jinja2.Template:
    """A template of the reports."""
    return _environment().get_template(name)


@functools.cache
def page_css() -> str:
    """The style sheet of a report."""
    return shared_css() + (_TEMPLATES / "page.css").read_text(encoding="utf-8")


@functools.cache
def content_security_policy() -> str:
    """The policy of a report: nothing but its own style sheet and script, known by their hashes."""
    style, script = _digest(page_css()), _digest(readout_script())
    allowed = f"style-src 'sha256-{style}'; script-src 'sha256-{script}'"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render_html(report: Report, run_url: str = "") -> str:
    """The page. `run_url` leads to the live page; empty, or not http(s), leaves the link out."""
    moments = Moments(report.focus.onset, report.focus.failure)
    marks = _marks(report)
    return template(
        "page.html"
    ).render(
        report=report,
        name=printable(str(report.key)),
        project=printable(report.key.project),
        run=printable(report.key.run),
        policy=Markup(content_security_policy()),  # noqa: S704 - made here, of letters and quotes that HTML keeps
        css=Markup(page_css()),  # noqa: S704 - a file of this package
        script=Markup(readout_script()),  # noqa: S704 - likewise
        written=timestamp(report.written_at),
        summary=[printable(sentence) for sentence in report.summary],
        norm_chart=_drawn(norm_chart(report.whole, marks, moments, "norm") if report.whole else ""),
        loss_chart=_drawn(loss_chart(report.whole, marks, moments, "loss") if report.whole else ""),
        legend=_drawn(_legend(report)),
        around_chart=_drawn(_around(report, marks, moments)),
        heat_chart=_drawn(heat_chart(report.heatmap, moments, "heat") if report.heatmap else ""),
        heat_note=_heat_note(report),
        rises=[_RiseRow.of(rise) for rise in report.rises[:_SHOWN_RISES]],
        rank_charts=_rank_charts(report.ranks, moments),
        rank_note=_rank_note(report.ranks),
        clip_rows=threshold_rows(report.clip),
        clip_drift=drift_sentence(report.clip),
        clip_distribution=distribution_sentence(report.clip),
        timeline=[_EventRow.of(event) for event in report.timeline],
        alerts=[_alert_row(entry) for entry in report.alerts[:_SHOWN_ALERTS]],
        asked=asked_rows(report.directives),
        recorded=recorded_rows(report.recorded),
        differences=difference_rows(report.nearest) if report.nearest else (),
        footer=_footer(report),
        link=run_url if urlsplit(run_url).scheme in {"http", "https"} else "",
    )


def _drawn(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 - drawings escape every text they hold (display.svg.escaped)


def _marks(report: Report) -> list[Mark]:
    grave_first = sorted(report.alerts, key=lambda entry: -entry.alert.severity)[:_SHOWN_MARKS]
    return [
        Mark(
            entry.shown_step,
            str(entry.number),
            entry.alert.severity.label,
            f"{entry.number}: {signature_name(entry.alert.signature)}, step {entry.shown_step:,}",
        )
        for entry in sorted(grave_first, key=lambda entry: entry.number)
    ]


def _around(report: Report, marks: list[Mark], moments: Moments) -> str:
    if report.around is None or report.whole is None:
        return ""
    if report.around.last_step - report.around.first_step > 0.7 * (report.whole.last_step - report.whole.first_step):
        return ""  # the chart above shows the same stretch
    left = None if report.heatmap is None else HEATMAP_LEFT
    return norm_chart(report.around, marks, moments, "around", height=240, over_heatmap=left)


def _legend(report: Report) -> str:
    data = report.whole
    if data is None:
        return ""
    parts = [key_swatch("norm") + "norm"]
    if np.isfinite(data.baseline).any():
        parts.append(key_swatch("baseline") + "usual level (median of 64 healthy steps)")
    if np.isfinite(data.clip_threshold).any():
        parts.append(key_swatch("clip-line") + "clip threshold")
    if data.broken_count:
        parts.append(key_swatch("broken") + "NaN or Inf")
    if report.focus.onset is not None:
        parts.append(key_swatch("onset-line") + "onset")
    if report.focus.failure is not None:
        parts.append(key_swatch("failure-line") + "failure")
    if report.alerts:
        parts.append("<br>▼ critical and ◆ warning alerts carry the numbers under which they stand below")
    return "".join(parts)


def _heat_note(report: Report) -> str:
    heatmap = report.heatmap
    if heatmap is None:
        return ""
    note = "a cell tells its step, norm and octaves when pointed at."
    if heatmap.total_layers > len(heatmap.names):
        note += f" {len(heatmap.names)} of {plural(heatmap.total_layers, 'tensor')}: those that moved most."
    widest = int((heatmap.column_last - heatmap.column_first).max()) + 1
    return note + (f" A column is up to {plural(widest, 'step')}, shown by its largest value." if widest > 1 else "")


@dataclass(frozen=True, slots=True)
class _RiseRow:
    order: int
    name: str
    module_type: str
    step: int
    then: str
    peak: str

    @classmethod
    def of(cls, rise: LayerRise) -> _RiseRow:
        then = "NaN or Inf" if rise.nonfinite_step == rise.step else _lift(rise.octaves)
        return cls(rise.order, rise.name, rise.module_type, rise.step, then, _lift(rise.peak_octaves))


def _lift(octaves_above: float) -> str:
    return f"{octaves(octaves_above)} oct ({times(2.0**octaves_above)})" if math.isfinite(octaves_above) else "–"


@dataclass(frozen=True, slots=True)
class _EventRow:
    when: str
    clock: str
    title: str
    detail: str
    tone: str

    @classmethod
    def of(cls, event: Event) -> _EventRow:
        when = "start" if event.step is None else f"step {event.step:,}"
        return cls(when, "" if event.time is None else clock_time(event.time), event.title, event.detail, event.tone)


def _rank_charts(ranks: RankView | None, moments: Moments) -> list[tuple[str, Markup]]:
    if ranks is None:
        return []
    drawings = []
    for values, title, identifier in (
        (ranks.norm, "Local gradient norm of each rank, before the all-reduce", "rank-norm"),
        (ranks.loss, "Loss of each rank", "rank-loss"),
    ):
        chart = ranks_chart(ranks.steps, values, ranks.suspect, moments, title=title, identifier=identifier)
        if chart:
            drawings.append((title, _drawn(chart)))
    return drawings


def _rank_note(ranks: RankView | None) -> str:
    if ranks is None:
        return ""
    if ranks.suspect is None:
        return "No rank left the others: what happened, happened to all of them together."
    host = ranks.hostnames[ranks.suspect] if ranks.suspect < len(ranks.hostnames) else ""
    where = f" (host {host})" if host else ""
    if ranks.suspect_step is None or ranks.suspect_ratio is None:
        return f"Rank {ranks.suspect}{where}, drawn strong, is the one that the detectors name."
    return (
        f"Rank {ranks.suspect}{where}, drawn strong, left the others at step {ranks.suspect_step:,}: its "
        f"{ranks.suspect_quantity} was {times(ranks.suspect_ratio)} their median."
    )


def _alert_row(entry: NumberedAlert) -> dict[str, Any]:
    alert = entry.alert
    return {
        "number": entry.number,
        "name": _first_capital(signature_name(alert.signature)),
        "signature": alert.signature.value,
        "severity": alert.severity.label if alert.severity > Severity.NONE else "info",
        "step": alert.opened_step,
        "state": _state(alert),
        "reason": alert.reason,
        "evidence": evidence_rows(alert),
    }


def _first_capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _state(alert: Alert) -> str:
    if alert.state is AlertState.RESOLVED and alert.resolution is not None:
        return f"resolved ({alert.resolution.value})"
    return (
        f"{alert.state.value}, acknowledged by {alert.acknowledged_by}" if alert.acknowledged_by else alert.state.value
    )


def evidence_rows(alert: Alert) -> list[tuple[str, str]]:
    """What the detector saw, as labels and values; what is not known is left out."""
    evidence = alert.evidence
    rows: list[tuple[str, str | None]] = [
        ("since step", f"{alert.since_step:,}"),
        ("value", None if evidence.value is None else figure(evidence.value)),
        ("baseline", None if evidence.baseline is None else figure(evidence.baseline)),
        ("threshold", None if evidence.threshold is None else figure(evidence.threshold)),
        ("doubling time", _in_steps(evidence.doubling_time_steps)),
        ("to overflow", _in_steps(evidence.steps_to_overflow)),
        ("leading layer", evidence.leading_layer),
        ("leading rank", None if evidence.leading_rank is None else str(evidence.leading_rank)),
        ("scope", alert.scope or None),
    ]
    rows.extend((str(key).replace("_", " "), _detail(value)) for key, value in evidence.details.items())
    return [(label, value) for label, value in rows if value is not None]


def _in_steps(value: float | None) -> str | None:
    return None if value is None else f"{figure(value, 2)} steps"


def _detail(value: Any) -> str | None:
    if isinstance(value, bool) or value is None:
        return None if value is None else ("yes" if value else "no")
    if isinstance(value, (int, float)):
        return figure(float(value))
    # Structures are evidence for programs, and long texts belong to them too: the JSON report has them whole.
    if not isinstance(value, str):
        return None
    return value if len(value) <= _DETAIL_LENGTH else value[: _DETAIL_LENGTH - 3] + "..."


def _footer(report: Report) -> str:
    whole = report.whole
    count = 0 if whole is None else report.run.closed_steps
    return (
        f"Written by seismograd from {plural(count, 'closed step')} of {plural(report.run.world_size, 'rank')}; "
        "times are UTC, by the clocks of the training hosts. This file is complete: it needs no network and runs no "
        "code."
    )
