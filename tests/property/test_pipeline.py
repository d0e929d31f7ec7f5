"""Any batch boundaries, any order, any restart points: the same steps and the same alerts."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from seismograd_server.instruments import Instruments
from seismograd_server.maintenance.compaction import Compaction, CompactionSettings
from seismograd_server.maintenance.tiers import Sizes
from seismograd_server.pipeline import Arrival, Pipeline, PipelineSettings
from seismograd_server.store.database import Database
from tests.support.synthetic import (
    NOW,
    SyntheticRun,
    exploding_losses,
    exploding_norms,
    new_pipeline,
    outline,
)

STEPS = 120
RANKS = 2
# So small that a short story reaches every tier.
SMALL = Sizes(full_records=48, full_bytes=2**20, tail_records=12, most_rows=8, lookback_records=24)
NORMS = exploding_norms(STEPS, 80)
LOSSES = exploding_losses(STEPS, 80)


@dataclass(frozen=True)
class Send:
    """Records [first, stop) of a rank, in one frame."""

    rank: int
    first: int
    stop: int


@dataclass(frozen=True)
class Judge:
    """A look at what can be closed."""


@dataclass(frozen=True)
class Compact:
    """What may be merged is merged."""


@dataclass(frozen=True)
class Kill:
    """The server dies, and another one starts on what it left."""


Action = Send | Judge | Compact | Kill


@st.composite
def stories(draw: st.DrawFn) -> list[Action]:
    """Every record of every rank, cut anywhere, some sent twice, interleaved with looks and kills."""
    lanes = []
    for rank in range(RANKS):
        cuts = sorted({0, STEPS, *draw(st.lists(st.integers(1, STEPS - 1), max_size=12))})
        lanes.append([Send(rank, first, stop) for first, stop in itertools.pairwise(cuts)])
    actions: list[Action] = []
    while any(lanes):
        lane = draw(st.sampled_from([each for each in lanes if each]))
        # Now and then a frame overtakes the one before it.
        actions.append(lane.pop(1 if len(lane) > 1 and draw(st.integers(0, 5)) == 0 else 0))
        again = draw(st.integers(0, 9))
        if again == 0:
            actions.append(draw(st.sampled_from([each for each in actions if isinstance(each, Send)])))
        elif again <= 3:
            actions.append(Judge())
        elif again == 4:
            actions.append(Kill())
        elif again <= 6:
            actions.append(Compact())
    return actions


class World:
    """Two ranks, and one server after the other on one directory of files."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._lives = 0
        self.now = NOW
        self.database, self.pipeline = self._start()
        self._run = SyntheticRun(self.pipeline, world_size=RANKS, norms=NORMS, losses=LOSSES).open()

    def _start(self) -> tuple[Database, Pipeline]:
        path = self._folder / str(self._lives) / "seismograd.db"
        database = self._stack.enter_context(Database.open(f"sqlite:///{path}", owner="test"))
        # A checkpoint every few actions: some restarts replay, some do not.
        # Whether a run waits for more of its steps must change nothing but the time at which it is judged.
        settings = PipelineSettings(checkpoint_seconds=0.05, steps_at_once=37, pace_seconds=0.1)
        return database, new_pipeline(database, settings=settings)

    def play(self, action: Action) -> None:
        # Far below the time that a step waits for a rank: what closes is complete, so that time decides nothing.
        self.now += 0.02
        if isinstance(action, Send):
            batch = self._run.batch(action.rank, action.first, action.stop)
            self.pipeline.ingest([Arrival(batches=(batch,))], self.now)
        elif isinstance(action, Judge):
            self.pipeline.detect(self.now)
        elif isinstance(action, Compact):
            compaction = Compaction(self.database, Instruments(CollectorRegistry()), CompactionSettings(sizes=SMALL))
            while compaction.step(self.now):
                pass
        else:
            old, self._lives = self._folder / str(self._lives), self._lives + 1
            new = self._folder / str(self._lives)
            new.mkdir()
            for name in ("seismograd.db", "seismograd.db-wal"):
                if (old / name).exists():
                    shutil.copyfile(old / name, new / name)
            self.database, self.pipeline = self._start()
            self._run.pipeline = self.pipeline
            self._run.open(self.now)

    def finish(self) -> tuple[object, ...]:
        """Judge the rest and tell what there is: steps, alerts, and the numbers that a person sees."""
        while self.pipeline.detect(self.now, hurry=True):
            pass
        with self.database.read() as transaction:
            chunks = list(transaction.steps.read(1, 0, all_branches=True))
        steps = [step for chunk in chunks for step in chunk.steps.tolist()]
        # Compaction keeps those of closed steps as exact as a float32.
        norms = [norm for chunk in chunks for norm in chunk.global_norm.astype(np.float32).tolist()]
        present = all(chunk.ranks_present.all() for chunk in chunks)
        view = self.pipeline.snapshot().runs[0]
        return steps, norms, present, outline(self.database), view.tally, dict(view.active), view.statuses


@contextmanager
def world() -> Iterator[World]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        yield World(Path(folder), stack)


@pytest.fixture(scope="module")
def plain() -> tuple[object, ...]:
    with world() as one:
        for rank in range(RANKS):
            one.play(Send(rank, 0, STEPS))
        result = one.finish()
    assert "runaway" in str(result[3])
    return result


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(story=stories())
def test_any_boundaries_orders_compactions_and_restarts_give_the_same_steps_and_alerts(
    plain: tuple[object, ...], story: list[Action]
) -> None:
    with world() as one:
        for action in [*story, Judge(), Judge(), Judge(), Judge(), Compact(), Kill()]:
            one.play(action)
        assert one.finish() == plain
