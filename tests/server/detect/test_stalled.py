"""Silence that lasts too long, and ranks that are missing from step after step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.detect.stalled import StalledDetector
from seismograd_server.detect.watch import RunWatch
from seismograd_server.model import ClosedBlock, Severity, Signature
from tests.support.closed import findings_of, layout, noisy, run_of, told

STEPS, RANKS = 400, 4


def timed(seconds: npt.NDArray[np.float64]) -> RunWatch:
    watch = RunWatch()
    watch.observe(run_of(noisy(len(seconds)), times=np.cumsum(seconds)))
    return watch


def test_twenty_usual_steps_without_one_are_silence() -> None:
    watch = timed(np.full(100, 30.0))
    assert watch.silence(590.0) is None
    found = watch.silence(610.0)
    assert found is not None
    assert (found.signature, found.severity, found.step) == (Signature.STALLED, Severity.WARNING, 99)
    assert found.reason == "no step for more than 600 s, usually they take 30 s"


def test_two_minutes_are_always_granted_and_saying_it_again_is_no_news() -> None:
    watch = timed(np.full(100, 0.1))
    assert watch.silence(119.0) is None
    assert watch.silence(121.0) == watch.silence(3600.0) is not None


def test_a_pause_as_long_as_those_the_run_usually_makes_is_none() -> None:
    seconds = np.full(100, 1.0)
    seconds[50] = 200.0
    watch = timed(seconds)
    assert watch.silence(390.0) is None
    assert watch.silence(410.0) is not None


def test_of_a_run_that_has_hardly_begun_nothing_can_be_said() -> None:
    assert timed(np.full(10, 1.0)).silence(1e6) is None


def test_the_first_step_after_a_long_pause_ends_it_whoever_has_told_of_it() -> None:
    times = np.arange(100, dtype=np.float64)
    times[60:] += 500.0
    assert told(findings_of(run_of(noisy(100), times=times)), Signature.STALLED) == [(60, Severity.NONE)]


def absent(first: int, stop: int, ranks: tuple[int, ...] = (1,)) -> ClosedBlock:
    present = np.ones((STEPS, RANKS), dtype=np.bool_)
    for rank in ranks:
        present[first:stop, rank] = False
    hosts = replace(layout(ranks=RANKS), hostnames=("a", "gpu-7", "b", "c"))
    return run_of(noisy(STEPS), ranks=RANKS, ranks_present=present, layout=hosts)


def test_a_rank_that_is_missing_is_named_with_its_host() -> None:
    (found,) = findings_of(absent(100, STEPS))
    assert (found.signature, found.severity, found.step) == (Signature.STALLED, Severity.WARNING, 163)
    assert found.evidence.leading_rank == 1
    assert found.reason == "rank 1 on gpu-7 missing from the last 64 steps, 3 ranks go on"


def test_ranks_that_are_late_for_some_steps_are_no_news() -> None:
    assert findings_of(absent(100, 150)) == []


def test_it_is_over_when_all_are_there_again() -> None:
    assert told(findings_of(absent(100, 300, ranks=(1, 2))), Signature.STALLED) == [
        (163, Severity.WARNING),
        (300, Severity.NONE),
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.9]), st.lists(st.integers(0, 80), max_size=6))
def test_any_cut_counts_absences_like_a_slow_look(seed: int, share: float, cuts: list[int]) -> None:
    present = np.random.default_rng(seed).random((80, 3)) < share
    expected = [0, 0, 0]
    for row in present:
        expected = [0 if there else count + 1 for there, count in zip(row, expected, strict=True)]
    detector, start = StalledDetector(), 0
    for stop in [*sorted(cuts), 80]:
        if stop > start:
            detector._count(present[start:stop])
        start = stop
    assert (detector.absent_for.tolist() or [0, 0, 0]) == expected
