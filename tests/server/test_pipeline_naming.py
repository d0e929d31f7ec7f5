"""What an alert names beside its evidence: the checkpoint to go back to, and the data of the step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seismograd_server.model import Checkpoint
from seismograd_server.pipeline import Arrival, Pipeline
from seismograd_server.store.database import Database
from tests.support.synthetic import (
    NOW,
    SyntheticRun,
    exploding_losses,
    exploding_norms,
    new_pipeline,
    stored_alerts,
)

ONSET = 150


@pytest.fixture
def database() -> Iterator[Database]:
    with Database.open("sqlite://", owner="test") as opened:
        yield opened


@pytest.fixture
def pipeline(database: Database) -> Pipeline:
    return new_pipeline(database)


def explode(pipeline: Pipeline, *saved: tuple[int, str], data: bool = True, world_size: int = 2) -> SyntheticRun:
    norms, losses = exploding_norms(220, ONSET), exploding_losses(220, ONSET)
    run = SyntheticRun(pipeline, norms=norms, losses=losses, world_size=world_size).open()
    for step, path in saved:
        pipeline.ingest([Arrival(checkpoints=(Checkpoint(run.handle(0), step, path, NOW + step),))], NOW)
    for start in range(0, 220, 16):
        stop = min(start + 16, 220)
        for rank in range(world_size):
            ids = {row: f"shard-{rank}-{start + row}" for row in range(stop - start)} if data else {}
            pipeline.ingest([Arrival(batches=(run.batch(rank, start, stop, data_ids=ids),))], NOW + start)
        pipeline.detect(NOW + start)
    return run


def test_an_alert_names_the_last_checkpoint_before_it_began_and_the_data_of_its_step(
    database: Database, pipeline: Pipeline
) -> None:
    explode(pipeline, (100, "/100.pt"), (140, "/140.pt"), (ONSET + 20, "/too-late.pt"))
    alerts = [alert for alert in stored_alerts(database) if alert.since_step > 140]
    assert alerts
    for alert in alerts:
        details = alert.evidence.details
        assert (details["checkpoint_step"], details["checkpoint_path"]) == (140, "/140.pt")
        step = alert.opened_step
        assert details["data"] == f"rank 0: shard-0-{step}; rank 1: shard-1-{step}"
    with database.read() as transaction:
        for alert in alerts:
            named = {str(event.evidence.details.get("data")) for event in transaction.alerts.history(alert.alert_id)}
            assert len(named) == 1, "what was named when it opened stays, however much worse it becomes"


def test_a_single_rank_needs_no_name(database: Database, pipeline: Pipeline) -> None:
    explode(pipeline, world_size=1)
    for alert in stored_alerts(database):
        assert alert.evidence.details["data"] == f"shard-0-{alert.opened_step}"


def test_what_the_job_never_told_is_not_named(database: Database, pipeline: Pipeline) -> None:
    explode(pipeline, (ONSET + 20, "/too-late.pt"), data=False)
    for alert in stored_alerts(database):
        if alert.since_step <= ONSET + 20:
            assert not {"checkpoint_step", "checkpoint_path", "data"} & alert.evidence.details.keys()
