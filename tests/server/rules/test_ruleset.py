from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.alerts.lifecycle import DEFAULT_POLICY
from seismograd_server.detect.watch import WatchConfig
from seismograd_server.model import Evidence, Finding, RunKey, Severity, Signature
from seismograd_server.rules.ruleset import Changes, Match, Override, Rules, RunRules, SignatureRules

KEY = RunKey("mt", "lstm-7")
NAMES = st.sampled_from(["mt", "asr", "lstm-7", "lstm-8"])
TAGS = st.dictionaries(st.sampled_from(["team", "host"]), st.sampled_from(["x", "y"]), max_size=2)


def finding(signature: Signature = Signature.SPIKE, severity: Severity = Severity.WARNING) -> Finding:
    return Finding(signature, severity, "", 7, 7, Evidence(), "because")


def said(signature: Signature = Signature.SPIKE, **rules: object) -> Changes:
    return Changes({signature: replace(SignatureRules(), **rules)})  # type: ignore[arg-type] # as the test says


def test_without_rules_every_run_has_the_shipped_defaults() -> None:
    rules = Rules().for_run(KEY, {"team": "x"})
    assert rules == RunRules()
    assert rules.watch == WatchConfig()
    assert rules.policy(DEFAULT_POLICY) is not None
    assert rules.policy(DEFAULT_POLICY) == DEFAULT_POLICY


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (Match(project="mt"), True),
        (Match(project="m?"), True),
        (Match(project="MT"), False),
        (Match(run="lstm-*"), True),
        (Match(project="mt", run="gru-*"), False),
        (Match(tags={"team": "x"}), True),
        (Match(tags={"team": "*"}), True),
        (Match(tags={"team": "y"}), False),
        (Match(tags={"team": "x", "host": "*"}), False),
        (Match(project="mt", tags={"team": "x"}), True),
        (Match(project="asr", tags={"team": "x"}), False),
    ],
)
def test_an_override_is_about_the_runs_that_fit_all_of_its_match(match: Match, fits: bool) -> None:
    assert match.fits(KEY, {"team": "x"}) is fits
    rules = Rules(overrides=(Override(match, said(mute=True)),)).for_run(KEY, {"team": "x"})
    assert rules.watch.muted == ({Signature.SPIKE} if fits else set())


def test_thresholds_of_several_parts_come_together_and_the_latest_one_counts() -> None:
    rules = Rules(
        said(thresholds={"above_spreads": 5.0, "above_record_octaves": 1.0}),
        (
            Override(Match(project="mt"), said(thresholds={"above_spreads": 6.0})),
            Override(Match(run="lstm-7"), said(thresholds={"above_spreads": 7.0})),
            Override(Match(run="gru"), said(thresholds={"above_spreads": 8.0})),
        ),
    )
    spike = rules.for_run(KEY, {}).watch.spike
    assert spike == replace(WatchConfig().spike, above_spreads=7.0, above_record_octaves=1.0)


def test_an_override_may_take_back_what_was_said_of_all_runs() -> None:
    rules = Rules(
        said(mute=True, severity=Severity.CRITICAL),
        (Override(Match(project="mt"), said(mute=False, severity=Severity.NONE)),),
    )
    assert rules.for_run(KEY, {}) == RunRules()
    assert rules.for_run(RunKey("asr", "a"), {}).watch.muted == {Signature.SPIKE}


def test_findings_get_the_severity_of_the_rules_and_an_end_stays_an_end() -> None:
    rules = RunRules(severities={Signature.SPIKE: Severity.INFO})
    given_ = [finding(), finding(severity=Severity.NONE), finding(Signature.RUNAWAY, Severity.CRITICAL)]
    assert [each.severity for each in rules.grade(given_)] == [Severity.INFO, Severity.NONE, Severity.CRITICAL]
    assert [replace(each, severity=Severity.NONE) for each in rules.grade(given_)] == [
        replace(each, severity=Severity.NONE) for each in given_
    ]


def test_the_patience_of_alerts_is_the_usual_one_but_for_what_is_said() -> None:
    policy = RunRules(alerts={"hold_seconds": 30.0}).policy(replace(DEFAULT_POLICY, reopen_seconds=1.0))
    assert (policy.hold_seconds, policy.reopen_seconds) == (30.0, 1.0)


signature_rules = st.builds(
    SignatureRules,
    mute=st.sampled_from([None, True, False]),
    severity=st.sampled_from([None, *Severity]),
    thresholds=st.dictionaries(st.sampled_from(["above_spreads", "above_record_octaves"]), st.floats(0, 9), max_size=2),
)
changes = st.builds(
    Changes,
    signatures=st.dictionaries(st.just(Signature.SPIKE), signature_rules, max_size=1),
    alerts=st.dictionaries(st.sampled_from(["hold_seconds", "reopen_seconds"]), st.floats(0, 9), max_size=2),
)
matches = st.builds(Match, project=st.one_of(st.just("*"), NAMES), run=st.one_of(st.just("*"), NAMES), tags=TAGS)


@given(changes, st.lists(st.builds(Override, match=matches, changes=changes), max_size=4), NAMES, NAMES, TAGS)
def test_the_last_part_that_fits_and_says_something_decides(
    everywhere: Changes, overrides: list[Override], project: str, run: str, tags: Mapping[str, str]
) -> None:
    found = Rules(everywhere, tuple(overrides)).for_run(RunKey(project, run), tags)
    mute, severity, spike, alerts = False, Severity.NONE, WatchConfig().spike, dict[str, float]()
    for part in [Override(Match(), everywhere), *overrides]:
        fits = part.match.project in {"*", project} and part.match.run in {"*", run}
        if not fits or not part.match.tags.items() <= tags.items():
            continue
        alerts.update(part.changes.alerts)
        for rules in part.changes.signatures.values():
            mute = mute if rules.mute is None else rules.mute
            severity = severity if rules.severity is None else rules.severity
            spike = replace(spike, **rules.thresholds)
    assert found.watch == WatchConfig(muted=frozenset({Signature.SPIKE} if mute else ()), spike=spike)
    assert found.severities == ({Signature.SPIKE: severity} if severity else {})
    assert found.alerts == alerts
