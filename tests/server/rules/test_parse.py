from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.alerts.asking import Policy
from seismograd_server.model import DirectiveKind, RunKey, Severity, Signature
from seismograd_server.rules.parse import RulesError, parse
from seismograd_server.rules.ruleset import Changes, Match, Override, Rules, SignatureRules

EXAMPLE = """
[alerts]
hold_seconds = 30

[signature.spike]
severity = "info"
above_spreads = 5

[[override]]
match = { project = "mt", run = "lstm-*", tags = { team = "speech" } }
signature.spike.mute = true
signature.vanishing = { every_steps = 8, severity = "own" }

[[override]]
[override.match]
run = "scratch-*"
[override.alerts]
reopen_seconds = 0
"""


def problems(text: str) -> list[str]:
    with pytest.raises(RulesError) as caught:
        parse(text)
    return list(caught.value.problems)


def test_rules_are_read_as_they_are_written() -> None:
    assert parse(EXAMPLE) == Rules(
        Changes(
            {Signature.SPIKE: SignatureRules(severity=Severity.INFO, thresholds={"above_spreads": 5.0})},
            {"hold_seconds": 30.0},
        ),
        (
            Override(
                Match("mt", "lstm-*", {"team": "speech"}),
                Changes(
                    {
                        Signature.SPIKE: SignatureRules(mute=True),
                        Signature.VANISHING: SignatureRules(severity=Severity.NONE, thresholds={"every_steps": 8}),
                    }
                ),
            ),
            Override(Match(run="scratch-*"), Changes(alerts={"reopen_seconds": 0.0})),
        ),
    )


def test_nothing_said_is_nothing_changed() -> None:
    assert parse("") == parse("[alerts]\n[signature.spike]\n") == Rules()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[alert]\nhold_seconds = 1", "line 1: alert is unknown: did you mean alerts?"),
        ("[signature.spikes]", "line 1: signature.spikes is unknown: did you mean spike?"),
        (
            "\n[signature.spike]\nabove_spread = 4.0",
            ("line 3: signature.spike.above_spread is unknown: did you mean above_spreads?"),
        ),
        (
            "[signature.fleet]\nx = 1",
            (
                "line 2: signature.fleet.x is unknown: known here are mute, severity, window_seconds, least_runs, "
                "significance"
            ),
        ),
        ('[signature.spike]\nabove_spreads = "4"', 'line 2: signature.spike.above_spreads must be a number, not "4"'),
        ("signature.spike.above_spreads = true", "line 1: signature.spike.above_spreads must be a number, not true"),
        (
            "signature.spike.above_spreads = -1",
            ("line 1: signature.spike.above_spreads must lie between 0 and 1,000,000,000, not be -1"),
        ),
        (
            "signature.spike.above_spreads = nan",
            ("line 1: signature.spike.above_spreads must lie between 0 and 1,000,000,000, not be NaN"),
        ),
        (
            "signature.fleet.significance = 1.5",
            ("line 1: signature.fleet.significance must lie between 0 and 1, not be 1.5"),
        ),
        (
            "signature.clip_saturation.clipped_share = 95",
            ("line 1: signature.clip_saturation.clipped_share must lie between 0 and 1, not be 95"),
        ),
        (
            "signature.vanishing.learnt_octaves = 0.4",
            ("line 1: signature.vanishing.learnt_octaves must lie between -1,000,000,000 and 0, not be 0.4"),
        ),
        (
            "signature.vanishing.every_steps = 0",
            ("line 1: signature.vanishing.every_steps must lie between 1 and 1,000,000,000, not be 0"),
        ),
        (
            "signature.vanishing.every_steps = 1.5",
            ("line 1: signature.vanishing.every_steps must be a whole number, not 1.5"),
        ),
        ("signature.spike.mute = 1", "line 1: signature.spike.mute must be true or false, not 1"),
        (
            'signature.spike.severity = "grave"',
            ('line 1: signature.spike.severity must be one of own, info, warning, critical, not "grave"'),
        ),
        (
            "signature.spike.severity = 2",
            ("line 1: signature.spike.severity must be one of own, info, warning, critical, not 2"),
        ),
        ("signature.spike = 3", "line 1: signature.spike must be a table, not 3"),
        ("signature = []", "line 1: signature must be a table, not []"),
        ("override = 3", "line 1: override must be written [[override]], once for each"),
        ("override = [3]", "line 1: override[0] must be a table, not 3"),
        (
            "[[override]]\nsignature.spike.mute = true",
            ('line 1: override[0].match is missing or empty: say which runs, as in { project = "mt" }'),
        ),
        (
            "[[override]]\nmatch = { project = 3 }\nalerts.hold_seconds = 1",
            ("line 2: override[0].match.project must be a text, not 3"),
        ),
        (
            "[[override]]\nmatch = { tags = { a = 3 } }\nalerts.hold_seconds = 1",
            ("line 2: override[0].match.tags.a must be a text, not 3"),
        ),
        (
            '[[override]]\nmatch = { projet = "a" }\nalerts.hold_seconds = 1',
            ("line 2: override[0].match.projet is unknown: did you mean project?"),
        ),
        (
            '[[override]]\nmatch = { run = "a" }',
            ("line 1: override[0] changes nothing: say something of `signature` or `alerts`"),
        ),
        ("a = ", "is not TOML: Invalid value (at end of document)"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_its_value_and_what_would_be_right(text: str, problem: str) -> None:
    assert problems(text) == [problem]


def test_everything_that_is_wrong_is_said_at_once_from_top_to_bottom() -> None:
    text = EXAMPLE.replace("hold_seconds", "hold").replace('"info"', "7").replace("reopen_seconds = 0", "reopen = 0")
    assert [problem.split(" ")[:3] for problem in problems(text)] == [
        ["line", "3:", "alerts.hold"],
        ["line", "6:", "signature.spike.severity"],
        ["line", "18:", "override[1].alerts.reopen"],
    ]
    with pytest.raises(RulesError, match=r"^my rules: line 3: alerts\.hold is unknown.*\(and 2 more\)$"):
        parse(text, "my rules")


def toml(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(each) for each in value) + "]"
    return json.dumps(value)


WORDS = ["signature", "alerts", "override", "match", "project", "run", "tags", "spike", "mute", "severity", "critical"]
words = st.sampled_from([*WORDS, "hold_seconds", "above_spreads", ""])
leaves = st.one_of(words, st.booleans(), st.integers(-3, 3), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))


