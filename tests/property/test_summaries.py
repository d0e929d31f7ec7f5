"""Whatever a run has lived through and wherever it was summarised, a bucket holds what its visible steps say."""

from __future__ import annotations

import math
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seismograd_server.maintenance import summarising
from seismograd_server.maintenance.summarising import Summarising
from seismograd_server.model import (
    SUMMARY_SIZES,
    Catalog,
    NonfiniteLayer,
    RankIdentity,
    RecordFlag,
    RunKey,
    RunState,
    Summary,
    SummaryKind,
)
from seismograd_server.reading.buckets import SERIES_NAMES
from seismograd_server.reading.resolution import plan_for
from seismograd_server.reading.stored import Asked
from seismograd_server.reading.summaries import read_summary, summary_pages
from seismograd_server.store import summaries as rows
from seismograd_server.store.database import Database
from seismograd_server.store.progress import Progress
from tests.support.closed import layout, run_of
from tests.support.synthetic import LAYERS, make_batch, nonfinite, parameters

NOW = 1_700_000_000.0
VALUES = [0.0, 1.0, 2.5, 1e30, 5e-324, math.inf, math.nan]
EVENTS = st.sampled_from(["go on", "go on", "rewind", "launch", "end", "summarise"])
FLAGS = [0, int(RecordFlag.CLIPPED), int(RecordFlag.SKIPPED_BY_SCALER)]


@dataclass(frozen=True)
class Step:
    """One closed step, as a test keeps it."""

    number: int
    norm: float
    loss: float | None
    flags: int
    broken: bool
    layers: tuple[float, ...]


@dataclass
class History:
    """A run in a database, and the same run as a list of lines."""

    database: Database
    chore: Summarising
    lines: list[list[Step]] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    branch: int = 0
    sequence: int = 0
    clock: float = NOW

    def launch(self) -> None:
        """Another attempt."""
        identity = RankIdentity(RunKey("mt", "lstm"), f"launch-{len(self.handles)}", 0, 1, f"{len(self.handles)}")
        with self.database.begin() as transaction:
            opened = transaction.runs.open_rank(identity, self.clock)
            transaction.runs.save_catalog(opened.rank.handle, Catalog(0, 0, parameters()))
        self.handles.append(opened.rank.handle)
        self.branch, self.sequence = 0, 0
        self.lines.append([])

    def rewind(self) -> None:
        """Another branch of the attempt."""
        self.branch += 1
        self.lines.append([])

    def close(self, steps: list[Step]) -> None:
        """Store some steps of the last line."""
        count, attempt = len(steps), len(self.handles)
        norms = np.array([step.layers for step in steps], np.float32)
        hits = [(row, 1, 3) for row, step in enumerate(steps) if step.broken]
        numbers = np.array([step.number for step in steps], np.int64)
        batch = make_batch(self.handles[-1], self.sequence, norms, steps=numbers, branch=self.branch)
        batch = replace(batch, nonfinite=nonfinite(*hits) if hits else None)
        block = run_of(
            [step.norm for step in steps],
            layout=layout(),
            attempt=attempt,
            branch=self.branch,
            steps=numbers,
            flags=np.array([step.flags for step in steps], np.uint16),
            loss=np.array([math.nan if step.loss is None else step.loss for step in steps]),
            loss_known=np.array([step.loss is not None for step in steps]),
            nonfinite=np.array([[3 * step.broken, 0, 0] for step in steps], np.int64),
            nonfinite_layers=tuple(NonfiniteLayer(row, 1, 0, 3, 0, 0) for row, _, _ in hits),
        )
        with self.database.begin() as transaction:
            transaction.segments.append([batch], self.clock)
            launch = transaction.runs.launches(1)[-1].launch_row
            transaction.steps.append(1, launch, 0, block)
            closed = transaction.runs.by_id(1).closed_steps + count
            transaction.runs.progress([Progress(1, steps[-1].number, closed, None)])
        self.sequence += count
        self.lines[-1] += steps

    def end(self, state: RunState) -> None:
        """Let the run be over, or go on."""
        with self.database.begin() as transaction:
            transaction.runs.set_state(1, state, self.clock)

    def summarise(self) -> None:
        """Let the chore do all that it finds."""
        self.clock += 60.0
        while self.chore.step(self.clock):
            pass

    def visible(self, first: int, last: int) -> list[Step]:
        """The twin: a step counts unless a later line began at or before it."""
        found = []
        for place, line in enumerate(self.lines):
            later = [other[0].number for other in self.lines[place + 1 :] if other]
            found += [step for step in line if first <= step.number <= last and step.number < min(later, default=10**9)]
        return found


