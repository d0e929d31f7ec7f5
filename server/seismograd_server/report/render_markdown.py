"""A report as Markdown, for tickets and chats: the same words, without the drawings. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from seismograd_server.display.numbers import octaves, timestamp
from seismograd_server.display.text import printable
from seismograd_server.report.asked import asked_rows, recorded_rows
from seismograd_server.report.clip.values import distribution_sentence, drift_sentence, threshold_rows
from seismograd_server.report.contents import Cause, LayerRise, Report
from seismograd_server.report.nearest import difference_rows
from seismograd_server.report.render_html import evidence_rows
from seismograd_server.report.summary import signature_name

# What Markdown, or HTML inside it, would read as markup. A line break would end a table row or a list entry.
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+|!~&])")
_SHOWN_RISES = 8
_CLIP_HEAD = ("threshold", "steps clipped", "mean coefficient", "of the path left", "clipped from the onset on")


def render_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown; names and reasons are escaped."""
    parts = [
        f"# {escaped_cell(str(report.key))}: {escaped_cell(report.headline)}",
        " ".join(escaped_cell(sentence) for sentence in report.summary),
        markdown_table(("", "", ""), [(fact.label, fact.value, fact.note) for fact in report.facts]),
    ]
    if report.causes:
        parts.append("## Likely causes")
        parts.append("\n".join(_cause(place, cause) for place, cause in enumerate(report.causes, start=1)))
    if report.advice:
        parts.append("## What to try")
        parts.append("\n".join(f"{place}. {_advice(report, place - 1)}" for place in range(1, len(report.advice) + 1)))
    if report.clip.steps:
        parts.append("## Clipping")
        said = report.clip.recommendation.reason, distribution_sentence(report.clip), drift_sentence(report.clip)
        parts.append(escaped_cell(" ".join(each for each in said if each)))
        parts.append(markdown_table(_CLIP_HEAD, threshold_rows(report.clip)))
    parts.append("## Timeline")
    parts.append(
        "\n".join(
            f"- {'start' if event.step is None else f'step {event.step:,}'}: **{escaped_cell(event.title)}**"
            + (f" ({escaped_cell(event.detail)})" if event.detail else "")
            for event in report.timeline
        )
    )
    if report.rises:
        parts.append("## Which layer came first")
        parts.append(
            markdown_table(("order", "layer", "step", "octaves"), [_rise(rise) for rise in report.rises[:_SHOWN_RISES]])
        )
    parts.append("## Alerts")
    parts.append("\n".join(_alerts(report)) or "No detector raised an alert.")
    if report.directives:
        parts.append("## Asked of the job")
        parts.append(markdown_table(("what", "by", "when", "why", "what came of it"), asked_rows(report.directives)))
    if report.recorded:
        parts.append("## What the flight recorders held")
        head = ("rank", "steps", "largest norm", "layer", "first NaN or Inf")
        parts.append(markdown_table(head, recorded_rows(report.recorded)))
    if report.nearest is not None:
        parts.append("## Beside the nearest healthy run")
        parts.append(
            escaped_cell(" ".join([f"{report.nearest.key}.", report.nearest.reason, *report.nearest.partings]))
        )
        parts.append(markdown_table(("what", "healthy run", "this run"), difference_rows(report.nearest)))
    if report.configuration:
        parts.append("## Configuration")
        parts.append(markdown_table(("key", "value"), report.configuration))
    limits = [*report.gaps, *(f"Not seen: {spot}" for spot in report.blind)]
    parts.append("## What this report cannot tell")
    parts.append("\n".join(f"- {escaped_cell(limit)}" for limit in limits) or "No gap in the data is known.")
    parts.append(f"*Written by seismograd, {timestamp(report.written_at)}.*")
    return "\n\n".join(parts) + "\n"


def escaped_cell(text: str) -> str:
    """Text in which nothing is markup."""
    return _MARKUP.sub(r"\\\1", printable(text))


def markdown_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table; its cells are escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines.extend("| " + " | ".join(escaped_cell(cell) for cell in row) + " |" for row in rows)
    return "\n".join(lines)


def _advice(report: Report, place: int) -> str:
    advice = report.advice[place]
    numbers = "; ".join(f"{escaped_cell(label)}: {escaped_cell(value)}" for label, value in advice.numbers)
    return f"**{escaped_cell(advice.title)}.** {escaped_cell(advice.reason)}" + (f" ({numbers})" if numbers else "")


def _cause(place: int, cause: Cause) -> str:
    evidence = "; ".join(f"{escaped_cell(label)}: {escaped_cell(value)}" for label, value in cause.evidence)
    return f"{place}. **{escaped_cell(cause.title)}** ({cause.word})" + (f": {evidence}" if evidence else "")


def _rise(rise: LayerRise) -> tuple[str, str, str, str]:
    level = "NaN or Inf" if rise.nonfinite_step == rise.step else octaves(rise.octaves)
    return str(rise.order), rise.name, f"{rise.step:,}", level


def _alerts(report: Report) -> list[str]:
    lines = []
    for entry in report.alerts:
        alert = entry.alert
        evidence = "; ".join(f"{escaped_cell(label)} {escaped_cell(value)}" for label, value in evidence_rows(alert))
        lines.append(
            f"- **{entry.number}. {signature_name(alert.signature)}** "
            f"(`{alert.signature.value}`, {alert.severity.label}, step "
            f"{alert.opened_step:,}, {alert.state.value}): {escaped_cell(alert.reason)} ({evidence})"
        )
    return lines
