"""Rules in a live server: they decide what fires, they may change while runs go on, and a backtest says the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from seismograd_server.model import AlertState, Catalog, Resolution, Severity
from seismograd_server.pipeline import Pipeline, PipelineSettings
from seismograd_server.rules.parse import parse
from seismograd_server.rules.ruleset import Rules
from seismograd_server.store.database import Database
from tests.support.synthetic import NOW, SyntheticRun, healthy_norms, new_pipeline, parameters, stored_alerts

STEPS, SPIKE = 160, 80


@pytest.fixture
def database() -> Iterator[Database]:
    with Database.open("sqlite://", owner="test") as opened:
        yield opened


class Live:
    """A pipeline whose rules can be changed, and a run with one step forty times as large as usual."""

    def __init__(self, database: Database, text: str = "", **changes: Any) -> None:
        self.rules = parse(text)
        self.database = database
        settings = replace(PipelineSettings(rules=lambda: self.rules), **changes)
        self.pipeline: Pipeline = new_pipeline(database, settings=settings)
        norms = healthy_norms(STEPS)
        norms[SPIKE] *= 40.0
        self.run = SyntheticRun(self.pipeline, norms=norms, losses=np.linspace(2, 1, STEPS))

    def train(self, first: int, stop: int) -> list[tuple[str, Severity, AlertState]]:
        for start in range(first, stop, 16):
            self.run.send(start, min(start + 16, stop), NOW + start)
            self.pipeline.detect(NOW + start)
        return [(each.signature.value, each.severity, each.state) for each in stored_alerts(self.database)]

    def change(self, text: str) -> None:
        self.rules = parse(text)


def test_the_severity_of_an_alert_is_that_of_the_rules(database: Database) -> None:
    live = Live(database, 'signature.spike.severity = "critical"')
    live.run.open()
    assert live.train(0, STEPS) == [("spike", Severity.CRITICAL, AlertState.RESOLVED)]


def test_a_muted_signature_opens_no_alert(database: Database) -> None:
    live = Live(database, "signature.spike.mute = true")
    live.run.open()
    assert live.train(0, STEPS) == []


@pytest.mark.parametrize(
    ("match", "fires"), [('run = "lstm"', False), ('run = "gru"', True), ('project = "m*"', False)]
)
def test_an_override_is_for_the_runs_that_fit(database: Database, match: str, fires: bool) -> None:
    live = Live(database, f"[[override]]\nmatch = {{ {match} }}\nsignature.spike.mute = true")
    live.run.open()
    assert bool(live.train(0, STEPS)) is fires


@pytest.mark.parametrize(("tags", "fires"), [({"team": "x"}, False), ({"team": "y"}, True), ({}, True)])
def test_an_override_by_tag_holds_from_the_launch_on_that_has_the_tag(
    database: Database, tags: dict[str, str], fires: bool
) -> None:
    live = Live(database, '[[override]]\nmatch = { tags = { team = "x" } }\nsignature.spike.mute = true')
    live.run.open()
    live.train(0, 48)
    live.run.launch, live.run.world_size = "launch-2", 1
    identity = live.run.identity(0, tags=tags)
    live.run.opened = [live.pipeline.open_rank(identity, [Catalog(0, 0, parameters())], NOW + 48)]
    assert bool(live.train(48, STEPS)) is fires


def test_alerts_wait_as_long_as_the_rules_say(database: Database) -> None:
    live = Live(database, "alerts.hold_seconds = 1000")
    live.run.open()
    assert live.train(0, SPIKE + 1) == [("spike", Severity.WARNING, AlertState.PENDING)]


def test_changed_rules_hold_from_the_next_step_on_and_what_was_learnt_stays(database: Database) -> None:
    live = Live(database, "signature.spike.mute = true")
    live.run.open()
    live.train(0, 64)
    live.change("signature.spike.above_spreads = 3.0")
    # The baseline of the first 64 steps is still there: without it, nothing could be judged 16 steps later.
    assert live.train(64, SPIKE + 1) == [("spike", Severity.WARNING, AlertState.FIRING)]


def test_an_open_alert_whose_signature_is_muted_is_resolved_as_muted(database: Database) -> None:
    live = Live(database)
    live.run.open()
    assert live.train(0, SPIKE + 1) == [("spike", Severity.WARNING, AlertState.FIRING)]
    live.change("signature.spike.mute = true")
    live.pipeline.detect(NOW + 200)
    (alert,) = stored_alerts(database)
    assert (alert.state, alert.resolution) == (AlertState.RESOLVED, Resolution.MUTED)
    assert live.train(SPIKE + 1, STEPS) == [("spike", Severity.WARNING, AlertState.RESOLVED)]


def test_an_open_alert_keeps_its_severity_when_the_rules_change(database: Database) -> None:
    live = Live(database)
    live.run.open()
    live.train(0, SPIKE + 1)
    live.change('signature.spike.severity = "info"')
    live.pipeline.detect(NOW + 200)
    assert [(each.severity, each.state) for each in stored_alerts(database)] == [(Severity.WARNING, AlertState.FIRING)]


def test_a_run_that_is_taken_up_again_is_judged_by_the_rules_of_now(database: Database) -> None:
    live = Live(database)
    live.run.open()
    live.train(0, 64)
    live.pipeline.stop(NOW + 64)
    again = Live(database, "signature.spike.mute = true")
    again.run.opened = live.run.opened
    assert again.train(64, STEPS) == []


def test_rules_that_did_not_change_leave_the_detectors_alone(database: Database) -> None:
    live = Live(database)
    live.run.open()
    live.train(0, 32)
    (engine,) = live.pipeline._fleet
    watch = engine.series[0].watch
    live.rules = Rules()
    live.train(32, 48)
    assert engine.series[0].watch is watch
