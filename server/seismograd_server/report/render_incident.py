"""The report of an incident as HTML, Markdown and JSON. Pure."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from seismograd_server.display.numbers import timestamp
from seismograd_server.display.text import printable
from seismograd_server.display.trail import trail_chart
from seismograd_server.reading.encoding import dumps
from seismograd_server.reading.incidents import incident_json
from seismograd_server.report.incident import IncidentReport, MemberLine
from seismograd_server.report.render_html import content_security_policy, page_css, template
from seismograd_server.report.render_markdown import escaped_cell, markdown_table

_HEAD = ("order", "run", "alert", "step", "what became of it", "likeliest cause", "first layer", "rank")


def incident_html(report: IncidentReport) -> str:
    """One self-contained page, under the same policy as that of a run."""
    return template("incident.html").render(
        report=report,
        policy=Markup(content_security_policy()),  # noqa: S704 - as in render_html
        css=Markup(page_css()),  # noqa: S704 - as in render_html
        summary=[printable(sentence) for sentence in report.summary],
        severity=report.incident.alert.severity.label,
        head=_HEAD,
        rows=list(zip(_rows(report), map(_course, report.members), strict=True)),
        written=timestamp(report.written_at),
    )


def _course(member: MemberLine) -> Markup:
    if member.course is None:
        return Markup("")
    label = f"gradient norm of {member.key}, steps {member.course.first_step:,} to {member.course.last_step:,}"
    return Markup(trail_chart(member.course, label, member.onset))  # noqa: S704 - drawings escape every text they hold


def incident_markdown(report: IncidentReport) -> str:
    """The same words for tickets and chats."""
    incident = report.incident
    parts = [
        f"# Incident: {incident.count} runs, {incident.of.value}",
        " ".join(escaped_cell(sentence) for sentence in report.summary),
        markdown_table(_HEAD, _rows(report)),
        f"*Written by seismograd, {timestamp(report.written_at)}.*",
    ]
    return "\n\n".join(parts) + "\n"


def incident_report_json(report: IncidentReport) -> str:
    """All of it for programs."""
    members: list[dict[str, Any]] = [
        {
            "project": member.key.project,
            "run": member.key.run,
            "opened_at": member.opened_at,
            "opened_step": member.opened_step,
            "headline": member.headline,
            "cause": member.cause,
            "layer": member.layer,
            "rank": member.rank,
        }
        for member in report.members
    ]
    head = {**incident_json(report.incident), "written_at": report.written_at}
    return dumps({**head, "summary": list(report.summary), "runs": members})


def _rows(report: IncidentReport) -> list[tuple[str, ...]]:
    return [_row(order, member) for order, member in enumerate(report.members, start=1)]


def _row(order: int, member: MemberLine) -> tuple[str, ...]:
    unknown = "–"
    return (
        str(order),
        str(member.key),
        timestamp(member.opened_at),
        f"{member.opened_step:,}",
        member.headline or unknown,
        member.cause or unknown,
        member.layer or unknown,
        unknown if member.rank is None else str(member.rank),
    )
