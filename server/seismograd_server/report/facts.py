"""Key figures, the timeline and the configuration of a report. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from seismograd_server.display.numbers import duration, figure, share, times, timestamp
from seismograd_server.display.text import plural
from seismograd_server.model import AlertState, Checkpoint, RunState, Severity
from seismograd_server.reading.history import History, Opening
from seismograd_server.reading.totals import totals_of
from seismograd_server.report.configuration import covered, flattened
from seismograd_server.report.contents import Event, Fact, Focus, Healthy, LayerRise, NumberedAlert, RankView
from seismograd_server.report.layers import recurrent_gain
from seismograd_server.report.summary import how_failed, signature_name

# A configuration longer than this is an appendix nobody reads; the JSON report and the API have all of it.
_SHOWN_ENTRIES = 60
_ONSET = "Onset"
# A timeline is a story; all alerts have their own section.
_SHOWN_ALERTS = 12
# A gain that rose by half is no drift any more.
_RISEN = 1.5
_STATE_TONES = {RunState.FAILED: "critical", RunState.LOST: "warning"}


def key_facts(
    history: History, focus: Focus, healthy: Healthy | None, doubling: float | None, checkpoint: Checkpoint | None
) -> tuple[Fact, ...]:
    """The figures at the head of a report."""
    run, series = history.run, history.series
    totals = totals_of(series, run.world_size, history.whole)
    facts = [
        Fact("State", run.state.value, run.failure_reason, _STATE_TONES.get(run.state, "")),
        Fact("Steps", f"{totals.steps:,}", _span(history)),
    ]
    if focus.onset is not None:
        healthy_note = (
            "no healthy step before it" if focus.last_healthy is None else f"last healthy step {focus.last_healthy:,}"
        )
        facts.append(Fact("Onset", f"step {focus.onset:,}", healthy_note, "warning"))
    if focus.detected is not None and focus.onset is not None:
        facts.append(Fact("Alert", f"step {focus.detected:,}", _delay(focus), "warning"))
    if focus.failure is not None and focus.failure_kind is not None:
        facts.append(Fact("Failure", f"step {focus.failure:,}", how_failed(focus.failure_kind), "critical"))
    if healthy is not None:
        label = "Usual norm" if healthy.settled else "First norms"
        facts.append(Fact(label, figure(healthy.median), f"90th percentile {figure(healthy.high)}"))
    if doubling is not None and focus.onset is not None:
        facts.append(Fact("Doubling time", f"{figure(doubling, 2)} steps", _overflow_note(focus)))
    if totals.broken:
        of_all = f"{share(totals.broken / totals.steps)} of all"
        facts.append(Fact("Steps with NaN or Inf", f"{totals.broken:,}", of_all, "critical"))
    if checkpoint is not None and focus.onset is not None:
        before = f"{plural(focus.onset - checkpoint.step, 'step')} before the onset"
        facts.append(Fact("Last good checkpoint", f"step {checkpoint.step:,}", before, "good"))
    facts += _gain(history, focus)
    facts.append(_size(history))
    return tuple(facts)


def _gain(history: History, focus: Focus) -> list[Fact]:
    found = None if history.layers is None else recurrent_gain(history.layers, focus.onset)
    if found is None:
        return []
    name, before, since = found
    value = figure(since, 2) if since == before else f"{figure(before, 2)} to {figure(since, 2)}"
    tone = "warning" if since >= _RISEN * before else ""
    return [Fact("Recurrent gain", value, f"{name}; above 1 a state can grow at every time step", tone)]


def _span(history: History) -> str:
    series = history.series
    if not series.count:
        return "none closed yet"
    seconds = float(series.times[-1] - series.times[0])
    return f"{series.steps[0]:,} to {series.steps[-1]:,}, {duration(seconds)}" if seconds > 0 else ""


def _delay(focus: Focus) -> str:
    delay = (focus.detected or 0) - (focus.onset or 0)
    return "at the onset" if delay <= 0 else f"{plural(delay, 'step')} after the onset"


def _overflow_note(focus: Focus) -> str:
    remaining = None if focus.lead is None else focus.lead.evidence.steps_to_overflow
    return "" if remaining is None else f"overflow was {figure(remaining, 2)} steps away"


def _size(history: History) -> Fact:
    run = history.run
    hosts = {rank.hostname for rank in history.ranks if rank.hostname}
    note = ", ".join(part for part in (run.strategy, plural(len(hosts), "host") if hosts else "") if part)
    return Fact("Ranks", f"{run.world_size:,}", note)


def timeline(
    history: History,
    focus: Focus,
    *,
    alerts: Sequence[NumberedAlert],
    rises: Sequence[LayerRise],
    ranks: RankView | None,
    checkpoint: Checkpoint | None,
) -> tuple[Event, ...]:
    """What happened in order, from the last healthy step to the failure."""
    series = history.series
    run = history.run
    events = [Event(None, run.started_at, "Run opened", plural(run.world_size, "rank"))]

    def at(step: int) -> float | None:
        row = series.row(step)
        return float(series.times[row]) if row >= 0 else None

    if checkpoint is not None:
        events.append(Event(checkpoint.step, checkpoint.saved_at, "Last good checkpoint", checkpoint.path, "good"))
    if focus.last_healthy is not None:
        row = series.row(focus.last_healthy)
        events.append(
            Event(focus.last_healthy, at(focus.last_healthy), "Last healthy step", _levels(history, row), "good")
        )
    if focus.onset is not None:
        events.append(Event(focus.onset, at(focus.onset), _ONSET, _levels(history, series.row(focus.onset)), "warning"))
    events.extend(
        Event(rise.step, at(rise.step), f"{_ordinal(rise.order)} layer out of its range: {rise.name}", _rise(rise))
        for rise in rises[:3]
    )
    if ranks is not None and ranks.suspect is not None and ranks.suspect_step is not None:
        apart = f"{ranks.suspect_quantity} {times(ranks.suspect_ratio or float('nan'))} that of the others"
        events.append(
            Event(ranks.suspect_step, at(ranks.suspect_step), f"Rank {ranks.suspect} leaves the others", apart)
        )
    gravest_first = sorted(alerts, key=lambda entry: (-entry.alert.severity, entry.alert.opened_step))
    for entry in gravest_first[:_SHOWN_ALERTS]:
        alert = entry.alert
        opening = history.openings.get(alert.alert_id, Opening(alert.severity, alert.reason))
        severity = opening.severity.label
        if opening.severity != alert.severity:
            severity += f", later {alert.severity.label}"
        title = f"Alert {entry.number}: {signature_name(alert.signature)} ({severity})"
        tone = "critical" if alert.severity is Severity.CRITICAL else "warning"
        events.append(Event(alert.opened_step, alert.opened_at, title, opening.reason, tone))
    if focus.failure is not None and focus.failure_kind is not None:
        detail = _levels(history, series.row(focus.failure))
        title = f"Failure: {how_failed(focus.failure_kind)}"
        events.append(Event(focus.failure, at(focus.failure), title, detail, "critical"))
    # In one step: what still was good, the onset, where it came from, what was said about it, the failure.
    order = {"good": 0, "": 2, "warning": 3, "critical": 4}
    events.sort(
        key=lambda event: (
            event.step is not None,
            event.step or 0,
            1 if event.title == _ONSET else order[event.tone],
        )
    )
    if series.count:
        events.append(_ending(history))
    return tuple(events)


def _ending(history: History) -> Event:
    run, series = history.run, history.series
    last = int(series.steps[-1])
    if run.state is RunState.RUNNING:
        return Event(last, float(series.times[-1]), "Still running", "this report is written while the run goes on")
    titles = {
        RunState.FINISHED: "Run finished",
        RunState.FAILED: "Run ended with an error",
        RunState.LOST: "Run fell silent",
    }
    return Event(
        last,
        run.ended_at or float(series.times[-1]),
        titles[run.state],
        run.failure_reason,
        _STATE_TONES.get(run.state, ""),
    )


def _levels(history: History, row: int) -> str:
    series = history.series
    if row < 0:
        return ""
    norm = float(series.norm[row])
    parts = [f"norm {figure(norm)}"] if np.isfinite(norm) and not (norm == 0 and series.broken[row]) else []
    if series.loss_known[row]:
        parts.append(f"loss {figure(float(series.loss[row]))}")
    counts = series.nonfinite[row]
    if counts.sum():
        names = ("NaN", "+Inf", "−Inf")
        parts.append(
            ", ".join(f"{count:,} {name}" for count, name in zip(counts.tolist(), names, strict=True) if count)
        )
    return " · ".join(parts)


def _rise(rise: LayerRise) -> str:
    if rise.nonfinite_step == rise.step:
        return "non-finite gradient elements"
    return f"{times(2.0**rise.octaves)} its median before the onset"


def _ordinal(number: int) -> str:
    return {1: "First", 2: "Second", 3: "Third"}.get(number, f"{number}th")


def last_good_checkpoint(checkpoints: Sequence[Checkpoint], onset: int | None) -> Checkpoint | None:
    """The last checkpoint of a step before the onset (of all, when nothing happened)."""
    good = [checkpoint for checkpoint in checkpoints if onset is None or checkpoint.step < onset]
    return max(good, key=lambda checkpoint: (checkpoint.step, checkpoint.saved_at), default=None)


def number_alerts(history: History) -> tuple[NumberedAlert, ...]:
    """The alerts that opened, in the order of their steps, under their numbers."""
    shown = [alert for alert in history.alerts if alert.state is not AlertState.PENDING]
    shown.sort(key=lambda alert: (alert.opened_step, -alert.severity, alert.signature.value))
    return tuple(NumberedAlert(number, alert, alert.opened_step) for number, alert in enumerate(shown, start=1))


def configuration(history: History) -> tuple[tuple[str, str], ...]:
    """The run's configuration, tags and surroundings as rows, nested keys with dots, secrets covered."""
    run = history.run
    rows = [("framework", run.framework), ("strategy", run.strategy), ("world size", f"{run.world_size:,}")]
    rows.extend((f"tag {key}", covered(key, value)) for key, value in sorted(run.tags.items()))
    try:
        config = json.loads(run.config_json) if run.config_json else {}
    except ValueError:
        config = {"configuration": "not valid JSON"}
    flat = [(key, covered(key, text)) for key, text in flattened("", config)]
    rows.extend(flat[:_SHOWN_ENTRIES])
    if len(flat) > _SHOWN_ENTRIES:
        rows.append(("…", f"{len(flat) - _SHOWN_ENTRIES:,} more entries"))
    devices = sorted({rank.device_name for rank in history.ranks if rank.device_name})
    hosts = sorted({rank.hostname for rank in history.ranks if rank.hostname})
    rows.extend(
        [("devices", ", ".join(devices[:8])), ("hosts", ", ".join(hosts[:8]) + (" …" if len(hosts) > 8 else ""))]
    )
    rows.append(("opened", timestamp(run.started_at)))
    return tuple((key, value) for key, value in rows if value)
