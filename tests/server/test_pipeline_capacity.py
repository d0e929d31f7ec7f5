"""A server with a memory limit: whoever does not fit is refused before anything is taken, who is here stays."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.errors import LimitError
from seismograd_server.model import Catalog
from seismograd_server.pipeline import Arrival, Pipeline, PipelineSettings
from seismograd_server.store.database import Database
from tests.support.synthetic import LAYERS, NOW, SyntheticRun, new_pipeline, parameters

# What a run of one rank with the layers of a synthetic run takes, by the figures of capacity.py.
CATALOG = len(LAYERS) * 512  # which runs of one model share
ONE_RUN = 24 * 1024 + len(LAYERS) * 400 + 256 + (16 + 160) * 1024 + CATALOG
ONE_RANK = (16 + 160) * 1024


@pytest.fixture
def database() -> Iterator[Database]:
    with Database.open("sqlite://", owner="test") as opened:
        yield opened


def limited(database: Database, size: int = sys.maxsize) -> Pipeline:
    return new_pipeline(database, settings=PipelineSettings(standing_bytes=size))


def run_of(pipeline: Pipeline, name: str, world_size: int = 1) -> SyntheticRun:
    return SyntheticRun(pipeline, name=name, launch=name, world_size=world_size)


def refusals(pipeline: Pipeline, what: str) -> float | None:
    registry = pipeline._instruments.registry
    return registry.get_sample_value("seismograd_ingest_refusals_total", {"what": what})


def counted(pipeline: Pipeline, now: float) -> int:
    """What is there, counted anew."""
    pipeline.capacity.look(now, 0.0)
    return pipeline.capacity.standing_bytes


def test_a_run_beyond_the_limit_is_refused_and_nothing_of_it_is_stored(database: Database) -> None:
    pipeline = limited(database, 2 * ONE_RUN)
    for name in "ab":
        run_of(pipeline, name).open()
    with pytest.raises(LimitError, match=r"no memory for this run.*max_memory_bytes"):
        run_of(pipeline, "c").open()
    with database.read() as transaction:
        assert sorted(run.key.run for run in transaction.runs.list()) == ["a", "b"]
    assert (refusals(pipeline, "run"), refusals(pipeline, "rank")) == (1.0, 0.0)
    assert counted(pipeline, NOW + 10) == 2 * ONE_RUN - CATALOG


def test_a_rank_of_a_live_run_is_refused_by_itself(database: Database) -> None:
    pipeline = limited(database, ONE_RUN + ONE_RANK + 2 * 256)
    run = run_of(pipeline, "wide", world_size=3)
    with pytest.raises(LimitError, match="no memory for this rank"):
        run.open()
    assert refusals(pipeline, "rank") == 1.0
    assert run.opened == [], "the premise: the list is made at the end"
    with database.read() as transaction:
        assert [rank.rank for rank in transaction.runs.ranks(1)] == [0, 1]


def test_who_is_here_opens_again_and_sends_however_full_it_is(database: Database) -> None:
    pipeline = limited(database, ONE_RUN)
    run = run_of(pipeline, "a").open()
    handle = run.handle(0)
    for later in range(3):
        assert run.open(NOW + later).handle(0) == handle
        assert counted(pipeline, NOW) == ONE_RUN, "before its first record as behind it"
    run.send(0, 64)
    pipeline.detect(NOW + 5)
    assert pipeline.snapshot().runs[0].tally.steps == 64
    assert counted(pipeline, NOW) == ONE_RUN
    with pytest.raises(LimitError):  # that it may come back does not mean that another may come for it
        pipeline.open_rank(run.identity(0, session_id="another"), [], NOW + 10)


def test_a_run_that_is_over_gives_up_its_room_and_no_record_of_it_is_lost(database: Database) -> None:
    pipeline = limited(database, 2 * ONE_RUN)
    first, second = run_of(pipeline, "first").open(), run_of(pipeline, "second").open()
    for run in (first, second):
        run.send(0, 64)
    first.close(NOW + 1)
    assert {view.run.key.run for view in pipeline.snapshot().runs} == {"first", "second"}, "the premise: still shown"
    run_of(pipeline, "third").open(NOW + 2)
    pipeline.detect(NOW + 3)
    assert {view.run.key.run for view in pipeline.snapshot().runs} == {"second", "third"}
    with database.read() as transaction:
        assert sum(batch.count for _, batch in transaction.segments.read(1, 0)) == 64
        assert transaction.runs.by_id(1).closed_steps == 64
    second.close(NOW + 4)
    assert first.open(NOW + 5).opened[0].watermarks[0].durable == 64


def test_a_catalog_that_comes_later_must_fit_too(database: Database) -> None:
    pipeline = limited(database, ONE_RUN + 10 * (512 + 400))
    handle = run_of(pipeline, "a").open().handle(0)
    names = [f"layer.{index}" for index in range(11)]
    known, large = Catalog(0, 0, parameters()), Catalog(0, 1, parameters(names))
    pipeline.capacity.admit_catalogs([(handle, known)] * 100, NOW)
    with pytest.raises(LimitError, match="no memory for this catalog"):
        pipeline.capacity.admit_catalogs([(handle, large)], NOW)
    assert refusals(pipeline, "catalog") == 1.0
    pipeline.capacity.admit_catalogs([(handle, replace(large, parameters=large.parameters[:10]))], NOW)
    identity = run_of(pipeline, "a").identity(0)
    with pytest.raises(LimitError):  # nor can it come with the opening of a rank that is here
        pipeline.open_rank(identity, [known, large], NOW)


def test_every_rank_brings_its_stream_and_others_must_fit(database: Database) -> None:
    pipeline = limited(database, ONE_RUN + 2 * 160 * 1024)
    run_of(pipeline, "a").open()
    for open_streams in range(3):
        pipeline.capacity.streams = open_streams
        pipeline.capacity.admit_stream()
    pipeline.capacity.streams = 3
    with pytest.raises(LimitError, match="3 streams are open"):
        pipeline.capacity.admit_stream()
    assert refusals(pipeline, "stream") == 1.0
    pipeline.capacity.streams = 1
    pipeline.capacity.admit_stream()


@given(
    room=st.integers(0, 6),
    story=st.lists(st.tuples(st.sampled_from(["open", "close", "wait"]), st.integers(0, 7)), max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_whatever_comes_and_goes_the_limit_holds_and_refusals_are_never_needless(
    room: int, story: list[tuple[str, int]]
) -> None:
    with Database.open("sqlite://", owner="test") as database:
        pipeline, now = limited(database, room * ONE_RUN + 1000), NOW
        live: dict[int, SyntheticRun] = {}
        ended = 0  # a process that has said farewell and opens again is over all the same: each comes once
        for what, number in story:
            now += 2.0
            if what == "open":
                run = live.get(number) or run_of(pipeline, f"run-{number}-{ended}")
                try:
                    run.open(now)
                except LimitError:
                    assert number not in live
                    assert len(live) == room, "there was room"
                else:
                    live[number] = run
                    assert len(live) <= room
            elif what == "close" and number in live:
                live.pop(number).close(now)
                ended += 1
            else:
                pipeline.detect(now)
            assert counted(pipeline, now) <= room * ONE_RUN + 1000
        for number, run in live.items():
            pipeline.ingest([Arrival(batches=(run.batch(0, 0, 8),))], now)
            assert pipeline.book.sender(run.handle(0)).watermarks()[0].durable == 8, number
