from __future__ import annotations

import re
from dataclasses import fields, is_dataclass

import pytest

from seismograd_server.alerts.asking import Policy
from seismograd_server.alerts.lifecycle import DEFAULT_POLICY
from seismograd_server.detect.watch import WatchConfig
from seismograd_server.model import RunKey, Signature
from seismograd_server.rules.parse import parse
from seismograd_server.rules.ruleset import Rules
from seismograd_server.rules.schema import documented_defaults, threshold_keys

CONFIGURED = [Signature(each.name) for each in fields(WatchConfig) if each.name != "muted"]


def with_every_key() -> str:
    """The documented defaults, each key and table switched on."""
    return re.sub(r"^#(?=[\w\[])", "", documented_defaults(), flags=re.MULTILINE)


def test_the_documented_defaults_change_nothing_as_they_are() -> None:
    assert parse(documented_defaults()) == Rules()


def test_every_documented_default_is_the_real_one() -> None:
    rules = parse(with_every_key())
    found = rules.for_run(RunKey("other", "run"), {})
    assert found.watch == WatchConfig()
    assert found.policy(DEFAULT_POLICY) == DEFAULT_POLICY
    assert set(rules.everywhere.signatures) == set(Signature)


@pytest.mark.parametrize("signature", CONFIGURED)
def test_every_threshold_of_a_signature_is_documented(signature: Signature) -> None:
    said = parse(with_every_key()).everywhere.signatures[signature].thresholds
    assert said == {each.name: each.default for each in threshold_keys(signature).values()}
    assert said, "a configuration without a field"


@pytest.mark.parametrize("signature", CONFIGURED)
def test_thresholds_are_numbers_that_rules_can_set(signature: Signature) -> None:
    config = getattr(WatchConfig(), signature.value)
    assert is_dataclass(config)
    for each in fields(config):
        assert type(getattr(config, each.name)) in {int, float}, each.name


def test_a_threshold_comes_with_the_reason_that_its_source_gives() -> None:
    text = documented_defaults()
    assert re.search(r"# In a run that is noisier .*\n#above_spreads = 4\.0\n", text)
    assert re.search(r"# what comes back within this time .*\n#reopen_seconds = 900\.0\n", text)
    assert all(len(line) <= 120 for line in text.splitlines())


def test_the_example_of_an_override_is_a_good_one() -> None:
    (override,) = parse(with_every_key()).overrides
    assert override.match.fits(RunKey("mt", "lstm-7"), {"team": "speech"})


def test_the_example_of_a_policy_is_a_good_one() -> None:
    (policy,) = parse(with_every_key()).policies
    assert policy.match.fits(RunKey("mt", "lstm-7"), {})
    assert policy.policy.an_hour == Policy(frozenset(), ()).an_hour
    assert policy.policy.least == Policy(frozenset(), ()).least
