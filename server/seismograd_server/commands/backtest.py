"""`seismograd rules backtest`: what rules would have found, in runs that a server has and in trace files."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click
from rich.console import Console
from rich.progress import track

from seismograd_server.commands import output
from seismograd_server.commands.remote import Remote, run_path
from seismograd_server.display.numbers import share
from seismograd_server.display.text import plural, printable
from seismograd_server.errors import SeismogradError, UsageError
from seismograd_server.model import Finding, RunKey
from seismograd_server.reading.backtest import judged_alerts
from seismograd_server.rules.backtest import backtest
from seismograd_server.rules.ruleset import Rules
from seismograd_server.transfer.trace_blocks import Columns, blocks
from seismograd_server.transfer.traces import read_trace, traces_in

_Item = TypeVar("_Item")
# A run of a million steps is judged within minutes.
_JUDGING_SECONDS = 1800.0
_PAGE = 1000


def over_traces(
    folder: Path, rules: Rules, alerts_out: Path | None, columns: Columns, thin: int, *, as_json: bool
) -> None:
    """Judge trace files, and print what fires; exit code 1 when one of them cannot be read."""
    project = folder.resolve().name
    steps, fired, failures = 0, list[dict[str, Any]](), list[str]()
    with _opened(alerts_out) as out:
        for path in _with_progress(traces_in(folder)):
            try:
                trace = read_trace(path)
            except UsageError as error:
                failures.append(str(error))
                continue
            own = rules.for_run(RunKey(project, trace.name), {})
            found = backtest(blocks(trace, columns=columns, thin=thin), own)
            steps += found.steps
            failures += [f"{path}: {signature.value} failed: {why}" for signature, why in found.failures]
            lines = [_line(trace.name, finding) for finding in found.findings]
            out.writelines(json.dumps(line) + "\n" for line in lines)
            fired += lines
    _complain(failures)
    if as_json:
        output.print_json({"steps": steps, "alerts": fired, "failures": failures})
    else:
        _print_summary(steps, fired)
    if failures:
        click.get_current_context().exit(1)


def _line(run: str, finding: Finding) -> dict[str, Any]:
    return {
        "run_id": run,
        "step": finding.step,
        "kind": finding.signature.value,
        "severity": finding.severity.label,
        "layer": finding.evidence.leading_layer,
        "rank": finding.evidence.leading_rank,
        "reason": finding.reason,
    }


def _opened(path: Path | None) -> TextIO:
    """Where the lines go; nowhere, when nobody asked for them."""
    try:
        return (path or Path(os.devnull)).open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--alerts-out: {path} cannot be written: {error.strerror}") from error


def _with_progress(items: list[_Item]) -> Iterator[_Item]:
    """The items, with a bar on a terminal, which goes when they are done and is no part of what is printed."""
    console = Console(stderr=True)
    yield from track(items, "Runs", console=console, transient=True, disable=not console.is_terminal)


def _complain(failures: Iterable[str]) -> None:
    for failure in failures:
        click.echo(f"Error: {printable(failure)}", err=True)


def _print_summary(steps: int, fired: list[dict[str, Any]]) -> None:
    runs = {(line["kind"], line["severity"], line["run_id"]) for line in fired}
    counts = Counter((kind, severity) for kind, severity, _ in runs)
    if counts:
        rows = [[kind, output.word(severity), f"{count:,}"] for (kind, severity), count in sorted(counts.items())]
        output.table(["signature", "severity", "runs"], rows, right=["runs"])
    click.echo(f"{plural(steps, 'step')} looked at; {plural(len(fired), 'finding')}.")


def over_stored_runs(server_url: str, text: str, project: str | None, since: datetime | None, *, as_json: bool) -> None:
    """Let a server judge the runs that it has, and print what would have fired beside what did."""
    answers: list[dict[str, Any]] = []
    failures: list[str] = []
    with Remote(server_url) as remote:
        for key in _with_progress(list(_runs(remote, project, since))):
            path = f"{run_path(key)}/backtest"
            try:
                answer = remote.json("POST", path, json={"rules": text}, timeout=_JUDGING_SECONDS)
            except SeismogradError as error:
                failures.append(f"{key}: {error}")
                continue
            answers.append(answer)
            failures += [f"{key}: {failure}" for failure in answer["failures"]]
    _complain(failures)
    if as_json:
        output.print_json({"runs": answers, "failures": failures})
    else:
        _print_comparison(answers)
        _print_judged(answers)
    if failures:
        click.get_current_context().exit(1)


def _runs(remote: Remote, project: str | None, since: datetime | None) -> Iterator[RunKey]:
    """The runs of a project that have sent something since then, newest first."""
    wanted: dict[str, Any] = {"limit": _PAGE, **({"project": project} if project else {})}
    while True:
        answer = remote.json("GET", "/api/v1/runs", params=wanted)
        for run in answer["runs"]:
            if since is None or (run["last_record_at"] or run["started_at"]) >= since.timestamp():
                yield RunKey(run["project"], run["run"])
        if answer["next"] is None:
            return
        wanted["before"] = answer["next"]


def _print_comparison(answers: list[dict[str, Any]]) -> None:
    rows = [
        [
            output.name(f"{answer['project']}/{answer['run']}"),
            output.name(each["signature"] + (f" ({each['scope']})" if each["scope"] else "")),
            *_fired(each["would"]),
            *_fired(each["was"]),
            each["verdict"],
        ]
        for answer in answers
        for each in answer["findings"]
    ]
    if rows:
        columns = ["run", "signature", "would be", "at step", "was", "at step ", ""]
        output.table(columns, rows, right=["at step", "at step "])
    counts = Counter(each["verdict"] for answer in answers for each in answer["findings"])
    verdicts = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in ("new", "gone", "changed", "same"))
    steps = sum(answer["steps"] for answer in answers)
    click.echo(f"{plural(steps, 'step')} of {plural(len(answers), 'run')} looked at: {verdicts}.")


def _print_judged(answers: list[dict[str, Any]]) -> None:
    """What people said of the alerts that there were: whether these rules keep the right ones and drop the wrong."""
    rows: list[list[Any]] = []
    for each in judged_alerts(answers):
        before, after = each.precision
        said = [share(before), "–" if after is None else share(after)]
        counts = each.right_kept, each.right_lost, each.wrong_kept, each.wrong_gone
        rows.append([each.signature, *(f"{count:,}" for count in counts), *said])
    if rows:
        columns = ["judged", "right, kept", "right, lost", "wrong, kept", "wrong, gone", "precision was", "would be"]
        output.table(columns, rows, right=columns[1:])


def _fired(fired: dict[str, Any] | None) -> list[Any]:
    return ["–", "–"] if fired is None else [output.word(fired["severity"]), f"{fired['step']:,}"]
