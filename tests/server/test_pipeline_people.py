"""What people do to alerts, beside a pipeline that goes on: it is in the history, and nobody undoes another's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seismograd_server.errors import ConflictError, NotFoundError, UsageError
from seismograd_server.model import Alert, AlertState, RunKey, Severity, Signature, Silence, Transition, Verdict
from seismograd_server.pipeline import Pipeline
from seismograd_server.pipeline.people import LONGEST_SILENCE_SECONDS, People
from seismograd_server.store.database import Database
from seismograd_server.store.outbox import OutboxEntry
from tests.support.synthetic import (
    NOW,
    SyntheticRun,
    exploding_losses,
    exploding_norms,
    new_pipeline,
    stored_alerts,
)

RUN = RunKey("mt", "lstm")
ABOUT_ALL_OF_MT = Silence("", "ada", "a restart is planned", 0.0, 0.0, project="mt")


class Scene:
    """A run that explodes, with a target that notes what it is told, and a person."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = NOW
        self.pipeline: Pipeline = new_pipeline(database, entries_for=self.entries_for)
        self.people = People(database, self.entries_for, lambda: self.now)

    def entries_for(self, change: Transition, now: float) -> list[OutboxEntry]:
        key = f"{change.alert.alert_id}/{change.cause}/{change.at}"
        return [OutboxEntry(None, "pager", change.alert.alert_id, now, now, 0, change.cause, "", key)]

    def explode(self) -> SyntheticRun:
        run = SyntheticRun(self.pipeline, norms=exploding_norms(200, 150), losses=exploding_losses(200, 150)).open()
        for start in range(0, 200, 20):
            self.now = NOW + start
            run.send(start, start + 20, self.now)
            self.pipeline.detect(self.now)
        return run

    @property
    def runaway(self) -> Alert:
        (found,) = [each for each in stored_alerts(self.database) if each.signature is Signature.RUNAWAY]
        return found

    def told(self, alert: Alert) -> list[str]:
        with self.database.read() as transaction:
            return [each.payload for each in transaction.outbox.due(1e12) if each.alert_id == alert.alert_id]

    def history(self, alert: Alert) -> list[tuple[str, str, str]]:
        with self.database.read() as transaction:
            return [(each.cause, each.author, each.note) for each in transaction.alerts.history(alert.alert_id)]


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Database.open("sqlite://", owner="test") as database:
        yield Scene(database)


def test_an_acknowledgement_is_in_the_history_with_its_author(scene: Scene) -> None:
    scene.explode()
    alert = scene.people.acknowledge(scene.runaway.alert_id, " Ada ", "on it")
    assert (alert.acknowledged_by, alert.acknowledged_at, alert.state) == ("Ada", scene.now, AlertState.FIRING)
    assert scene.history(alert)[-1] == ("acknowledged", "Ada", "on it")
    assert scene.people.acknowledge(alert.alert_id, "Bob").acknowledged_by == "Ada", "the first one stays"
    assert scene.history(alert)[-1] == ("acknowledged", "Ada", "on it")


def test_an_explosion_that_killed_its_run_fires_until_somebody_has_seen_it(scene: Scene) -> None:
    run = scene.explode()
    run.close(scene.now + 1)
    for hour in range(1, 23):
        scene.pipeline.detect(NOW + 3600.0 * hour)
    assert scene.runaway.state is AlertState.FIRING
    scene.now = NOW + 23 * 3600.0
    alert = scene.people.acknowledge(scene.runaway.alert_id, "Ada")
    assert alert.state is AlertState.RESOLVED
    assert scene.told(alert)[-1] == "ended", "who was told of it hears that it is over"


def test_who_was_told_of_an_explosion_hears_that_it_is_over_when_its_run_is_deleted(scene: Scene) -> None:
    run = scene.explode()
    with pytest.raises(ConflictError, match="still running"):
        scene.people.delete_part(RUN, 2**30)
    run.close(scene.now + 1)
    scene.pipeline.detect(scene.now + 2)
    alert, scene.now = scene.runaway, scene.now + 60
    while scene.people.delete_part(RUN, 1):
        assert scene.runaway.state is AlertState.FIRING, "as long as some of it is there"

    assert scene.told(alert) == ["ended"]
    assert stored_alerts(scene.database) == []
    with pytest.raises(NotFoundError):
        scene.people.delete_part(RUN, 1)
    scene.pipeline.detect(scene.now + 10)
    assert scene.told(alert) == ["ended"]


def test_nobody_hears_of_the_end_of_what_nobody_was_told(scene: Scene) -> None:
    scene.people.silence(ABOUT_ALL_OF_MT, seconds=3600.0)
    scene.explode().close(scene.now + 1)
    scene.pipeline.detect(scene.now + 2)
    alert = scene.runaway
    while scene.people.delete_part(RUN, 2**30):
        pass

    assert scene.told(alert) == []


