"""Where single steps have been removed, every range of the run is still answered in full: held against all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, update

from seismograd_server.maintenance.summarising import Summarising
from seismograd_server.model import SUMMARY_SIZES, Range, SummaryKind, joined_ranges
from seismograd_server.pipeline import Arrival
from seismograd_server.reading.buckets import SERIES_NAMES
from seismograd_server.reading.resolution import Plan, detail_kept, plan_for, plan_of_steps
from seismograd_server.reading.stored import Asked
from seismograd_server.reading.summaries import read_summary
from seismograd_server.store.database import Database
from seismograd_server.store.schema import closed_blocks, segments
from tests.support.reading import Stocked
from tests.support.synthetic import NOW, SyntheticRun, healthy_norms, new_pipeline

BLOCK, COUNT = 100, 3000
# Of the first 500 steps and of the last 400 the rows stay: both ends lie amid a bucket, 448..511 and 2560..2623.
GONE = range(500, 2600)


@dataclass
class Old:
    """A run that is over and summarised, and what is true of it: the largest norm of a layer in each of its steps."""

    database: Database
    truth: dict[int, float]
    removed: set[int] = field(default_factory=set)

    def remove(self, gone: range) -> None:
        """As retention does: whole rows."""
        with self.database.begin() as transaction:
            for table in (segments, closed_blocks):
                inside = (table.c.first_step >= gone[0]) & (table.c.last_step <= gone[-1])
                transaction.connection.execute(delete(table).where(inside))
        self.removed |= self.truth.keys() & set(gone)

    def steps(self, first: int, last: int) -> list[int]:
        return [step for step in sorted(self.truth) if first <= step <= last]


def record(store: Stocked, steps: np.ndarray, norms: np.ndarray, launch: str = "launch-1") -> None:
    run = SyntheticRun(store.pipeline, name="old", world_size=1, launch=launch, norms=norms).open()
    for first in range(0, len(steps), BLOCK):
        stop = min(first + BLOCK, len(steps))
        batch = run.batch(0, first, stop, steps=steps[first:stop])
        store.pipeline.ingest([Arrival(batches=(batch,))], NOW)
        store.pipeline.detect(NOW + first)
    run.close(NOW + 9000)


def summarise(database: Database) -> None:
    chore = Summarising(database)
    while chore.step(NOW):
        pass


def one_layer(count: int, seed: int = 0) -> np.ndarray:
    """Norms of which one layer's are nearly all there is, so that the total is that layer's to a millionth."""
    norms = healthy_norms(count, seed=seed)
    norms[:, 1:] *= 1e-4
    return norms


@pytest.fixture
def make() -> Iterator[Callable[..., Old]]:
    opened: list[Database] = []

    def made(count: int = COUNT, apart: int = 1) -> Old:
        database = Database.open("sqlite://", owner="tests")
        opened.append(database)
        norms, steps = one_layer(count), np.arange(count) * apart
        record(Stocked(database, new_pipeline(database)), steps, norms)
        summarise(database)
        return Old(database, dict(zip(steps.tolist(), norms[:, 0].tolist(), strict=True)))

    yield made
    for database in opened:
        database.close()


def answered(old: Old, asked: Asked, points: int) -> tuple[Plan, dict[int, tuple[int, int, int, float]]]:
    """What is answered: for each bucket its first step, its last one, their number, and the largest norm."""
    plan = plan_for(old.database, asked, points)
    summary = read_summary(old.database, plan.asked, plan.size)
    if summary is None:
        return plan, {}
    column = SERIES_NAMES.index("grad_norm") if asked.kind is SummaryKind.SERIES else 0
    rows = zip(
        summary.first_steps.tolist(),
        summary.last_steps.tolist(),
        summary.steps.tolist(),
        summary.maximum[:, column].tolist(),
        strict=True,
    )
    return plan, dict(zip(summary.buckets.tolist(), rows, strict=True))


def expected(old: Old, plan: Plan) -> dict[int, tuple[Any, ...]]:
    first, last = plan.asked.first_step, plan.asked.last_step
    assert first is not None
    assert last is not None
    buckets: dict[int, list[int]] = {}
    for step in old.steps(first, last):
        buckets.setdefault(step // plan.size, []).append(step)
    return {
        bucket: (steps[0], steps[-1], len(steps), pytest.approx(max(old.truth[step] for step in steps), rel=1e-5))
        for bucket, steps in buckets.items()
    }


def in_ranges(steps: set[int]) -> list[Range]:
    return joined_ranges((step, step) for step in steps)


RANGES = [
    (0, 2999),
    (490, 530),  # begins where single steps are still there, and ends in the same bucket
    (450, 530),
    (450, 499),
    (499, 500),
    (0, 505),
    (505, 2000),  # begins in the bucket that is half empty
    (800, 2310),  # both ends amid a bucket of which nothing is left
    (1000, 1010),
    (1023, 1024),
    (1024, 2047),  # whole buckets
    (1024, 2050),
    (2550, 2610),
    (2590, 2999),
    (2600, 2700),
    (100, 2900),
]


@pytest.mark.parametrize("kind", list(SummaryKind))
def test_every_step_of_a_range_is_in_its_answer_whether_removed_or_not(
    make: Callable[..., Old], kind: SummaryKind
) -> None:
    old = make()
    old.remove(GONE)
    finest = SUMMARY_SIZES[kind][0]
    for first, last in RANGES:
        for points in (1, 5, 20, 3000):
            plan, found = answered(old, Asked(1, 0, kind, first, last), points)
            about = f"{first}..{last} in {points}"
            assert found == expected(old, plan), about
            assert len(found) <= points, about
            wide = plan.asked
            assert wide.first_step in {first, first // finest * finest}, about
            assert wide.last_step in {last, last // finest * finest + finest - 1}, about
            asked = set(old.steps(first, last))
            if plan.size < finest:
                assert not asked & old.removed, about
            if plan.detail_kept:
                assert (wide.first_step, wide.last_step) == (first, last), about
            else:
                assert asked & old.removed, about
                kept = set(old.steps(wide.first_step or 0, wide.last_step or 0)) - old.removed
                assert list(plan.kept) == in_ranges(kept), about


def test_only_the_end_that_lacks_its_steps_is_moved(make: Callable[..., Old]) -> None:
    old = make()
    old.remove(GONE)

    def ends(first: int, last: int) -> tuple[bool, int | None, int | None]:
        plan = plan_for(old.database, Asked(1, 0, SummaryKind.SERIES, first, last), 8)
        assert plan.size >= 64
        return plan.detail_kept, plan.asked.first_step, plan.asked.last_step

    assert ends(70, 2990) == (True, 70, 2990)
    assert ends(70, 2000) == (False, 70, 2047)
    assert ends(810, 2990) == (False, 768, 2990)
    assert ends(810, 2000) == (False, 768, 2047)


def test_a_row_that_reaches_across_what_was_removed_hides_no_hole(make: Callable[..., Old]) -> None:
    old = make()
    old.remove(GONE)
    with old.database.begin() as transaction:  # as compaction leaves it, when it joins a row with the one before it
        for table in (segments, closed_blocks):
            behind = update(table).where(table.c.first_step == 2600)
            transaction.connection.execute(behind.values(first_step=400))
    for first, last in ((1000, 1010), (490, 530), (800, 2310)):
        plan, found = answered(old, Asked(1, 0, SummaryKind.SERIES, first, last), 20)
        assert not plan.detail_kept
        assert found == expected(old, plan)
    assert not detail_kept(old.database, 1, 0)


def test_steps_that_were_never_made_have_not_been_removed(make: Callable[..., Old]) -> None:
    old = make(count=400, apart=20)
    for first, last in ((0, 7980), (1990, 4110), (1985, 1995), (4000, 4000)):
        plan, found = answered(old, Asked(1, 0, SummaryKind.SERIES, first, last), 9000)
        assert (plan.detail_kept, plan.size) == (True, 1)
        assert found == expected(old, plan)
    old.remove(range(2000, 4000))  # the 100 steps of one row
    for first, last in ((0, 7980), (1970, 2010), (3990, 4010), (2500, 2900)):
        for points in (2, 9000):
            plan, found = answered(old, Asked(1, 0, SummaryKind.SERIES, first, last), points)
            assert found == expected(old, plan)
    assert plan_for(old.database, Asked(1, 0, SummaryKind.SERIES, 0, 1999), 9000).detail_kept
    assert not detail_kept(old.database, 1, 0)


def test_what_is_damaged_has_not_been_removed(make: Callable[..., Old]) -> None:
    old = make(count=400, apart=20)
    with old.database.begin() as transaction:
        damaged = update(closed_blocks).where(closed_blocks.c.first_step == 2000)
        transaction.connection.execute(damaged.values(payload=b"spoilt"))
    plan = plan_for(old.database, Asked(1, 0, SummaryKind.SERIES, 1900, 4100), 9000)
    assert plan.detail_kept
    assert [(each.first_step, each.last_step) for each in old.database.damage.of_run(1)] == [(2000, 3980)]


def test_a_run_resumed_amid_what_was_removed_keeps_the_bucket_in_which_it_was(empty_store: Stocked) -> None:
    database, before, after = empty_store.database, one_layer(1500), one_layer(100, seed=1)
    before[905] *= 50.0  # in the bucket 896..959, which the second launch cuts
    record(empty_store, np.arange(1500), before)
    summarise(database)
    truth = dict(enumerate(before[:910, 0].tolist())) | dict(enumerate(after[:, 0].tolist(), start=910))
    old = Old(database, truth)
    old.remove(range(300, 1200))
    record(empty_store, np.arange(910, 1010), after, launch="launch-2")
    for summarised in (False, True):
        if summarised:
            summarise(database)
        for kind in SummaryKind:
            for first, last, points in ((0, 1009, 2000), (0, 1009, 2), (880, 1000, 2), (907, 940, 10), (900, 905, 10)):
                plan, found = answered(old, Asked(1, 0, kind, first, last), points)
                assert not plan.detail_kept
                true = expected(old, plan)
                cut = 909 // plan.size
                # Of those 64 steps nobody can tell any more what each of them was: the largest may be a hidden one's.
                assert found.pop(cut)[:3] == true[cut][:3]
                assert {bucket: true[bucket] for bucket in found} == found
                assert len(found) == len(true) - 1
                spike = answered(old, Asked(1, 0, kind, first, last), points)[1][cut][3]
                assert spike == pytest.approx(float(before[905, 0]), rel=1e-5)
    plan = plan_for(database, Asked(1, 0, SummaryKind.SERIES, 0, 1009), 2000)
    assert plan.kept == ((0, 299), (910, 1009))


def test_what_no_summary_tells_is_read_as_asked_and_says_what_is_missing(make: Callable[..., Old]) -> None:
    old = make()
    asked = Asked(1, 0, SummaryKind.LAYERS, 450, 2700)
    assert plan_of_steps(old.database, asked) == Plan(asked, 1)
    old.remove(GONE)
    assert plan_of_steps(old.database, asked) == Plan(asked, 1, False, ((450, 499), (2600, 2700)))
