"""Of an old run single steps stay around incidents and at its ends, and everything else looks as it did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from seismograd_server.instruments import Instruments
from seismograd_server.maintenance import downsampling
from seismograd_server.maintenance.downsampling import Downsampling, is_summarised, kept_of
from seismograd_server.maintenance.retention import Keep, RetentionPolicy
from seismograd_server.maintenance.summarising import Summarising
from seismograd_server.metrics import new_registry
from seismograd_server.model import AlertState, Line, RunKey, Severity, Signature
from seismograd_server.pipeline import FailurePoint
from seismograd_server.reading.backtest import backtest_stored
from seismograd_server.reading.lines import Stretch
from seismograd_server.reading.resolution import detail_kept
from seismograd_server.report import PostmortemWriter
from seismograd_server.rules.ruleset import Rules
from seismograd_server.store.database import Database
from seismograd_server.store.downsampling import Kept
from tests.support.histories import make_alert
from tests.support.reading import Stocked
from tests.support.synthetic import NOW, SyntheticRun, exploding_losses, exploding_norms, healthy_norms

DAY = 86_400.0
KEY = RunKey("mt", "old")
STEPS, ONSET, AROUND = 2000, 1500, 64
POLICY = RetentionPolicy(Keep(detail_days=7.0))


@pytest.fixture(autouse=True)
def _close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downsampling, "_AROUND", AROUND)
    monkeypatch.setattr(downsampling, "_ENDS", AROUND)


@pytest.fixture
def old(empty_store: Stocked) -> Stocked:
    """A run that came through an explosion, in blocks of fifty steps, over and summarised."""
    norms = healthy_norms(STEPS)
    norms[ONSET : ONSET + 30] *= exploding_norms(30, 0, growth=2.0)
    losses = 3.0 - np.arange(STEPS) * 0.0001
    losses[ONSET : ONSET + 30] = exploding_losses(30, 0)
    run = SyntheticRun(empty_store.pipeline, name="old", norms=norms, losses=losses).open()
    for first in range(0, STEPS, 50):
        run.send(first, first + 50, NOW + first)
        empty_store.pipeline.detect(NOW + first)
    run.close(NOW + STEPS)
    while empty_store.pipeline.detect(NOW + STEPS, hurry=True):
        pass
    empty_store.pipeline.stop(NOW + STEPS)
    with empty_store.database.begin() as transaction:
        for alert in transaction.alerts.list():
            assert alert.state is AlertState.RESOLVED, alert
    summarise(empty_store.database)
    return empty_store


def summarise(database: Database) -> None:
    chore = Summarising(database)
    while chore.step(NOW):
        pass


def downsample(
    database: Database, days: float = 30.0, policy: RetentionPolicy = POLICY, point: FailurePoint = lambda _: None
) -> float:
    """All there is to do so long after the run; gives how many runs were downsampled."""
    instruments = Instruments(new_registry())
    chore = Downsampling(database, policy, instruments, point)
    while chore.step(NOW + days * DAY):
        pass
    return instruments.registry.get_sample_value("seismograd_retention_downsampled_runs_total") or 0.0


def rows_of(database: Database) -> tuple[int, int]:
    with database.read() as transaction:
        return tuple(
            transaction.connection.exec_driver_sql(f"SELECT COUNT(*) FROM {table}").scalar_one()
            for table in ("segments", "closed_blocks")
        )


def incident(database: Database) -> tuple[int, int]:
    """From the first step of any alert of the run to the last."""
    with database.read() as transaction:
        alerts = [each for each in transaction.alerts.list() if each.severity >= Severity.WARNING]
    return min(each.since_step for each in alerts), max(each.last_step for each in alerts)


Get = Callable[[str], Any]


@pytest.fixture
def get(old: Stocked, connect: Callable[[Starlette], httpx.AsyncClient]) -> Get:
    async def answer(path: str) -> Any:
        async with connect(old.app()) as client:
            response = await client.get(f"/api/v1/runs/mt/old{path}")
            assert response.status_code == 200, response.text
            return response.json()

    return lambda path: asyncio.run(answer(path))


def test_what_is_seen_of_the_whole_run_and_of_its_incident_stays_as_it_was(old: Stocked, get: Get) -> None:
    first, last = incident(old.database)
    assert ONSET - 100 < first <= last < ONSET + 200, "the premise: an incident of some length"
    paths = [
        "/series?points=16",
        "/layers?first_step=0&columns=4",
        f"/series?first_step={first - AROUND}&last_step={last + AROUND}",
        f"/layers?first_step={first - AROUND}&last_step={last + AROUND}&columns=1000",
        f"/layers?first_step={first}&last_step={last}&quantity=weight_norm",
        f"/series?first_step={STEPS - AROUND}",
        "/series?first_step=0&last_step=63",
        "/alerts",
    ]
    before = [get(path) for path in paths]
    rows = rows_of(old.database)
    assert downsample(old.database) == 1.0
    assert all(now < earlier / 2 for now, earlier in zip(rows_of(old.database), rows, strict=True))
    assert [get(path) for path in paths] == before
    gone = get("/series?first_step=500&last_step=700")
    assert (gone["detail"], gone["resolution"]) == ("removed", 64)
    assert get("/layers?first_step=500&last_step=700")["detail"] == "removed"


def test_the_post_mortem_tells_the_same_story_and_says_what_it_is_told_from(old: Stocked) -> None:
    writer = PostmortemWriter(old.database)
    before = writer.report(KEY, NOW)
    downsample(old.database)
    after = writer.report(KEY, NOW)
    assert after.gaps == (
        "Single steps are kept around its alerts and at its ends only; of the others there are summaries.",
    )
    assert before.gaps == ()
    for part in ("verdict", "headline", "focus", "timeline", "causes", "rises", "alerts", "blind"):
        assert getattr(after, part) == getattr(before, part), part
    steps = {fact.label: fact.value for fact in after.facts}["Steps"]
    assert steps == f"{STEPS:,}"


def test_a_backtest_says_that_it_cannot_see_everything(old: Stocked) -> None:
    assert detail_kept(old.database, 1, 0)
    assert backtest_stored(old.database, KEY, Rules())["failures"] == []
    downsample(old.database)
    assert not detail_kept(old.database, 1, 0)
    (failure,) = backtest_stored(old.database, KEY, Rules())["failures"]
    assert "detail_days" in failure


def test_only_what_is_old_enough_over_and_summarised_is_touched(old: Stocked) -> None:
    rows = rows_of(old.database)
    assert downsample(old.database, days=6.9) == 0.0
    assert downsample(old.database, policy=RetentionPolicy()) == 0.0
    assert downsample(old.database, policy=RetentionPolicy(POLICY.every, {"mt": Keep()})) == 0.0
    with old.database.begin() as transaction:
        transaction.connection.exec_driver_sql("UPDATE summary_lines SET last_step = 700")
    assert downsample(old.database) == 0.0, "steps without a summary are never let go of"
    with old.database.begin() as transaction:
        transaction.connection.exec_driver_sql(f"UPDATE summary_lines SET last_step = {STEPS - 1}")
        transaction.connection.exec_driver_sql("UPDATE runs SET state = 'running'")
    assert downsample(old.database) == 0.0
    assert rows_of(old.database) == rows


def test_what_the_detectors_had_not_seen_when_they_were_saved_stays(old: Stocked) -> None:
    with old.database.begin() as transaction:
        transaction.connection.exec_driver_sql("DELETE FROM detector_states")
    rows = rows_of(old.database)
    assert downsample(old.database) == 0.0
    assert rows_of(old.database) == rows


def test_a_second_time_changes_nothing_and_a_run_that_was_left_half_done_is_finished(old: Stocked) -> None:
    hits = 0

    def die(name: str) -> None:
        nonlocal hits
        hits += name == "downsample.before_commit"
        if hits == 1:
            raise RuntimeError(name)

    with pytest.raises(RuntimeError, match="downsample"):
        downsample(old.database, point=die)
    assert downsample(old.database) == 1.0
    rows = rows_of(old.database)
    assert downsample(old.database) == 0.0
    assert rows_of(old.database) == rows


def test_a_file_that_was_downsampled_is_sound(old: Stocked, tmp_path: Path) -> None:
    downsample(old.database)
    with old.database.read() as transaction:
        assert transaction.connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        assert transaction.connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    assert not old.database.damage.of_run(1)


alerts = st.builds(
    lambda since, length, severity, state, signature: make_alert(
        since_step=since,
        opened_step=since,
        last_step=since + length,
        severity=severity,
        state=state,
        signature=signature,
    ),
    st.integers(0, 3000),
    st.integers(0, 300),
    st.sampled_from([Severity.INFO, Severity.WARNING, Severity.CRITICAL]),
    st.sampled_from([AlertState.PENDING, AlertState.RESOLVED]),
    st.sampled_from([Signature.RUNAWAY, Signature.SPIKE, Signature.FLEET]),
)


@given(found=st.lists(alerts, max_size=6), row=st.tuples(st.integers(0, 3000), st.integers(0, 200)))
def test_a_row_stays_exactly_when_one_of_its_steps_is_kept(found: list[Any], row: tuple[int, int]) -> None:
    stretches = [Stretch(Line(0, 1, 0, 0, 999, 999), 0, 999), Stretch(Line(0, 2, 0, 1000, 2999, 2999), 1000, 2999)]
    kept = kept_of(0, stretches, found)
    first, last = row[0], row[0] + row[1]

    def stays(step: int) -> bool:
        near = any(
            alert.since_step - AROUND <= step <= alert.last_step + AROUND
            for alert in found
            if alert.severity >= Severity.WARNING
            and alert.state is not AlertState.PENDING
            and alert.signature is not Signature.FLEET
        )
        ends = (0, 999, 1000, 2999)
        return near or any(0 <= (step - end) * (1 if end in {0, 1000} else -1) < AROUND for end in ends)

    assert kept.keeps(first, last) == any(stays(step) for step in range(first, last + 1))
    assert list(kept.windows) == sorted(kept.windows)


def test_a_line_is_summarised_when_all_of_it_that_is_seen_is() -> None:
    assert is_summarised([])
    assert is_summarised([Stretch(Line(0, 1, 0, 0, 99, 80), 0, 80)])
    assert not is_summarised([Stretch(Line(0, 1, 0, 0, 99, 80), 0, 81)])
    assert not is_summarised([Stretch(Line(0, 1, 0, 0, 99, None), 0, 81)])
    assert not Kept(0, ()).keeps(0, 10)