def test_what_is_over_cannot_be_taken_on(scene: Scene) -> None:
    scene.explode().close(scene.now + 1)
    scene.pipeline.detect(scene.now + 25 * 3600.0)
    assert scene.runaway.state is AlertState.RESOLVED
    with pytest.raises(ConflictError, match="only what fires"):
        scene.people.acknowledge(scene.runaway.alert_id, "Bob")


def test_a_silenced_explosion_is_told_once_the_silence_ends(scene: Scene) -> None:
    silence = scene.people.silence(ABOUT_ALL_OF_MT, seconds=3600.0)
    run = scene.explode()
    alert = scene.runaway
    assert (alert.state, alert.silenced_by, alert.told) == (AlertState.FIRING, silence.silence_id, Severity.NONE)
    assert scene.told(alert) == []
    run.close(scene.now + 1)
    scene.pipeline.detect(NOW + 3000)
    assert scene.told(alert) == []
    scene.pipeline.detect(NOW + 3700)
    assert scene.told(alert) == ["silence ended"]


def test_a_silence_that_is_ended_by_hand_lets_what_fires_be_told_at_once(scene: Scene) -> None:
    silence = scene.people.silence(ABOUT_ALL_OF_MT, seconds=86_400.0)
    scene.explode()
    scene.now += 1
    ended = scene.people.end_silence(silence.silence_id, "Bob")
    assert (ended.ended_by, ended.expires_at) == ("Bob", scene.now)
    assert scene.people.end_silence(silence.silence_id, "Eve") == ended
    scene.pipeline.detect(scene.now + 10)
    assert scene.told(scene.runaway) == ["silence ended"]


def test_a_silence_about_others_leaves_an_explosion_alone(scene: Scene) -> None:
    scene.people.silence(Silence("", "ada", "", 0.0, 0.0, project="mt", run="other-*"), seconds=3600.0)
    scene.explode()
    assert scene.told(scene.runaway)


@pytest.mark.parametrize(
    ("wanted", "seconds", "named"),
    [
        (Silence("", "ada", "", 0.0, 0.0), 60.0, "say of what"),
        (ABOUT_ALL_OF_MT, 0.0, "seconds"),
        (ABOUT_ALL_OF_MT, float("nan"), "seconds"),
        (ABOUT_ALL_OF_MT, LONGEST_SILENCE_SECONDS * 2, "90 days"),
        (Silence("", " ", "", 0.0, 0.0, project="mt"), 60.0, "by"),
        (Silence("", "ada", "\x00", 0.0, 0.0, project="mt"), 60.0, "reason"),
        (Silence("", "ada", "", 0.0, 0.0, run="\ud800"), 60.0, "run"),
    ],
)
def test_a_silence_that_cannot_be_meant_is_refused(scene: Scene, wanted: Silence, seconds: float, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        scene.people.silence(wanted, seconds)


def test_verdicts_give_the_precision_of_a_signature_in_a_project(scene: Scene) -> None:
    scene.explode()
    alert = scene.runaway
    scene.people.judge(alert.alert_id, Verdict.WRONG, "Ada", "planned")
    scene.now += 1
    scene.people.judge(alert.alert_id, Verdict.RIGHT, "Bob", "it was not")
    scene.people.judge(alert.alert_id, Verdict.RIGHT, "Eve")
    assert scene.history(alert)[-2:] == [("called wrong", "Ada", "planned"), ("called right", "Bob", "it was not")]
    with scene.database.read() as transaction:
        (found,) = transaction.alerts.precision("mt")
        assert transaction.alerts.precision("other") == []
    assert (found.signature, found.right, found.wrong, found.share) == (Signature.RUNAWAY, 1, 0, 1.0)


def test_a_verdict_does_not_stop_an_alert_from_going_on(scene: Scene) -> None:
    run = scene.explode()
    alert = scene.people.judge(scene.runaway.alert_id, Verdict.WRONG, "Ada")
    run.close(scene.now + 1)
    scene.pipeline.detect(scene.now + 60)
    assert (scene.runaway.verdict, scene.runaway.state) == (Verdict.WRONG, AlertState.FIRING)
    assert scene.runaway.updated_at == alert.updated_at


def test_who_is_not_there_cannot_be_judged(scene: Scene) -> None:
    for act in (
        lambda: scene.people.judge("nothing", Verdict.RIGHT, "Ada"),
        lambda: scene.people.acknowledge("nothing", "Ada"),
        lambda: scene.people.end_silence("nothing", "Ada"),
    ):
        with pytest.raises(NotFoundError, match="there is no"):
            act()
