"""A long run in few rows says what all of its steps say: held against reading every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.maintenance.summarising import Summarising
from seismograd_server.model import ClosedBlock, RankIdentity, RecordFlag, Run, RunKey, Severity, Signature, Transition
from seismograd_server.reading import condensed
from seismograd_server.reading.condensed import read_condensed
from seismograd_server.reading.history import Series
from seismograd_server.reading.series import read_series
from seismograd_server.reading.totals import totals_of
from seismograd_server.report import PostmortemWriter
from seismograd_server.report.contents import Report
from seismograd_server.store.database import Database
from seismograd_server.store.progress import Progress
from tests.support.closed import noisy, run_of
from tests.support.histories import make_alert

KEY = RunKey("mt", "long")
NOW = 1.7e9
RANKS = 2
BLOCK = 96
# Small enough that a run of some thousand steps is a long one.
SMALL = {"MOST_STEPS": 512, "_BUCKET_STEPS": 64, "_ENDS": 160, "_LEAD": 96, "_TRAIL": 160}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(condensed, name, value)


@dataclass
class Told:
    """A run as it is to be written."""

    steps: int = 6000
    apart: int = 1
    rise_from: int | None = None  # its norm doubles every four steps from here, up to 2^20
    spikes: dict[int, float] = field(default_factory=dict)
    loss_ends_at: int | None = None  # it is NaN from here on
    loss_rises_at: int | None = None  # it is a hundredfold from here on
    broken: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()
    holes: tuple[tuple[int, int], ...] = ()  # first row and how many rows there are not
    pauses: tuple[tuple[int, float], ...] = ()  # behind a row, seconds
    alone: tuple[tuple[int, int], ...] = ()  # first row and how many rows rank 1 was missing in

    def block(self) -> ClosedBlock:
        """All of it in one block."""
        rows = np.arange(self.steps)
        norm = noisy(self.steps, seed=self.steps)
        if self.rise_from is not None:
            norm *= 2.0 ** np.clip((rows - self.rise_from) / 4, 0, 20)
        for row, height in self.spikes.items():
            norm[row] *= height
        loss = 2.0 + np.random.default_rng(0).normal(0.0, 0.05, self.steps)
        if self.loss_rises_at is not None:
            loss[self.loss_rises_at :] *= 100.0
        if self.loss_ends_at is not None:
            loss[self.loss_ends_at :] = np.nan
        nonfinite, flags = np.zeros((self.steps, 3), np.int64), np.zeros(self.steps, np.uint16)
        nonfinite[list(self.broken + self.skipped), 0] = 1
        flags[list(self.skipped)] |= int(RecordFlag.SKIPPED_BY_SCALER)
        times = NOW + rows.astype(np.float64)
        for row, seconds in self.pauses:
            times[row + 1 :] += seconds
        present = np.ones((self.steps, RANKS), np.bool_)
        for row, count in self.alone:
            present[row : row + count, 1] = False
        whole = run_of(
            norm,
            RANKS,
            steps=rows.astype(np.int64) * self.apart,
            times=times,
            loss=loss,
            nonfinite=nonfinite,
            flags=flags,
            ranks_present=present,
            learning_rate=np.full(self.steps, 1e-3),
            clip_threshold=np.full(self.steps, 5.0),
        )
        kept = np.ones(self.steps, np.bool_)
        for row, count in self.holes:
            kept[row : row + count] = False
        return _rows(whole, kept)


def _rows(block: ClosedBlock, chosen: Any) -> ClosedBlock:
    count = block.count
    columns = {name: getattr(block, name) for name in ClosedBlock.__dataclass_fields__}
    own = {name: each[chosen] for name, each in columns.items() if isinstance(each, np.ndarray) and len(each) == count}
    return replace(block, **own)


@contextmanager
def written(told: Told, *, alert: Any = None, path: Path | None = None) -> Iterator[tuple[Database, Run]]:
    """The run in a store, in blocks, and summarised."""
    with Database.open(f"sqlite:///{path}" if path else "sqlite://", owner="test") as database:
        block = told.block()
        with database.begin() as transaction:
            for rank in range(RANKS):
                transaction.runs.open_rank(RankIdentity(KEY, "launch", rank, RANKS, f"session-{rank}"), NOW)
            for first in range(0, block.count, BLOCK):
                rows = np.arange(block.count)
                transaction.steps.append(1, 1, 0, _rows(block, (rows >= first) & (rows < first + BLOCK)))
            transaction.runs.progress([Progress(1, int(block.steps[-1]), block.count, NOW)])
            if alert is not None:
                transaction.alerts.apply([Transition(alert, None, "raised", NOW, notify=False)])
        chore = Summarising(database)
        while chore.step(NOW):
            pass
        with database.read() as transaction:
            run = transaction.runs.by_id(1)
        yield database, run


def same(one: Series, other: Series) -> bool:
    names = Series.__dataclass_fields__
    return all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in names)


def rows_of(steps: int) -> st.SearchStrategy[int]:
    return st.integers(1, steps - 2)


@st.composite
def stories(draw: st.DrawFn) -> Told:
    steps = draw(st.integers(1200, 3000))
    rows, few = rows_of(steps), st.integers(1, 130)
    stretches = st.lists(st.tuples(rows, few), max_size=3)
    return Told(
        steps=steps,
        apart=draw(st.sampled_from([1, 1, 1, 3])),
        broken=tuple(draw(st.lists(rows, max_size=4))),
        skipped=tuple(draw(st.lists(rows, max_size=4))),
        holes=tuple((row, min(count, steps - 1 - row)) for row, count in draw(stretches)),
        pauses=tuple(draw(st.lists(st.tuples(rows, st.floats(100.0, 1e5)), max_size=2))),
        alone=tuple(draw(stretches)),
        spikes=dict(draw(st.lists(st.tuples(rows, st.floats(10.0, 1e9)), max_size=2))),
    )


@given(told=stories())
@settings(max_examples=25, deadline=None)
def test_what_is_counted_of_a_long_run_is_what_counting_every_step_gives(told: Told) -> None:
    with written(told) as (database, run):
        found = read_condensed(database, run, 0)
        every = read_series(database, run.run_id, 0)
    assert found.whole is not None
    assert set(found.series.steps.tolist()) <= set(every.steps.tolist())
    assert found.series.norm.max() == every.norm.max(), "the largest is among them"
    own, true = totals_of(found.series, RANKS, found.whole), totals_of(every, RANKS)
    assert (own.partial <= true.partial) if own.partial_at_least else (own.partial == true.partial)
    assert own.first_partial == true.first_partial
    for name in ("steps", "broken", "unknown_norms", "spacing", "missing", "usual_pause"):
        assert getattr(own, name) == getattr(true, name), name
    # Where only every third number has a step, a bucket that lacks one may look like any other.
    assert own.longest_gap == true.longest_gap or (told.apart > 1 and own.longest_gap < true.longest_gap)
    if true.longest_pause > 100.0:
        assert own.longest_pause == true.longest_pause
        assert own.longest_pause_after == true.longest_pause_after


@given(told=stories(), windows=st.lists(st.tuples(rows_of(3000), st.integers(0, 400)), max_size=3))
@settings(max_examples=15, deadline=None)
def test_every_step_around_windows_and_places_is_there(told: Told, windows: list[tuple[int, int]]) -> None:
    asked = [(first, first + length) for first, length in windows]
    with written(told) as (database, run):
        middle = run.last_step // 2 if run.last_step is not None else 0
        found = read_condensed(database, run, 0, asked, lambda _series: [middle]).series
        every = read_series(database, run.run_id, 0)
    for first, last in [*((first - 96, min(last, first + 160)) for first, last in asked), (middle - 1, middle + 1)]:
        wanted = every.steps[(every.steps >= first) & (every.steps <= last)]
        assert set(wanted.tolist()) <= set(found.steps.tolist())


def test_a_short_run_is_read_whole_and_a_long_one_in_a_bounded_number_of_rows() -> None:
    with written(Told(steps=500)) as (database, run):
        found = read_condensed(database, run, 0)
        assert found.whole is None
        assert same(found.series, read_series(database, run.run_id, 0))
    with written(Told(steps=6000)) as (database, run):
        found = read_condensed(database, run, 0)
        assert found.whole is not None
        assert found.series.count < 2000
        assert int(found.whole.steps.sum()) == 6000


def alert_at(step: int, **changes: Any) -> Any:
    return make_alert(key=KEY, since_step=step, opened_step=step + 4, last_step=step + 40, **changes)


STORIES = {
    "healthy": (Told(), None),
    "steps that are missing": (Told(holes=((3000, 70), (4000, 10)), pauses=((2500, 5000.0),)), None),
    "an explosion with an alert": (Told(rise_from=3100), alert_at(3100)),
    "an explosion that nobody reported": (Told(rise_from=5500, loss_ends_at=5560), None),
    "a loss that ended long before the run": (Told(rise_from=2450, loss_ends_at=2507), None),
    "a loss that diverged": (Told(loss_rises_at=3333, rise_from=3333), None),
    "a spike, and the highest norm much later": (
        Told(spikes={1111: 900.0, 4567: 3000.0}),
        alert_at(1111, signature=Signature.SPIKE, severity=Severity.WARNING),
    ),
    "broken steps from one on": (Told(broken=tuple(range(4444, 6000))), alert_at(4444, signature=Signature.NONFINITE)),
    "a rank that was missing": (Told(alone=((3000, 600),)), None),
}


def essence(report: Report) -> dict[str, Any]:
    """What a report says beside figures that are estimated from samples."""
    estimated = ("Usual norm", "First norms")
    return {
        "verdict": report.verdict,
        "headline": report.headline,
        "focus": report.focus,
        "facts": [fact for fact in report.facts if fact.label not in estimated],
        "timeline": report.timeline,
        "around": None if report.around is None else report.around.steps.tolist(),
        "causes": [(cause.kind, cause.weight) for cause in report.causes],
        "gaps": [gap for gap in report.gaps if "closed without" not in gap],
        "blind": report.blind,
    }


@pytest.mark.parametrize("name", STORIES)
def test_the_post_mortem_of_a_long_run_tells_what_reading_every_step_tells(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, alert = STORIES[name]
    with written(told, alert=alert) as (database, _):
        short = PostmortemWriter(database).report(KEY, NOW)
        monkeypatch.setattr(condensed, "MOST_STEPS", 10**9)
        true = PostmortemWriter(database).report(KEY, NOW)
    assert essence(short) == essence(true)
    assert short.healthy is not None
    assert true.healthy is not None
    for quantile in ("low", "median", "high"):
        assert getattr(short.healthy, quantile) == pytest.approx(getattr(true.healthy, quantile), rel=0.1), quantile
    assert (short.healthy.largest, short.healthy.settled) == (true.healthy.largest, true.healthy.settled)
