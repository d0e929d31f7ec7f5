"""What happened to several runs together: in which order, what they share, whether one cause explains them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from seismograd_server.display.curves import CurveData
from seismograd_server.display.numbers import duration, timestamp
from seismograd_server.display.text import plural
from seismograd_server.model import Alert, RunKey
from seismograd_server.reading.incidents import Incident
from seismograd_server.report.contents import Report
from seismograd_server.report.summary import signature_name


@dataclass(frozen=True, slots=True)
class MemberLine:
    """One run of an incident; what is empty is not known."""

    key: RunKey
    opened_at: float  # Unix seconds, of its alert
    opened_step: int
    headline: str
    cause: str  # the likeliest
    layer: str  # that came first
    rank: int | None
    course: CurveData | None = None  # of the whole run
    onset: int | None = None  # step


@dataclass(frozen=True, slots=True)
class IncidentReport:
    """A post-mortem of several runs."""

    incident: Incident
    written_at: float
    summary: tuple[str, str, str]
    members: tuple[MemberLine, ...]  # by the time of their alerts


def build_incident(incident: Incident, reports: Mapping[RunKey, Report], now: float) -> IncidentReport:
    """The report of an incident.

    Args:
        incident: with its members.
        reports: the post-mortems of those of its runs that were looked at.
        now: Unix seconds.
    """
    ordered = sorted(incident.members, key=lambda alert: (alert.opened_at, alert.alert_id))
    members = tuple(_member(alert, reports.get(alert.key)) for alert in ordered)
    return IncidentReport(incident, now, (_what(incident, members), _shared(incident), _cause(members)), members)


def _member(alert: Alert, report: Report | None) -> MemberLine:
    evidence = alert.evidence
    first = report.rises[0].name if report is not None and report.rises else evidence.leading_layer or ""
    return MemberLine(
        key=alert.key,
        opened_at=alert.opened_at,
        opened_step=alert.opened_step,
        headline="" if report is None else report.headline,
        cause=report.causes[0].title if report is not None and report.causes else "",
        layer=first,
        rank=evidence.leading_rank,
        course=None if report is None else report.whole,
        onset=None if report is None else report.focus.onset,
    )


def _what(incident: Incident, members: tuple[MemberLine, ...]) -> str:
    runs, fired = plural(incident.count, "run"), signature_name(incident.of)
    if not members:
        return f"{runs} fired {fired}; none of them is stored any more."
    span = members[-1].opened_at - members[0].opened_at
    within = f" within {duration(span)}" if len(members) > 1 else ""
    return f"{runs} fired {fired}{within}, from {timestamp(members[0].opened_at)} on; the first was {members[0].key}."


def _shared(incident: Incident) -> str:
    if not incident.shared:
        return "They share no tag beyond chance: nothing that was told of them explains why they came together."
    return f"What they share beyond chance: {'; '.join(incident.shared)}."


def _cause(members: tuple[MemberLine, ...]) -> str:
    causes = Counter(member.cause for member in members if member.cause)
    if not causes:
        return "No cause stands out in any of them."
    (cause, count), looked = causes.most_common(1)[0], sum(causes.values())
    if count == looked and looked > 1:
        return f"The same cause is the likeliest in all {looked} that were looked at: {cause}."
    if count > 1:
        return f"The same cause is the likeliest in {count} of the {looked} that were looked at: {cause}."
    return f"Their likeliest causes differ; that of the first is: {next(each.cause for each in members if each.cause)}."
