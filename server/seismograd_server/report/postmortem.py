"""Reads a run from the store and writes its post-mortem: the one part of `report/` that does I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote

from seismograd_server.display.text import file_stem
from seismograd_server.errors import UsageError
from seismograd_server.model import Alert, DetectorStatus, Run, RunKey, Severity, Snapshot, Verdict
from seismograd_server.reading.history import History, Series
from seismograd_server.reading.incidents import read_incident
from seismograd_server.reading.runs import Window, read_history
from seismograd_server.report.build import build
from seismograd_server.report.compare.comparer import RunComparer
from seismograd_server.report.contents import Report
from seismograd_server.report.focus import find_focus
from seismograd_server.report.incident import build_incident
from seismograd_server.report.nearest import Nearest, nearest_healthy
from seismograd_server.report.render_html import content_security_policy, render_html
from seismograd_server.report.render_incident import incident_html, incident_markdown, incident_report_json
from seismograd_server.report.render_json import render_json
from seismograd_server.report.render_markdown import render_markdown
from seismograd_server.store.database import Database

FORMATS = ("html", "md", "json")
# The latest runs of a project are those that are most like its latest failure.
_RUNS_LOOKED_AT, _ALERTS_LOOKED_AT = 200, 2000
# Runs of an incident that are looked into, a second or so each at most: what is common to them is common to the others.
_RUNS_OF_AN_INCIDENT = 8


@dataclass(frozen=True, slots=True)
class ReportDocument:
    """A rendered report; `content_security_policy` is the one that its page also carries itself."""

    body: bytes
    media_type: str
    file_name: str
    content_security_policy: str = ""


class PostmortemWriter:
    """Writes post-mortems of the runs in one database."""

    def __init__(
        self, database: Database, external_url: str = "", snapshot: Callable[[], Snapshot] = lambda: Snapshot(0.0)
    ) -> None:
        """Take the database, where people reach the server (for a link), and the live runs (for what detectors see)."""
        self._database = database
        self._external_url = external_url
        self._snapshot = snapshot

    def __call__(self, key: RunKey, file_format: str, now: float) -> ReportDocument:
        """Give the report as "html", "md" or "json". Blocks.

        Raises:
            NotFoundError: there is no such run; the message names the nearest one.
            UsageError: another format.
            StorageError: the store failed.
        """
        _check(file_format)
        report = self.report(key, now)
        name = f"postmortem-{file_stem(key.project)}-{file_stem(key.run)}"
        if file_format == "json":
            return ReportDocument(_bytes(render_json(report)), "application/json", f"{name}.json")
        if file_format == "md":
            return ReportDocument(_bytes(render_markdown(report)), "text/markdown; charset=utf-8", f"{name}.md")
        page = render_html(report, self._run_url(key))
        return ReportDocument(_bytes(page), "text/html; charset=utf-8", f"{name}.html", content_security_policy())

    def incident(self, incident_id: str, file_format: str, now: float) -> ReportDocument:
        """Give the report of runs that exploded together, likewise. Blocks.

        Raises:
            NotFoundError: there is no such incident.
            UsageError: another format.
            StorageError: the store failed.
        """
        _check(file_format)
        incident = read_incident(self._database, incident_id)
        reports = {each.key: build(self._history(each.key), now) for each in incident.members[:_RUNS_OF_AN_INCIDENT]}
        report = build_incident(incident, reports, now)
        name = f"incident-{file_stem(incident_id)}"
        if file_format == "json":
            return ReportDocument(_bytes(incident_report_json(report)), "application/json", f"{name}.json")
        if file_format == "md":
            return ReportDocument(_bytes(incident_markdown(report)), "text/markdown; charset=utf-8", f"{name}.md")
        page = incident_html(report)
        return ReportDocument(_bytes(page), "text/html; charset=utf-8", f"{name}.html", content_security_policy())

    def report(self, key: RunKey, now: float) -> Report:
        """What the post-mortem says. Blocks. Raises NotFoundError, StorageError."""
        history = self._history(key)
        focus = find_focus(history.series, history.alerts)
        well = focus.onset is None and focus.failure is None
        return build(history, now, focus, None if well else self._nearest(history.run))

    def _nearest(self, run: Run) -> Nearest | None:
        """The healthy run of the project that is most like this one, and where the two part."""
        project = run.key.project
        with self._database.read() as transaction:
            others = transaction.runs.list(project, limit=_RUNS_LOOKED_AT)
            alerts = transaction.alerts.list(project=project, limit=_ALERTS_LOOKED_AT)
        grave = [each for each in alerts if each.severity is Severity.CRITICAL and each.verdict is not Verdict.WRONG]
        found = nearest_healthy(run, others, {each.run_id for each in grave})
        if found is None:
            return None
        keys = [f"{quote(key.project, safe='')}/{quote(key.run, safe='')}" for key in (found.key, run.key)]
        sentences = [pair["sentence"] for pair in RunComparer(self._database)(keys)["partings"] if pair["parted"]]
        return replace(found, partings=tuple(sentences))

    def _history(self, key: RunKey) -> History:
        def window_of(series: Series, alerts: tuple[Alert, ...]) -> Window:
            focus = find_focus(series, alerts)
            return focus.first_step, focus.last_step

        def places_of(series: Series, alerts: tuple[Alert, ...]) -> list[int]:
            focus = find_focus(series, alerts)
            steps = focus.onset, focus.failure, focus.first_step, focus.last_step
            return [step for step in steps if step is not None]

        return read_history(self._database, key, window_of, places_of=places_of, statuses=self._statuses(key))

    def _statuses(self, key: RunKey) -> tuple[DetectorStatus, ...]:
        return next((view.statuses for view in self._snapshot().runs if view.run.key == key), ())

    def _run_url(self, key: RunKey) -> str:
        if not self._external_url:
            return ""
        return f"{self._external_url}/runs/{quote(key.project, safe='')}/{quote(key.run, safe='')}"


def _check(file_format: str) -> None:
    if file_format not in FORMATS:
        raise UsageError(f"format: {file_format[:40]!r} is none of {', '.join(FORMATS)}")


def _bytes(text: str) -> bytes:
    # Everything shown has gone through `printable`; should a lone surrogate slip past it, the page still opens.
    return text.encode("utf-8", errors="backslashreplace")
