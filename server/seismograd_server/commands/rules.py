"""`seismograd rules`: what is looked for, and what it would have found."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, get_args

import click
from rich.console import Console
from rich.progress import track

from seismograd_server.commands import output
from seismograd_server.commands.failures import Group
from seismograd_server.commands.remote import json_option
from seismograd_server.display.text import plural, printable
from seismograd_server.errors import UsageError
from seismograd_server.model import Finding, RunKey
from seismograd_server.transfer.trace_blocks import Columns, blocks
from seismograd_server.transfer.traces import read_trace, traces_in


@click.group(cls=Group)
def rules() -> None:
    """What is looked for, and what it would have found."""


@rules.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check_rules(file: Path, as_json: bool) -> None:
    """Say what is wrong with a FILE of rules; exit code 1 when something is."""
    from seismograd_server.rules.file import read_rules  # noqa: PLC0415 (other commands need no detectors)
    from seismograd_server.rules.parse import RulesError  # noqa: PLC0415 (likewise)

    problems: tuple[str, ...] = ()
    try:
        read_rules(file)
    except RulesError as error:
        problems = error.problems
    if as_json:
        output.print_json({"file": str(file), "ok": not problems, "problems": problems})
    elif not problems:
        click.echo(f"{file}: these rules can be used.")
    for problem in problems if not as_json else ():
        click.echo(f"{file}: {printable(problem)}", err=True)
    if problems:
        click.get_current_context().exit(1)


@rules.command("defaults")
def print_defaults() -> None:
    """Print a file of rules with every key, its default and its reason: a beginning for your own."""
    from seismograd_server.rules.schema import documented_defaults  # noqa: PLC0415 (as above)

    click.echo(documented_defaults(), nl=False)


@rules.command("backtest")
@click.option(
    "--traces", type=click.Path(path_type=Path), metavar="DIR", required=True, help="A folder of trace files (.npz)."
)
@click.option(
    "--alerts-out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write what fires as JSON lines: run_id, step, kind (the signature), severity and more.",
)
@click.option("--columns", type=click.Choice(get_args(Columns)), default="all", show_default=True, help="What is seen.")
@click.option(
    "--thin",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="K",
    help="See the sampled columns (weight, update and local norms) every K steps only, as clients ship them.",
)
@click.option(
    "--rules", "rules_file", type=click.Path(path_type=Path), metavar="FILE", help="Rules, instead of the defaults."
)
@json_option
def backtest_rules(
    *, traces: Path, alerts_out: Path | None, columns: Columns, thin: int, rules_file: Path | None, as_json: bool
) -> None:
    """Run the detectors over recorded runs.

    They see one step after the other, as they do live: what fires at a step uses nothing behind it. A file that cannot
    be read is named; the others are looked at all the same, and the exit code is 1 at the end. For overrides in the
    rules, a trace is a run of the project that its folder is called.
    """
    from seismograd_server.rules.backtest import backtest  # noqa: PLC0415 (other commands need no detectors)
    from seismograd_server.rules.file import read_rules  # noqa: PLC0415 (likewise)
    from seismograd_server.rules.ruleset import Rules  # noqa: PLC0415 (likewise)

    what = Rules() if rules_file is None else read_rules(rules_file)
    project = traces.resolve().name

    steps, fired, failures = 0, list[dict[str, Any]](), list[str]()
    with _opened(alerts_out) as out:
        for path in _with_progress(traces_in(traces)):
            try:
                trace = read_trace(path)
            except UsageError as error:
                failures.append(str(error))
                continue
            own = what.for_run(RunKey(project, trace.name), {})
            found = backtest(blocks(trace, columns=columns, thin=thin), own)
            steps += found.steps
            failures += [f"{path}: {signature.value} failed: {why}" for signature, why in found.failures]
            lines = [_line(trace.name, finding) for finding in found.findings]
            out.writelines(json.dumps(line) + "\n" for line in lines)
            fired += lines
    for failure in failures:
        click.echo(f"Error: {printable(failure)}", err=True)
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


def _with_progress(paths: list[Path]) -> Iterator[Path]:
    """The paths, with a bar on a terminal, which goes when they are done and is no part of what is printed."""
    console = Console(stderr=True)
    yield from track(paths, "Runs", console=console, transient=True, disable=not console.is_terminal)


def _print_summary(steps: int, fired: list[dict[str, Any]]) -> None:
    runs = {(line["kind"], line["severity"], line["run_id"]) for line in fired}
    counts = Counter((kind, severity) for kind, severity, _ in runs)
    if counts:
        rows = [[kind, output.word(severity), f"{count:,}"] for (kind, severity), count in sorted(counts.items())]
        output.table(["signature", "severity", "runs"], rows, right=["runs"])
    click.echo(f"{plural(steps, 'step')} looked at; {plural(len(fired), 'finding')}.")
