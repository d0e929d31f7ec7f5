from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from seismograd_server.errors import NotFoundError
from seismograd_server.model import Alert, AlertState, Evidence, Finding, RunKey, Severity, Signature, Verdict
from seismograd_server.reading.backtest import Judged, backtest_stored, compare, judged_alerts
from seismograd_server.rules.parse import parse
from seismograd_server.rules.ruleset import Rules
from seismograd_server.store.database import Database
from tests.support.synthetic import NOW, SyntheticRun, healthy_norms, new_pipeline, stored_alerts

KEY = RunKey("mt", "lstm")
WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL


def found(signature: Signature, severity: Severity, step: int, scope: str = "") -> Finding:
    return Finding(signature, severity, scope, step, step, Evidence(), "because")


def alert(signature: Signature, severity: Severity, step: int) -> Alert:
    return Alert(
        alert_id=f"{signature}-{step}",
        run_id=1,
        key=KEY,
        signature=signature,
        scope="",
        severity=severity,
        state=AlertState.FIRING,
        since_step=step,
        opened_step=step,
        last_step=step,
        opened_at=NOW,
        updated_at=NOW,
        resolved_at=None,
        resolution=None,
        evidence=Evidence(),
        reason="because",
        fingerprint=signature.value,
    )


def verdicts(findings: list[Finding], alerts: list[Alert]) -> list[tuple[str, str]]:
    return [(each.signature.value, each.verdict) for each in compare(findings, alerts)]


def test_what_fires_now_and_then_is_the_same_new_gone_or_changed() -> None:
    findings = [
        found(Signature.SPIKE, WARNING, 10),
        found(Signature.RUNAWAY, CRITICAL, 12),
        found(Signature.NONFINITE, WARNING, 14),
    ]
    alerts = [
        alert(Signature.SPIKE, WARNING, 10),
        alert(Signature.NONFINITE, CRITICAL, 14),
        alert(Signature.VANISHING, WARNING, 3),
    ]
    assert verdicts(findings, alerts) == [
        ("vanishing", "gone"),
        ("spike", "same"),
        ("runaway", "new"),
        ("nonfinite", "changed"),
    ]


def test_a_condition_is_compared_once_by_its_first_step_and_its_worst_severity() -> None:
    findings = [found(Signature.RUNAWAY, severity, step) for severity, step in [(WARNING, 10), (CRITICAL, 12)]]
    alerts = [alert(Signature.RUNAWAY, CRITICAL, 40), alert(Signature.RUNAWAY, WARNING, 11)]
    (one,) = compare(findings, alerts)
    assert one.would is not None
    assert one.was is not None
    assert (one.would.severity, one.would.step) == (CRITICAL, 10)
    assert (one.was.severity, one.was.step) == (CRITICAL, 11)


def test_what_informs_only_or_is_seen_by_the_clock_alone_is_left_out() -> None:
    assert verdicts([], [alert(Signature.STALLED, CRITICAL, 10), alert(Signature.SPIKE, Severity.INFO, 10)]) == []


STEPS, SPIKE = 120, 80


@pytest.fixture
def database() -> Iterator[Database]:
    norms = healthy_norms(STEPS)
    norms[SPIKE] *= 40.0
    with Database.open("sqlite://", owner="test") as database:
        pipeline = new_pipeline(database)
        run = SyntheticRun(pipeline, norms=norms, losses=np.linspace(2, 1, STEPS)).open()
        for start in range(0, STEPS, 16):
            run.send(start, min(start + 16, STEPS), NOW + start)
            pipeline.detect(NOW + start)
        yield database


def test_a_stored_run_judged_again_by_the_same_rules_is_judged_the_same(database: Database) -> None:
    answer = backtest_stored(database, KEY, Rules())
    (alert,) = stored_alerts(database)
    assert (answer["steps"], answer["failures"]) == (STEPS, [])
    (one,) = answer["findings"]
    assert (one["signature"], one["verdict"]) == ("spike", "same")
    assert one["would"]["step"] == alert.opened_step == SPIKE
    assert one["would"]["reason"] == alert.reason


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("signature.spike.mute = true", "gone"),
        ('signature.spike.severity = "critical"', "changed"),
        ("signature.spike.above_baseline_octaves = 9", "gone"),
        ('[[override]]\nmatch = { project = "asr" }\nsignature.spike.mute = true', "same"),
    ],
)
def test_other_rules_say_what_would_be_different(database: Database, text: str, verdict: str) -> None:
    assert [each["verdict"] for each in backtest_stored(database, KEY, parse(text))["findings"]] == [verdict]


def test_a_run_that_does_not_exist_is_said_so(database: Database) -> None:
    with pytest.raises(NotFoundError):
        backtest_stored(database, replace(KEY, run="gru"), Rules())


def test_what_people_said_of_alerts_is_held_against_what_the_rules_would_make_of_these() -> None:
    spikes = [replace(alert(Signature.SPIKE, WARNING, step), verdict=Verdict.WRONG) for step in (10, 20)]
    right = replace(alert(Signature.RUNAWAY, CRITICAL, 30), verdict=Verdict.RIGHT)
    unjudged = alert(Signature.NONFINITE, CRITICAL, 40)
    (nonfinite, runaway, spike) = sorted(
        compare([found(Signature.RUNAWAY, CRITICAL, 31)], [*spikes, right, unjudged]), key=lambda each: each.signature
    )
    assert (nonfinite.judged, runaway.judged, spike.judged) == (None, Verdict.RIGHT, Verdict.WRONG)
    twice = [spikes[0], replace(spikes[1], verdict=Verdict.RIGHT)]
    assert [each.judged for each in compare([], twice)] == [Verdict.RIGHT], "once right, it is worth keeping"
    assert [each.judged for each in compare([], twice[::-1])] == [Verdict.RIGHT]


def test_precision_is_that_of_what_was_judged_and_of_what_is_kept_of_it() -> None:
    def finding(judged: str | None, would: object) -> dict[str, object]:
        return {"signature": "spike", "judged": judged, "would": would}

    fates: list[tuple[str | None, object]] = [
        ("right", {}),
        ("right", None),
        ("wrong", {}),
        ("wrong", None),
        ("wrong", None),
        (None, {}),
    ]
    answers = [{"findings": [finding(*fate)]} for fate in fates]
    assert judged_alerts(answers) == [Judged("spike", 1, 1, 1, 2)]
    assert judged_alerts(answers)[0].precision == (0.4, 0.5)
    assert Judged("spike", wrong_gone=3).precision == (0.0, None)
    assert judged_alerts([]) == []
