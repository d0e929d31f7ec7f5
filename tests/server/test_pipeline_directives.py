"""What jobs are asked for: stored, told until it is answered, and found again by the next server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from seismograd_server.alerts.asking import CapturePolicy
from seismograd_server.errors import ConflictError, NotFoundError, UsageError
from seismograd_server.model import (
    BY_ALERT,
    Answer,
    AskedDirective,
    DirectiveKind,
    DirectiveOutcome,
    RecordKind,
    RunKey,
    RunState,
    Severity,
    Signature,
)
from seismograd_server.pipeline import Arrival, Pipeline, PipelineSettings, Request
from seismograd_server.rules.parse import parse
from seismograd_server.store.database import Database
from tests.support.synthetic import NOW, SyntheticRun, exploding_losses, exploding_norms, make_batch, new_pipeline

KEY = RunKey("mt", "lstm")
STOP = Request(DirectiveKind.STOP, "Ada", "too dear")
EVERYTHING = ("capture_more", "checkpoint", "stop")


@pytest.fixture
def database() -> Iterator[Database]:
    with Database.open("sqlite://", owner="test") as opened:
        yield opened


@pytest.fixture
def pipeline(database: Database) -> Pipeline:
    return new_pipeline(database)


@pytest.fixture
def run(pipeline: Pipeline) -> SyntheticRun:
    norms, losses = exploding_norms(220, 150), exploding_losses(220, 150)
    return SyntheticRun(pipeline, norms=norms, losses=losses, capabilities=EVERYTHING).open()


def stored(database: Database, run_id: int = 1) -> list[AskedDirective]:
    with database.read() as transaction:
        return list(transaction.directives.of_run(run_id, limit=100))


def told(pipeline: Pipeline, handle: int, now: float = NOW) -> list[str]:
    return [each.directive_id for each in pipeline.asking.untold(handle, now)]


def answer(handle: int, directive_id: str, *, reason: str = "", by_another_rank: bool = False) -> Answer:
    kind, outcome = DirectiveKind.STOP, DirectiveOutcome.APPLIED
    return Answer(handle, directive_id, outcome, reason, kind, step=7, by_another_rank=by_another_rank)


def explode(run: SyntheticRun, stop: int = 220) -> None:
    for start in range(0, stop, 16):
        run.send(start, min(start + 16, stop), NOW + start)
        run.pipeline.detect(NOW + start)


def test_a_rank_is_told_until_it_has_answered(database: Database, pipeline: Pipeline, run: SyntheticRun) -> None:
    asked = pipeline.asking.ask(KEY, STOP, NOW)
    name = asked.directive.directive_id
    assert [told(pipeline, run.handle(rank)) for rank in (0, 1)] == [[name], [name]]
    pipeline.asking.sent([(name, run.handle(0))], NOW + 1)
    pipeline.asking.sent([(name, run.handle(0))], NOW + 2)
    for _ in range(2):
        pipeline.ingest([Arrival(answers=(answer(run.handle(0), name, reason="now"),))], NOW + 3)
    pipeline.ingest([Arrival(answers=(answer(run.handle(0), name, reason="again"),))], NOW + 4)
    assert [told(pipeline, run.handle(rank)) for rank in (0, 1)] == [[], [name]]
    first, second = stored(database)[0].addressees
    assert (first.sent_at, first.outcome, first.reason, first.step) == (NOW + 1, DirectiveOutcome.APPLIED, "now", 7)
    assert first.answered_at == NOW + 3
    assert (second.sent_at, second.outcome) == (None, None)


def test_the_next_server_goes_on_telling_what_was_not_answered(
    database: Database, pipeline: Pipeline, run: SyntheticRun
) -> None:
    name = pipeline.asking.ask(KEY, STOP, NOW).directive.directive_id
    pipeline.ingest([Arrival(answers=(answer(run.handle(0), name),))], NOW)
    again = new_pipeline(database)
    assert [told(again, run.handle(rank)) for rank in (0, 1)] == [[], [name]]
    assert told(again, run.handle(1), NOW + 3600.0) == [], "it has expired"
    assert told(again, run.handle(1), NOW) == []


def test_a_rank_that_acted_with_the_others_answers_the_newest_of_that_kind(
    database: Database, pipeline: Pipeline, run: SyntheticRun
) -> None:
    for _ in range(2):
        newest = pipeline.asking.ask(KEY, STOP, NOW).directive.directive_id
    checkpoint = pipeline.asking.ask(KEY, replace(STOP, kind=DirectiveKind.CHECKPOINT), NOW).directive.directive_id
    older = told(pipeline, run.handle(1))[0]
    pipeline.ingest([Arrival(answers=(answer(run.handle(1), "", by_another_rank=True),))], NOW + 1)
    assert told(pipeline, run.handle(1)) == [older, checkpoint]
    by_name = {each.directive.directive_id: each.addressees[1] for each in stored(database)}
    assert by_name[newest].by_another_rank
    assert (by_name[older].outcome, by_name[checkpoint].outcome) == (None, None)


def test_an_answer_to_what_was_never_asked_changes_nothing(
    database: Database, pipeline: Pipeline, run: SyntheticRun
) -> None:
    pipeline.ingest([Arrival(answers=(answer(run.handle(0), ""), answer(run.handle(0), "nothing")))], NOW)
    assert stored(database) == []


def test_only_ranks_that_are_there_and_understand_are_asked(database: Database, pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline, world_size=3, capabilities=("stop",)).open()
    with pytest.raises(ConflictError, match="understands 'checkpoint'"):
        pipeline.asking.ask(KEY, replace(STOP, kind=DirectiveKind.CHECKPOINT), NOW)
    before = pipeline.asking.ask(KEY, STOP, NOW).directive.directive_id
    pipeline.close_rank(run.handle(2), "finished", "", NOW)
    assert told(pipeline, run.handle(2)) == []
    asked = pipeline.asking.ask(KEY, STOP, NOW)
    assert [each.rank for each in asked.addressees] == [0, 1]
    assert told(pipeline, run.handle(0)) == [before, asked.directive.directive_id]


def test_a_run_that_is_over_or_unknown_cannot_be_asked(pipeline: Pipeline, run: SyntheticRun) -> None:
    with pytest.raises(NotFoundError, match="did you mean"):
        pipeline.asking.ask(RunKey("mt", "lstn"), STOP, NOW)
    run.close(NOW)
    pipeline.detect(NOW)
    with pytest.raises(ConflictError, match="finished"):
        pipeline.asking.ask(KEY, STOP, NOW)


def test_a_window_that_ends_before_it_begins_is_refused(pipeline: Pipeline, run: SyntheticRun) -> None:
    backwards = Request(DirectiveKind.CAPTURE_MORE, "Ada", first_step=5, last_step=4)
    with pytest.raises(UsageError, match="before the first step"):
        pipeline.asking.ask(KEY, backwards, NOW)


def test_a_capture_without_a_window_is_of_the_steps_around_the_last_one(pipeline: Pipeline, run: SyntheticRun) -> None:
    explode(run, 100)
    asked = pipeline.asking.ask(KEY, Request(DirectiveKind.CAPTURE_MORE, "Ada", all_ranks=True), NOW)
    assert (asked.directive.first_step, asked.directive.last_step) == (99 - 64, 99 + 64)
    assert [each.rank for each in asked.addressees] == [0, 1]


def test_ranks_that_have_not_described_themselves_yet_are_asked_all_the_same(pipeline: Pipeline) -> None:
    run = SyntheticRun(pipeline, capabilities=EVERYTHING)
    for rank in range(2):
        pipeline.open_rank(run.identity(rank), [], NOW)
    asked = pipeline.asking.ask(KEY, Request(DirectiveKind.CAPTURE_MORE, "Ada"), NOW)
    assert [each.rank for each in asked.addressees] == [0, 1]


def test_an_explosion_asks_for_the_flight_recorder_and_never_to_stop(
    database: Database, pipeline: Pipeline, run: SyntheticRun
) -> None:
    explode(run)
    asked = stored(database)
    with database.read() as transaction:
        alerts = transaction.alerts.list(limit=100)
    grave = [alert.opened_step for alert in alerts if alert.severity >= Severity.WARNING]
    assert {each.directive.kind for each in asked} == {DirectiveKind.CAPTURE_MORE}
    assert {each.directive.asked_by for each in asked} == {BY_ALERT}
    first = asked[-1].directive
    assert (first.first_step, first.last_step) == (min(grave) - 64, max(grave[-1:]) + 64)
    assert Signature(first.reason.partition(":")[0]) in {alert.signature for alert in alerts}
    assert [each.rank for each in asked[-1].addressees][:1] == [0]
    assert told(pipeline, run.handle(0)) == [each.directive.directive_id for each in reversed(asked)]


def test_nothing_is_asked_where_the_operator_says_so_and_of_clients_that_are_older(database: Database) -> None:
    settings = PipelineSettings(capture=CapturePolicy(automatic=False))
    quiet = new_pipeline(database, settings=settings)
    norms = exploding_norms(220, 150)
    explode(SyntheticRun(quiet, norms=norms, capabilities=EVERYTHING).open())
    older = SyntheticRun(new_pipeline(database), name="older", launch="older", norms=norms).open()
    explode(older)
    with database.read() as transaction:
        assert [*transaction.directives.of_run(1, 10), *transaction.directives.of_run(2, 10)] == []
        assert len(transaction.alerts.list()) >= 2


def test_a_failed_commit_asks_nothing_and_the_next_one_asks_once(database: Database) -> None:
    failures = ["detect.before_commit"] * 2

    def fail(point: str) -> None:
        if point in failures and pipeline.snapshot().runs and stored_alerts() == 0 and exploding[0]:
            failures.remove(point)
            raise RuntimeError("the disk is full")

    def stored_alerts() -> int:
        with database.read() as transaction:
            return len(transaction.alerts.list())

    exploding = [False]
    pipeline = new_pipeline(database, failure_point=fail)
    run = SyntheticRun(pipeline, norms=exploding_norms(220, 150), capabilities=EVERYTHING).open()
    explode(run, 144)
    exploding[0] = True
    for start in range(144, 220, 16):
        run.send(start, min(start + 16, 220), NOW + start)
        for attempt in range(4):
            pipeline.detect(NOW + start + 2 * attempt)
    assert not failures
    asked = stored(database)
    assert asked
    assert told(pipeline, run.handle(0)) == [each.directive.directive_id for each in reversed(asked)]


def test_details_are_stored_once_and_neither_revive_a_run_nor_are_judged(
    database: Database, pipeline: Pipeline, run: SyntheticRun
) -> None:
    explode(run)
    run.close(NOW + 220)
    pipeline.detect(NOW + 220)
    with database.read() as transaction:
        before = (transaction.runs.by_id(1), transaction.alerts.list(limit=100))
    detail = make_batch(run.handle(1), 0, run.norms[100:164], kind=RecordKind.DETAIL)
    for _ in range(2):
        pipeline.ingest([Arrival(batches=(detail,))], NOW + 230)
        pipeline.detect(NOW + 230)
    with database.read() as transaction:
        assert (transaction.runs.by_id(1), transaction.alerts.list(limit=100)) == before
        assert sum(batch.count for _, batch in transaction.segments.read(1, 0, RecordKind.DETAIL)) == 64
    assert before[0].state is RunState.FINISHED


POLICIES = """
[[policy]]
signature = ["runaway", "nonfinite", "loss_divergence"]
ask = ["capture", "checkpoint", "stop"]
an_hour = 1
"""


def test_a_policy_asks_every_rank_to_capture_save_and_stop_once(database: Database) -> None:
    rules = parse(POLICIES)
    pipeline = new_pipeline(database, settings=PipelineSettings(rules=lambda: rules))
    norms, losses = exploding_norms(220, 150), exploding_losses(220, 150)
    run = SyntheticRun(pipeline, world_size=3, norms=norms, losses=losses, capabilities=EVERYTHING).open()
    explode(run)
    asked: dict[DirectiveKind, list[AskedDirective]] = {kind: [] for kind in DirectiveKind}
    for each in reversed(stored(database)):
        if each.directive.reason.startswith("by policy, "):
            asked[each.directive.kind].append(each)
    for kind, found in asked.items():
        (one,) = found
        assert [each.rank for each in one.addressees] == [0, 1, 2], kind
        assert (one.directive.asked_by, bool(one.directive.alert_id)) == (BY_ALERT, True)
    window = asked[DirectiveKind.CAPTURE_MORE][0].directive
    assert window.first_step < 150 < window.last_step
    saved, stopped = asked[DirectiveKind.CHECKPOINT][0].directive, asked[DirectiveKind.STOP][0].directive
    untold = told(pipeline, run.handle(2))
    assert untold.index(saved.directive_id) < untold.index(stopped.directive_id), "it saves before it stops"


def test_a_policy_asks_a_job_that_was_started_again_and_explodes_at_the_same_step(database: Database) -> None:
    rules = parse(POLICIES.replace("an_hour = 1", "an_hour = 2"))
    pipeline = new_pipeline(database, settings=PipelineSettings(rules=lambda: rules))
    # After a restart it takes a little more to be called an explosion.
    for launch, growth in (("launch-1", 1.35), ("launch-2", 1.38)):
        norms, losses = exploding_norms(220, 150, growth), exploding_losses(220, 150)
        run = SyntheticRun(pipeline, launch=launch, norms=norms, losses=losses, capabilities=EVERYTHING).open()
        explode(run)
        run.close(NOW + 220)
    stops = [each for each in stored(database) if each.directive.kind is DirectiveKind.STOP]
    (alert_id,) = {each.directive.alert_id for each in stops}
    with database.read() as transaction:
        struck = [each for each in transaction.alerts.history(alert_id) if each.cause in {"opened", "reopened"}]
    assert [each.step for each in struck] == [160, 160], "the premise: the same alert at the same step"
    assert [len(each.addressees) for each in stops] == [2, 2]
    for kind in (DirectiveKind.STOP, DirectiveKind.CAPTURE_MORE):
        asked = [each for each in stored(database) if each.directive.kind is kind]
        assert len({addressee.rank_handle for each in asked for addressee in each.addressees}) == 4, kind


def test_a_policy_asks_every_job_of_an_incident(database: Database) -> None:
    rules = parse(POLICIES)
    pipeline = new_pipeline(database, settings=PipelineSettings(rules=lambda: rules))
    norms, losses = exploding_norms(220, 150), exploding_losses(220, 150)
    for name in ("a", "b", "c", "d", "e"):
        run = SyntheticRun(pipeline, name, launch=f"launch-{name}", norms=norms, losses=losses, capabilities=EVERYTHING)
        explode(run.open())
    with database.read() as transaction:
        alerts = {each.alert_id: each for each in transaction.alerts.list(limit=100)}
    asked = [each.directive for run_id in range(1, 6) for each in stored(database, run_id)]
    stops = [each for each in asked if each.kind is DirectiveKind.STOP]
    spoken_for = [alerts[each.alert_id] for each in stops if alerts[each.alert_id].inhibited_by == "fleet"]
    assert (len(stops), len(spoken_for)) == (5, 2)
    # It got worse in the moment in which it opened, and of that nobody has heard either.
    assert {each.told for each in spoken_for} == {Severity.NONE}


def test_a_policy_asks_nobody_who_does_not_understand(database: Database) -> None:
    rules = parse(POLICIES)
    pipeline = new_pipeline(database, settings=PipelineSettings(rules=lambda: rules))
    norms, losses = exploding_norms(220, 150), exploding_losses(220, 150)
    explode(SyntheticRun(pipeline, norms=norms, losses=losses, capabilities=()).open())
    assert stored(database) == []
