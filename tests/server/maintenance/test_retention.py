"""What is too old, or too much, is deleted: the oldest first, with the reason, never what goes on or still rings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.errors import BeingDeletedError, UnknownRankError
from seismograd_server.instruments import Instruments
from seismograd_server.maintenance import retention
from seismograd_server.maintenance.retention import Expiry, Keep, Retention, RetentionPolicy, plan
from seismograd_server.metrics import new_registry
from seismograd_server.model import RunKey, RunState
from seismograd_server.pipeline import FailurePoint
from seismograd_server.store.database import Database
from seismograd_server.store.lifespans import Lifespan
from tests.support.reading import Stocked
from tests.support.synthetic import NOW, SyntheticRun, exploding_losses, exploding_norms, healthy_norms, new_pipeline

DAY = 86_400.0

keeps = st.builds(Keep, st.none() | st.floats(0.1, 100.0), st.none() | st.integers(0, 2000))


@st.composite
def stores(draw: st.DrawFn) -> list[Lifespan]:
    return [
        Lifespan(
            run_id,
            RunKey(draw(st.sampled_from(["mt", "asr"])), f"run-{run_id}"),
            draw(st.none() | st.floats(NOW - 100 * DAY, NOW)),
            draw(st.integers(0, 500)),
            draw(st.booleans()),
            draw(st.sampled_from(["", "", "", "age", "size"])),
        )
        for run_id in range(1, draw(st.integers(1, 12)))
    ]


@given(spans=stores(), policy=st.builds(RetentionPolicy, keeps, st.dictionaries(st.just("asr"), keeps)))
def test_the_plan_deletes_what_must_go_and_not_one_run_more(spans: list[Lifespan], policy: RetentionPolicy) -> None:
    expiries = plan(spans, policy, NOW)

    gone = {expiry.span.run_id: expiry for expiry in expiries}
    assert len(gone) == len(expiries)
    ends = [expiry.span.ended_at for expiry in expiries]
    assert None not in ends
    assert ends == sorted(end for end in ends if end is not None), "the oldest first"
    for span in spans:
        keep, may_go = policy.of(span.key.project), span.ended_at is not None and not span.alerts_open
        expiry = gone.get(span.run_id)
        if not may_go:
            assert expiry is None
            continue
        assert span.ended_at is not None
        too_old = keep.days is not None and NOW - span.ended_at > keep.days * DAY
        if span.deletion:
            assert expiry == Expiry(span, span.deletion), "what has begun is finished, for the reason it began"
        elif too_old:
            assert expiry == Expiry(span, "age")
    for project in {span.key.project for span in spans}:
        own = [span for span in spans if span.key.project == project]
        limit = policy.of(project).size_bytes
        for_size = [each for each in expiries if each.reason == "size" and each.span.key.project == project]
        by_size = [each for each in for_size if not each.span.deletion]
        kept = sum(span.size_bytes for span in own if span.run_id not in gone)
        if limit is None:
            assert not by_size
        elif kept > limit:
            left = [span for span in own if span.run_id not in gone]
            assert all(span.ended_at is None or span.alerts_open for span in left), "nothing more could go"
        if by_size and limit is not None:
            last = by_size[-1].span
            later = sum(
                each.span.size_bytes
                for each in expiries[expiries.index(by_size[-1]) :]
                if each.span.key.project == project
            )
            assert kept + later > limit, f"{last.key} had to go"


def test_nothing_is_deleted_unless_somebody_asks_for_it(empty_store: Stocked) -> None:
    empty_store.add("old")
    chore = Retention(empty_store.database, RetentionPolicy(), Instruments(new_registry()))

    assert not chore.step(NOW + 10_000 * DAY)

    assert len(runs_in(empty_store.database)) == 1


def test_runs_that_are_too_old_are_deleted_and_the_others_are_not_touched(
    empty_store: Stocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PIECE_BYTES", 4096)
    norms, losses = exploding_norms(200, 150), exploding_losses(200, 150)
    empty_store.add("one", steps=400)
    empty_store.add("rings", norms=norms, losses=losses)
    empty_store.add("goes on", finish=False)
    empty_store.add("other project's", steps=30)
    instruments = Instruments(new_registry())
    chore = Retention(empty_store.database, RetentionPolicy(Keep(days=30.0)), instruments)

    assert not chore.step(NOW + 29 * DAY)
    steps = 0
    while chore.step(NOW + 31 * DAY):
        steps += 1

    assert steps > 3, "in pieces"
    assert runs_in(empty_store.database) == ["rings", "goes on"]
    assert instruments.registry.get_sample_value("seismograd_retention_deleted_runs_total", {"reason": "age"}) == 2


def test_a_project_that_holds_too_much_loses_its_oldest_runs(empty_store: Stocked) -> None:
    for number in range(4):
        empty_store.add(f"run-{number}", norms=healthy_norms(100 + number))
    with empty_store.database.read() as transaction:
        sizes = {span.key.run: span.size_bytes for span in transaction.lifespans.list(sizes=True)}
    assert all(sizes.values())
    policy = RetentionPolicy(Keep(size_bytes=sizes["run-2"] + sizes["run-3"]))
    chore = Retention(empty_store.database, policy, Instruments(new_registry()))

    work_off(chore, NOW + DAY)

    assert runs_in(empty_store.database) == ["run-2", "run-3"]


def test_a_deletion_that_was_interrupted_is_finished_by_the_next_server_although_there_is_room_by_then(
    empty_store: Stocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PIECE_BYTES", 1)
    run = SyntheticRun(empty_store.pipeline, world_size=1, norms=healthy_norms(50)).open()
    for at in range(0, 50, 10):
        run.send(at, at + 10)
        empty_store.pipeline.detect(NOW)
    run.close(NOW)
    with empty_store.database.read() as transaction:
        (span,) = transaction.lifespans.list(sizes=True)
    policy = RetentionPolicy(Keep(size_bytes=span.size_bytes - 1))

    def dies_at(name: str, hit: int) -> FailurePoint:
        heard = 0

        def reach(point: str) -> None:
            nonlocal heard
            heard += point == name
            if heard == hit:
                raise InterruptedError

        return reach

    first = Retention(empty_store.database, policy, Instruments(new_registry()), dies_at("retention.after_commit", 3))
    with pytest.raises(InterruptedError):
        work_off(first, NOW + DAY)
    with empty_store.database.read() as transaction:
        (left,) = transaction.lifespans.list(sizes=True)
        assert transaction.runs.by_id(1).failure_reason == "being deleted: size"
    assert 0 < left.size_bytes < span.size_bytes
    second = Retention(empty_store.database, policy, Instruments(new_registry()))
    work_off(second, NOW + DAY)

    assert runs_in(empty_store.database) == []


def test_a_run_whose_deletion_has_begun_is_refused_and_when_it_is_gone_begins_anew_and_loses_nothing(
    empty_store: Stocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PIECE_BYTES", 1)
    database, pipeline = empty_store.database, empty_store.pipeline
    norms = healthy_norms(60)
    run = SyntheticRun(pipeline, name="nightly", world_size=1, norms=norms).open()
    for at in range(0, 50, 10):
        run.send(at, at + 10)
        pipeline.detect(NOW)
    run.close(NOW)
    later = NOW + 31 * DAY
    chore = Retention(database, RetentionPolicy(Keep(days=30.0)), Instruments(new_registry()))
    for _ in range(3):  # it looks, begins, and deletes a piece
        chore.step(later)
    again = SyntheticRun(pipeline, name="nightly", launch="launch-2", world_size=1, norms=norms)

    with pytest.raises(BeingDeletedError, match="run mt/nightly is being deleted: send again in a moment"):
        again.open(later)
    with pytest.raises(BeingDeletedError):
        run.send(50, 60, later)  # what a spool held back
    while chore.step(later):
        assert runs_in(database) in (["nightly"], [])

    with pytest.raises(UnknownRankError):
        run.send(50, 60, later)
    again.open(later).send(0, 60, later)
    assert again.opened[0].run_id != 1
    work_off(Retention(database, RetentionPolicy(Keep(days=30.0)), Instruments(new_registry())), later)
    with database.read() as transaction:
        launch = transaction.runs.rank(again.handle(0)).launch_row
        (batch,) = [batch for _, batch in transaction.segments.read(launch, 0)]
    assert batch.count == 60


def test_a_run_that_goes_on_although_its_deletion_had_begun_is_left_alone(
    empty_store: Stocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PIECE_BYTES", 1)
    empty_store.add("one", steps=50, world_size=1)
    chore = Retention(empty_store.database, RetentionPolicy(Keep(days=30.0)), Instruments(new_registry()))
    for _ in range(2):
        chore.step(NOW + 31 * DAY)
    with empty_store.database.begin() as transaction:
        transaction.runs.set_state(1, RunState.RUNNING, NOW)

    work_off(chore, NOW + 31 * DAY)

    assert runs_in(empty_store.database) == ["one"]


def test_no_name_of_a_deleted_run_is_left_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "seismograd.db"
    with Database.open(f"sqlite:///{path}", owner="test") as database:
        store = Stocked(database, new_pipeline(database))
        for name in ("kept-one", "forgotten-secret", "kept-two"):
            store.add(name, steps=200)
        with database.begin() as transaction:
            assert transaction.lifespans.begin_deletion(transaction.lifespans.list(sizes=False)[1], "age")
        chore = Retention(database, RetentionPolicy(), Instruments(new_registry()))
        work_off(chore, NOW)
        assert runs_in(database) == ["kept-one", "kept-two"]

    left = path.read_bytes()
    assert b"kept-one" in left
    assert b"forgotten-secret" not in left


def work_off(chore: Retention, now: float) -> None:
    while chore.step(now):
        pass


def runs_in(database: Database) -> list[str]:
    with database.read() as transaction:
        return [run.key.run for run in transaction.runs.list()][::-1]
