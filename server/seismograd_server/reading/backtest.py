"""What rules would have found in a stored run, beside what was found when it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from seismograd_server.detect.watch import DETECTORS
from seismograd_server.model import Alert, Finding, RunKey, Severity, Signature, Verdict
from seismograd_server.reading.encoding import Json
from seismograd_server.reading.layers import composed_blocks
from seismograd_server.reading.resolution import detail_kept
from seismograd_server.rules.backtest import backtest
from seismograd_server.rules.ruleset import Rules
from seismograd_server.store.database import Database

# What closed steps can tell. Silence is told by the clock, and cannot be judged again.
_COMPARED = {detector.signature for detector in DETECTORS} - {Signature.STALLED}
# Alerts of one run that are compared: far more than one run opens.
_ALERTS = 10_000


@dataclass(frozen=True, slots=True)
class Fired:
    """How bad it was at its worst, and the first step at which it was told."""

    severity: Severity
    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition of a run: what the rules would have made of it (None = nothing), and what was made of it.

    `judged` is what people said of what was: right, if they ever said so; wrong, if they said only that.
    """

    signature: Signature
    scope: str
    would: Fired | None
    was: Fired | None
    judged: Verdict | None = None

    @property
    def verdict(self) -> str:
        """`new`, `gone`, `same`, or `changed`: another severity than before."""
        if self.was is None:
            return "new"
        if self.would is None:
            return "gone"
        return "same" if self.would.severity == self.was.severity else "changed"


def compare(findings: Iterable[Finding], alerts: Iterable[Alert]) -> list[Comparison]:
    """Set what would have been found beside what was: warnings and worse of what closed steps can tell. Pure."""
    would: dict[tuple[Signature, str], Fired] = {}
    was: dict[tuple[Signature, str], Fired] = {}
    for finding in findings:
        if finding.signature in _COMPARED:
            _note(would, finding.signature, finding.scope, Fired(finding.severity, finding.step, finding.reason))
    judged: dict[tuple[Signature, str], Verdict] = {}
    for alert in sorted(alerts, key=lambda each: each.opened_step):
        if alert.signature in _COMPARED:
            about = alert.signature, alert.scope
            _note(was, *about, Fired(alert.severity, alert.opened_step, alert.reason))
            if alert.verdict is not None and judged.get(about) is not Verdict.RIGHT:
                judged[about] = alert.verdict
    found = [
        Comparison(*about, would.get(about), was.get(about), judged.get(about)) for about in sorted({*would, *was})
    ]
    return sorted(found, key=lambda each: min(one.step for one in (each.would, each.was) if one is not None))


def _note(found: dict[tuple[Signature, str], Fired], signature: Signature, scope: str, fired: Fired) -> None:
    if fired.severity < Severity.WARNING:
        return
    known = found.get((signature, scope))
    if known is None or fired.severity > known.severity:
        step = fired.step if known is None else known.step
        found[signature, scope] = Fired(fired.severity, step, fired.reason)


def backtest_stored(database: Database, key: RunKey, rules: Rules) -> Json:
    """Judge a stored run by other rules. Steps that a later attempt has overwritten are not looked at again.

    Raises:
        NotFoundError: there is no such run.
        StorageError: it cannot be read.
    """
    with database.read() as transaction:
        run = transaction.runs.get(key)
        alerts = transaction.alerts.list(key.project, key.run, limit=_ALERTS)
        launches = transaction.runs.launches(run.run_id)
        optimizers = {each.optimizer for one in launches for each in transaction.runs.optimizers(one.launch_row)} or {0}
    own = rules.for_run(key, run.tags)
    steps, failures = 0, list[str]()
    findings: list[Finding] = []
    for optimizer in sorted(optimizers):
        if not detail_kept(database, run.run_id, optimizer):
            failures.append("single steps have been removed (detail_days): what they would tell is not in it")
        found = backtest(composed_blocks(database, run, optimizer), own, optimizer)
        steps += found.steps
        findings += found.findings
        failures += [f"{signature.value} failed: {why}" for signature, why in found.failures]
    return {
        "project": key.project,
        "run": key.run,
        "steps": steps,
        "failures": failures,
        "findings": [_json(each) for each in compare(findings, alerts)],
    }


def _json(comparison: Comparison) -> Json:
    return {
        "signature": comparison.signature.value,
        "scope": comparison.scope,
        "verdict": comparison.verdict,
        "would": _fired_json(comparison.would),
        "was": _fired_json(comparison.was),
        "judged": comparison.judged.value if comparison.judged else None,
    }


def _fired_json(fired: Fired | None) -> Json | None:
    return None if fired is None else {"severity": fired.severity.label, "step": fired.step, "reason": fired.reason}


@dataclass(frozen=True, slots=True)
class Judged:
    """What people said of the alerts of a signature, and what other rules would have made of these."""

    signature: str
    right_kept: int = 0
    right_lost: int = 0
    wrong_kept: int = 0
    wrong_gone: int = 0

    @property
    def precision(self) -> tuple[float, float | None]:
        """The share of right ones among those judged: as it was, and of what the rules would keep; None = nothing."""
        right, wrong = self.right_kept + self.right_lost, self.wrong_kept + self.wrong_gone
        kept = self.right_kept + self.wrong_kept
        return right / (right + wrong), self.right_kept / kept if kept else None


def judged_alerts(answers: Iterable[Json]) -> list[Judged]:
    """By signature, over the answers of some runs; only those of which anything has been judged."""
    counts: dict[str, Counter[str]] = {}
    for each in (finding for answer in answers for finding in answer["findings"]):
        if each["judged"] is not None:
            fate = "kept" if each["would"] is not None else "lost" if each["judged"] == Verdict.RIGHT.value else "gone"
            counts.setdefault(each["signature"], Counter())[f"{each['judged']}_{fate}"] += 1
    return [Judged(signature, **found) for signature, found in sorted(counts.items())]
