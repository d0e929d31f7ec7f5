"""Several runs at once: one incident is told, and what the runs share is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from seismograd_server.alerts.silencing import OF_IMPORT
from seismograd_server.model import (
    IMPORTED_TAG,
    Alert,
    AlertState,
    Catalog,
    Resolution,
    RunKey,
    Signature,
    Silence,
    Transition,
)
from seismograd_server.pipeline import Pipeline, PipelineSettings
from seismograd_server.pipeline.people import People
from seismograd_server.rules.parse import parse
from seismograd_server.store.database import Database
from seismograd_server.store.outbox import OutboxEntry
from tests.support.synthetic import (
    NOW,
    SyntheticRun,
    exploding_losses,
    exploding_norms,
    healthy_norms,
    new_pipeline,
    parameters,
    stored_alerts,
)

STEPS, ONSET = 90, 70


@pytest.fixture
def database() -> Iterator[Database]:
    with Database.open("sqlite://", owner="test") as opened:
        yield opened


class Told:
    """A pipeline, and what people are told of it."""

    def __init__(self, database: Database, text: str = "") -> None:
        self.database = database
        self.heard: list[Transition] = []
        rules = parse(text)
        settings = PipelineSettings(rules=lambda: rules)
        self.pipeline: Pipeline = new_pipeline(database, settings=settings, entries_for=self._entries)

    def _entries(self, transition: Transition, now: float) -> list[OutboxEntry]:  # noqa: ARG002 (the hook's form)
        self.heard.append(transition)
        return []

    def open(self, name: str, host: str, *, explodes: bool, **changes: Any) -> SyntheticRun:
        norms = exploding_norms(STEPS, ONSET) if explodes else healthy_norms(STEPS)
        run = SyntheticRun(self.pipeline, name=name, world_size=1, launch=f"launch-{name}", norms=norms)
        run.losses = exploding_losses(STEPS, ONSET) if explodes else None
        identity = run.identity(0, hostname=host, **changes)
        run.opened = [self.pipeline.open_rank(identity, [Catalog(0, 0, parameters())], NOW)]
        return run

    def explode(self, count: int, *, first: int = 0, at: float = NOW + 1, project: str = "mt") -> list[SyntheticRun]:
        names = [f"bad-{first + number}" for number in range(count)]
        runs = [self.open(name, "node-3", explodes=True, key=RunKey(project, name)) for name in names]
        for number, run in enumerate(runs):
            run.send(0, STEPS, at + number)
            self.pipeline.detect(at + number)
        return runs

    def fleets(self) -> list[Alert]:
        return [alert for alert in stored_alerts(self.database) if alert.signature is Signature.FLEET]

    def criticals_told(self) -> list[str]:
        opened = [each for each in self.heard if each.alert.state is AlertState.FIRING and each.alert.severity == 3]
        return [each.alert.signature.value for each in opened]


def test_runs_that_explode_together_become_one_incident_that_names_what_they_share(database: Database) -> None:
    told = Told(database)
    for number in range(12):
        told.open(f"good-{number}", f"node-{number + 10}", explodes=False)
    told.explode(6)
    (fleet,) = told.fleets()
    assert fleet.state is AlertState.FIRING
    assert fleet.evidence.details["of"] == "runaway"
    assert fleet.evidence.details["count"] >= 5
    assert fleet.evidence.details["shared"][0].startswith("host = node-3 (")
    # The first three speak for themselves, then the incident speaks for all.
    assert told.criticals_told() == ["runaway", "runaway", "runaway", "fleet"]
    inhibited = [alert for alert in stored_alerts(database) if alert.inhibited_by == "fleet"]
    assert len(inhibited) == 3


def test_two_runs_are_no_fleet(database: Database) -> None:
    told = Told(database)
    told.explode(2)
    assert told.fleets() == []


@pytest.mark.parametrize(
    ("text", "fleets"),
    [("", 1), ("signature.fleet.window_seconds = 50", 0), ("signature.fleet.least_runs = 4", 0)],
)
def test_the_rules_say_how_many_runs_within_what_time_are_a_fleet(database: Database, text: str, fleets: int) -> None:
    told = Told(database, text)
    for number in range(3):
        told.explode(1, first=number, at=NOW + 100.0 * number)
    assert len(told.fleets()) == fleets


def test_rules_of_one_project_leave_the_fleets_of_others_alone(database: Database) -> None:
    told = Told(database, '[[override]]\nmatch = { project = "elsewhere" }\nsignature.fleet.least_runs = 9')
    told.explode(3)
    assert len(told.fleets()) == 1


def test_runs_that_explode_an_hour_apart_are_no_fleet(database: Database) -> None:
    told = Told(database)
    for number in range(4):
        told.explode(1, first=number, at=NOW + 3600.0 * number)
    assert told.fleets() == []


def test_an_incident_is_over_when_its_runs_are(database: Database) -> None:
    told = Told(database)
    runs = told.explode(3)
    for run in runs:
        run.close(NOW + 10)
    people = People(database, lambda _transition, _now: [], lambda: NOW + 11)
    for alert in stored_alerts(database):
        if alert.signature is not Signature.FLEET and alert.state is AlertState.FIRING:
            people.acknowledge(alert.alert_id, "ada")
    for second in range(20, 60, 6):
        told.pipeline.detect(NOW + second)
    (fleet,) = told.fleets()
    assert (fleet.state, fleet.resolution) == (AlertState.RESOLVED, Resolution.RECOVERED)


@pytest.mark.parametrize(
    ("text", "severities"), [("signature.fleet.mute = true", []), ('signature.fleet.severity = "warning"', ["warning"])]
)
def test_rules_are_about_incidents_too(database: Database, text: str, severities: list[str]) -> None:
    told = Told(database, text)
    told.explode(4)
    assert [fleet.severity.label for fleet in told.fleets()] == severities


def test_an_incident_goes_on_after_a_restart(database: Database) -> None:
    told = Told(database)
    told.explode(3)
    told.pipeline.stop(NOW + 10)
    again = Told(database)
    again.explode(3, first=3, at=NOW + 20)
    assert len(again.fleets()) == 1
    assert again.criticals_told() == []


def test_imported_runs_are_judged_and_nobody_is_told_of_them_nor_of_an_incident(database: Database) -> None:
    told = Told(database)
    for number in range(4):
        run = told.open(f"old-{number}", "node-3", explodes=True, tags={IMPORTED_TAG: "csv"})
        run.send(0, STEPS, NOW + number)
        told.pipeline.detect(NOW + number)
    criticals = [alert for alert in stored_alerts(database) if alert.severity == 3]
    assert len(criticals) == 4
    assert {alert.silenced_by for alert in criticals} == {OF_IMPORT}
    assert told.criticals_told() == []
    live = told.explode(1, at=NOW + 10)
    assert told.criticals_told() == ["runaway"], "what is read from old logs explains nothing that happens now"
    assert told.fleets() == []
    assert live


def test_a_sweep_that_somebody_has_silenced_makes_no_incident_that_would_be_told(database: Database) -> None:
    told = Told(database)
    people = People(database, lambda _transition, _now: [], lambda: NOW)
    people.silence(Silence("", "ada", "we know", 0.0, 0.0, run="bad-*"), seconds=3600.0)
    told.explode(4)
    criticals = [alert for alert in stored_alerts(database) if alert.severity == 3]
    assert [alert.signature.value for alert in criticals if alert.silenced_by] == ["runaway"] * 4
    assert (told.criticals_told(), told.fleets()) == ([], [])


def test_who_is_not_silenced_is_told_beside_those_who_are(database: Database) -> None:
    told = Told(database)
    people = People(database, lambda _transition, _now: [], lambda: NOW)
    people.silence(Silence("", "ada", "we know", 0.0, 0.0, run="bad-[01]"), seconds=3600.0)
    told.explode(4)
    assert told.criticals_told() == ["runaway", "runaway"], "two of whom people want to hear are no incident"
    told.explode(1, first=4, at=NOW + 10)
    (fleet,) = told.fleets()
    assert fleet.evidence.details["count"] == 3


def test_an_incident_of_one_project_leaves_the_people_of_another_no_run_untold(database: Database) -> None:
    told = Told(database)
    told.explode(4)
    told.heard.clear()
    told.explode(5, first=4, at=NOW + 10, project="speech")
    assert {each.alert.key.project for each in told.heard} == {"speech"}
    assert told.criticals_told() == ["runaway", "runaway", "runaway", "fleet"], "then they have one of their own"


@pytest.mark.parametrize("way", ["silenced", "milder"])
def test_an_incident_of_which_nobody_has_heard_speaks_for_nobody(database: Database, way: str) -> None:
    told = Told(database, 'signature.fleet.severity = "warning"' if way == "milder" else "")
    if way == "silenced":
        people = People(database, lambda _transition, _now: [], lambda: NOW)
        people.silence(Silence("", "ada", "", 0.0, 0.0, signature=Signature.FLEET), seconds=3600.0)
    told.explode(5)
    assert told.criticals_told() == ["runaway"] * 5


def test_an_incident_goes_on_while_a_run_does_for_which_it_has_spoken(database: Database) -> None:
    told = Told(database)
    runs = told.explode(4)
    people = People(database, lambda _transition, _now: [], lambda: NOW + 11)
    criticals = {alert.key.run: alert for alert in stored_alerts(database) if alert.signature is Signature.RUNAWAY}
    assert criticals["bad-3"].inhibited_by == "fleet"
    for run in runs[:3]:
        run.close(NOW + 10)
        people.acknowledge(criticals[run.name].alert_id, "ada")
    told.pipeline.detect(NOW + 20)
    (fleet,) = told.fleets()
    assert fleet.state is AlertState.FIRING
    runs[3].close(NOW + 21)
    people.acknowledge(criticals["bad-3"].alert_id, "ada")
    told.pipeline.detect(NOW + 30)
    (fleet,) = told.fleets()
    assert fleet.state is AlertState.RESOLVED


def test_an_incident_that_nobody_has_seen_does_not_speak_for_what_comes_hours_later(database: Database) -> None:
    told = Told(database)
    for run in told.explode(3):
        run.close(NOW + 10)
    told.heard.clear()
    told.explode(3, first=3, at=NOW + 7200.0)
    assert told.criticals_told() == ["runaway", "runaway", "runaway", "fleet"]
    assert [fleet.state for fleet in told.fleets()] == [AlertState.FIRING] * 2