@given(st.dictionaries(words, values, max_size=4))
def test_whatever_is_said_is_either_rules_or_an_error_that_tells_where(said: dict[str, Any]) -> None:
    text = "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in said.items())
    try:
        rules = parse(text)
    except RulesError as error:
        assert error.problems  # noqa: PT017 (valid rules are fine)
        assert all(problem.startswith("line ") for problem in error.problems)  # noqa: PT017 (as above)
    else:
        rules.for_run(RunKey("mt", "lstm"), {})


def test_a_policy_says_what_an_alert_asks_for_and_of_whom() -> None:
    text = """
    [[policy]]
    signature = "runaway"
    ask = ["checkpoint", "stop"]
    match = { project = "mt" }

    [[policy]]
    signature = ["spike", "vanishing"]
    severity = "warning"
    ask = "capture"
    an_hour = 5
    """
    rules = parse(text)
    stop, look = (each.policy for each in rules.policies)
    assert stop == Policy(frozenset({Signature.RUNAWAY}), (DirectiveKind.CHECKPOINT, DirectiveKind.STOP))
    assert (look.kinds, look.least, look.an_hour) == ((DirectiveKind.CAPTURE_MORE,), Severity.WARNING, 5)
    assert rules.for_run(RunKey("mt", "x"), {}).policies == (stop, look)
    assert rules.for_run(RunKey("other", "x"), {}).policies == (look,)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('ask = "stop"', "line 1: policy[0].signature is missing or empty: say one or more of nonfinite, runaway"),
        ('signature = "runaway"', "policy[0].ask is missing or empty: say one or more of capture, checkpoint, stop"),
        ('signature = "runaway"\nask = []', "line 3: policy[0].ask is missing or empty"),
        ('signature = "runaway"\nask = ["halt"]', "line 3: policy[0].ask must be of capture, checkpoint, stop"),
        ('signature = "explosion"\nask = "stop"', "line 2: policy[0].signature must be of nonfinite, "),
        ('signature = 3\nask = "stop"', "line 2: policy[0].signature is missing or empty"),
        ('signature = "runaway"\nask = "stop"\nseverity = "own"', "line 4: policy[0].severity must be one of info, "),
        ('signature = "runaway"\nask = "stop"\nan_hour = 0', "policy[0].an_hour must be a whole number from 1 to 60"),
        ('signature = "runaway"\nask = "stop"\nan_hour = true', "policy[0].an_hour must be a whole number"),
        ('signature = "runaway"\nask = "stop"\nmatch = {}', "policy[0].match is missing or empty"),
        ('signature = "runaway"\nask = "stop"\nwhen = 1', "policy[0].when is unknown"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused_by_line(table: str, complaint: str) -> None:
    assert any(complaint in each for each in problems(f"[[policy]]\n{table}\n")), problems(f"[[policy]]\n{table}\n")