def some_steps(generator: np.random.Generator, after: int) -> list[Step]:
    """A few steps behind one, with gaps and with every kind of number."""
    steps, number = [], after
    for _ in range(generator.integers(1, 16)):
        number += int(generator.choice([1, 1, 1, 1, 2, 9]))
        norm, loss, *layers = generator.choice(VALUES, 2 + len(LAYERS)).tolist()
        steps.append(
            Step(
                number,
                norm=norm,
                loss=None if generator.random() < 0.3 else loss,
                flags=int(generator.choice(FLAGS)),
                broken=bool(generator.random() < 0.2),
                layers=tuple(layers),
            )
        )
    return steps


def twin(steps: list[Step], size: int, kind: SummaryKind) -> dict[int, dict[str, Any]]:
    """Bucket by bucket and step by step, what a summary must say."""
    buckets: dict[int, list[Step]] = {}
    for step in steps:
        buckets.setdefault(step.number // size, []).append(step)
    return {bucket: _said(inside, kind) for bucket, inside in sorted(buckets.items())}


def _said(inside: list[Step], kind: SummaryKind) -> dict[str, Any]:
    if kind is SummaryKind.LAYERS:
        columns = {name: [_narrow(step.layers[place]) for step in inside] for place, name in enumerate(LAYERS)}
        odd = [sum(math.isinf(_narrow(step.layers[place])) for step in inside) for place in range(3)]
        odd[1] = sum(step.broken or math.isinf(_narrow(step.layers[1])) for step in inside)
        tallies: list[int] = []
        odd_by_name = dict(zip(LAYERS, odd, strict=True))
    else:
        columns = {
            "grad_norm": [step.norm for step in inside],
            "loss": [step.loss for step in inside if step.loss is not None],
        }
        odd_by_name = {
            "grad_norm": sum(math.isinf(step.norm) for step in inside),
            "loss": sum(step.loss is not None and not math.isfinite(step.loss) for step in inside),
        }
        tallies = [
            3 * sum(step.broken for step in inside),
            sum(step.broken for step in inside),
            sum(step.flags == int(RecordFlag.SKIPPED_BY_SCALER) for step in inside),
            0,
            sum(step.flags == int(RecordFlag.CLIPPED) for step in inside),
        ]
    return {
        "steps": (inside[0].number, inside[-1].number, len(inside)),
        "tallies": tallies,
        "columns": {name: _column(values, odd_by_name[name]) for name, values in columns.items()},
    }


def _narrow(value: float) -> float:
    return float(np.float32(value))


def _column(values: list[float], odd: int) -> tuple[float, float, float, int, int]:
    numbers = [value for value in values if not math.isnan(value)]
    finite = [value for value in numbers if math.isfinite(value)]
    nothing = math.nan
    return (
        min(numbers, default=nothing),
        max(numbers, default=nothing),
        sum(value / len(finite) for value in finite) if finite else nothing,
        len(finite),
        odd,
    )


def assert_same(summary: Summary | None, expected: dict[int, dict[str, Any]]) -> None:
    if summary is None:
        assert expected == {}
        return
    assert summary.buckets.tolist() == list(expected)
    for row, said in enumerate(expected.values()):
        steps = (int(summary.first_steps[row]), int(summary.last_steps[row]), int(summary.steps[row]))
        assert steps == said["steps"]
        assert summary.tallies[row].tolist() == said["tallies"]
        for name, (low, high, mean, known, odd) in said["columns"].items():
            at = row, summary.names.index(name)
            np.testing.assert_array_equal([summary.minimum[at], summary.maximum[at]], [low, high])
            np.testing.assert_allclose(summary.mean[at], mean, rtol=2.0**-12, atol=1e-300)
            assert (int(summary.known[at]), int(summary.nonfinite[at])) == (known, odd)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that a short run fills, pieces that cut it everywhere."""
    monkeypatch.setitem(SUMMARY_SIZES, SummaryKind.SERIES, (2, 8, 32))
    monkeypatch.setitem(SUMMARY_SIZES, SummaryKind.LAYERS, (4, 16, 64))
    monkeypatch.setattr(rows, "_ROW_BUCKETS", {SummaryKind.SERIES: 4, SummaryKind.LAYERS: 2})
    monkeypatch.setattr(rows, "_PAGE", 2)
    monkeypatch.setattr(summarising, "_PIECE_STEPS", 5)
    monkeypatch.setattr(summarising, "_MOVED_STEPS", 1)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with nothing in it, because to make its tables takes longer than an example."""
    path = tmp_path_factory.mktemp("empty") / "seismograd.db"
    Database.open(f"sqlite:///{path}", owner="test").close()
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_bucket_says_what_its_visible_steps_say(data: st.DataObject, empty: Path) -> None:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        path = shutil.copy(empty, Path(directory) / "seismograd.db")
        database = stack.enter_context(Database.open(f"sqlite:///{path}", owner="test"))
        history = History(database, Summarising(database))
        history.launch()
        reached, generator = -1, np.random.default_rng(data.draw(st.integers(0, 2**32), label="seed"))
        for _ in range(data.draw(st.integers(1, 8), label="events")):
            event = data.draw(
                st.sampled_from(["go on", "go on", "rewind", "launch", "end", "summarise"]), label="event"
            )
            if event in {"rewind", "launch"} and history.lines[-1]:
                reached -= data.draw(st.integers(0, 20), label="back")
                (history.rewind if event == "rewind" else history.launch)()
            if event == "end":
                history.end(RunState.FINISHED)
            if event == "summarise":
                history.summarise()
            else:
                steps = some_steps(generator, reached)
                history.close(steps)
                reached = steps[-1].number
            if data.draw(st.booleans(), label="new server"):
                history.chore = Summarising(database)
        first = data.draw(st.integers(-30, reached + 5), label="first")
        last = data.draw(st.integers(first, reached + 40), label="last")
        for kind in SummaryKind:
            for size in (1, 4, data.draw(st.sampled_from([2, 8, 16, 32, 64, 128]), label="size")):
                given_back = read_summary(database, Asked(1, 0, kind, first, last), size)
                assert_same(given_back, twin(history.visible(first, last), size, kind))


def test_pages_hold_every_bucket_once_and_whole() -> None:
    with Database.open("sqlite://", owner="test") as database:
        history = History(database, Summarising(database))
        history.launch()
        history.close([Step(number, float(number), None, 0, False, (1.0, 2.0, 3.0)) for number in range(100)])
        history.summarise()
        history.rewind()
        history.close([Step(number, float(-number), None, 0, False, (1.0, 2.0, 3.0)) for number in range(50, 90)])
        asked = Asked(1, 0, SummaryKind.SERIES)
        assert plan_for(database, asked, 12).size == 8
        pages = list(summary_pages(database, asked, 8))
    buckets = [bucket for page in pages for bucket in page.buckets.tolist()]
    assert len(pages) > 2
    assert buckets == list(range(12))
    steps = [count for page in pages for count in page.steps.tolist()]
    assert steps == [8] * 11 + [2]
    largest = [value for page in pages for value in page.maximum[:, SERIES_NAMES.index("grad_norm")].tolist()]
    assert largest[5:8] == [47.0, 49.0, -56.0]
