"""Whatever the stream looks like and however it is cut: the same findings, no exception, no invented alarm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.detect.facts import facts_of
from seismograd_server.detect.together import look_together
from seismograd_server.detect.watch import Observation, RunWatch
from seismograd_server.model import ClosedBlock, NonfiniteLayer, Quantity, RecordFlag, ReplicaGap, Severity
from seismograd_server.transfer.trace_blocks import slice_block
from tests.support.closed import StepByStep, layout, noisy, run_of

STEPS, RANKS = 160, 3
# Numbers as no healthy run sends them: none at all, the smallest and the largest that there are.
AWKWARD = [0.0, 5e-324, 2.0**-1030, 1e-30, 1.0, 1e30, 1.7e308, np.nan, np.inf]


@st.composite
def runs(draw: st.DrawFn) -> ClosedBlock:
    """A run with noise, an event somewhere, ranks, samples now and then, gaps, rewinds and non-finite steps."""
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    norms = noisy(STEPS, seed, level=draw(st.floats(-30, 30)), octaves=draw(st.sampled_from([0.0, 0.3, 1.5])))
    onset, slope = draw(st.integers(0, STEPS)), draw(st.sampled_from([0.0, 0.05, 0.5, 4.0]))
    growth = np.minimum(60.0, slope * np.maximum(0, np.arange(STEPS) - onset))
    norms = norms * 2.0**growth
    every = draw(st.sampled_from([1, 7]))
    sampled = np.arange(STEPS) % every == 0
    loss = generator.normal(draw(st.sampled_from([2.0, 0.0])), 0.2, (STEPS, RANKS)) + growth[:, None]
    known = generator.random((STEPS, RANKS)) < draw(st.sampled_from([1.0, 0.7, 0.0]))
    gaps = generator.integers(1, draw(st.sampled_from([2, 10_000_000])), STEPS)
    block = run_of(
        norms,
        ranks=RANKS,
        steps=np.cumsum(gaps),
        loss=np.where(known.any(1), np.nanmean(np.where(known, loss, 0.0), axis=1), np.nan),
        loss_known=known.any(1),
        rank_loss=np.where(known, loss, np.nan),
        rank_norm=np.where(sampled[:, None], norms[:, None] * 2.0 ** generator.normal(0, 0.3, (STEPS, RANKS)), np.nan),
        learning_rate=np.full(STEPS, draw(st.sampled_from([np.nan, 0.01]))),
    )
    block = replace(
        block,
        rank_loss_known=known,
        weight_norms=np.where(sampled[:, None], 3.0, np.nan).repeat(3, 1).astype(np.float32),
        update_norms=np.where(sampled[:, None], 0.01 * norms[:, None], np.nan).repeat(3, 1).astype(np.float32),
    )
    return with_nonfinite(block, draw(st.lists(st.integers(0, STEPS - 1), max_size=5)), generator)


def with_nonfinite(block: ClosedBlock, rows: list[int], generator: np.random.Generator) -> ClosedBlock:
    """Some steps are not finite; some of these were skipped, by the scaler or by the job."""
    counts, flags, layers = block.nonfinite.copy(), block.flags.copy(), []
    for row in sorted(set(rows)):
        counts[row, generator.integers(0, 3)] += 1
        flags[row] = generator.choice([0, RecordFlag.SKIPPED_BY_SCALER, RecordFlag.SKIPPED_BY_USER])
        layers.append(NonfiniteLayer(row, int(generator.integers(-1, 3)), int(generator.integers(0, RANKS)), 1, 0, 0))
    return replace(block, nonfinite=counts, flags=flags, nonfinite_layers=tuple(layers))


def together(observations: list[Observation]) -> tuple[list[Any], npt.NDArray[np.float64]]:
    return [each for one in observations for each in one.findings], np.concatenate(
        [one.baseline for one in observations]
    )


@settings(max_examples=60, deadline=None)
@given(
    runs(),
    st.lists(st.tuples(st.integers(0, STEPS), st.booleans()), max_size=12),
    st.integers(0, STEPS),
)
def test_any_cut_and_any_restart_give_the_same_findings(
    run: ClosedBlock, cuts: list[tuple[int, bool]], rewind: int
) -> None:
    run = replace(run, branch=0)
    halves = [slice_block(run, 0, rewind), replace(slice_block(run, rewind, STEPS), branch=1)]
    whole = RunWatch()
    expected = together([whole.observe(each) for each in halves])
    watch, observations, start = RunWatch(), [], 0
    for stop, restart in [*sorted({*cuts, (rewind, False)}), (STEPS, True)]:
        block = slice_block(run, start, max(start, stop))
        observations.append(watch.observe(replace(block, branch=int(start >= rewind))))
        start = max(start, stop)
        if restart:
            watch = RunWatch.from_bytes(watch.to_bytes())
    found = together(observations)
    assert repr(found[0]) == repr(expected[0])  # NaN equals itself as text
    np.testing.assert_array_equal(found[1], expected[1])
    assert watch.to_bytes() == whole.to_bytes()
    assert all(one.failures == () for one in observations)


LONG = 700
TENSORS = ["weight", "weight_hh_l0", "bias"]


def with_rarities(draw: st.DrawFn, block: ClosedBlock, generator: np.random.Generator) -> ClosedBlock:
    """What few runs have: pauses, absent ranks, replicas that differ, clipping, gains, skips, growth by depth."""
    count, layers, ranks = block.count, len(block.layout.names), block.layout.world_size
    present = np.ones((count, ranks), dtype=np.bool_)
    absent_from = draw(st.sampled_from([count, 300, 600]))
    present[absent_from : absent_from + 100, -1] = False
    pauses = np.where(generator.random(count) < draw(st.sampled_from([0.0, 0.01])), 500.0, 1.0)
    apart = generator.integers(0, count, draw(st.integers(0, 3)))
    clips = np.where(generator.random(count) < draw(st.sampled_from([0.0, 0.9, 1.0])), 0.5, 1.0)
    gains = np.linspace(1.1, draw(st.sampled_from([1.1, 4.0])), count)[:, None] * np.ones(layers)
    gains[np.arange(count) % 10 != 0] = np.nan
    deep = 2.0 ** np.linspace(draw(st.sampled_from([0.0, 12.0])), 0.0, layers)
    skipped = np.full(count, False)
    skipped[400 : 400 + draw(st.sampled_from([0, 40]))] = True
    return replace(
        block,
        times=np.cumsum(pauses),
        ranks_present=present,
        replica_gaps=tuple(ReplicaGap(int(row), 0, draw(st.sampled_from([1e-7, 1e-4, 1.0]))) for row in sorted(apart)),
        clip_coefficient=clips,
        sampled={Quantity.SPECTRAL_GAIN: gains.astype(np.float32)} if draw(st.booleans()) else {},
        layer_norms=(block.layer_norms * deep).astype(np.float32),
        loss_scale=np.full(count, draw(st.sampled_from([np.nan, 1.0, 1024.0]))),
        flags=np.where(skipped, RecordFlag.SKIPPED_BY_SCALER, 0).astype(np.uint16),
    )


@st.composite
def long_runs(draw: st.DrawFn) -> ClosedBlock:
    """A run that is calm for long, with what may end the calm: outliers, drifts, dead or unknown layers, samples."""
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    ranks, layers = draw(st.sampled_from([1, 3])), draw(st.sampled_from([3, 9]))
    drift = np.linspace(0.0, draw(st.sampled_from([0.0, -12.0, 6.0])), LONG)
    norms = noisy(LONG, seed, octaves=draw(st.sampled_from([0.0, 0.2, 0.8]))) * 2.0**drift
    norms[generator.integers(0, LONG, draw(st.integers(0, 4)))] *= draw(st.sampled_from([6.0, 1000.0, 0.0]))
    norms[generator.integers(0, LONG) :] *= draw(st.sampled_from([1.0, 1.0, 32.0]))
    losses = draw(st.sampled_from([3.0, 0.0])) + generator.normal(0.0, 0.2, (LONG, ranks))
    losses += np.linspace(0.0, draw(st.sampled_from([0.0, -2.0, 30.0])), LONG)[:, None]
    known = generator.random(LONG) < draw(st.sampled_from([0.0, 0.1, 1.0]))
    sampled = np.arange(LONG) % draw(st.sampled_from([1, 10])) == 0
    shares = np.where(generator.random(layers) < draw(st.sampled_from([0.0, 0.6])), 2.0**-12, 1.0)
    shares[0] = draw(st.sampled_from([1.0, 0.0, np.nan]))
    by_layer = norms[:, None] * shares * 2.0 ** generator.normal(0.0, 0.2, (LONG, layers))
    by_layer[generator.random((LONG, layers)) < draw(st.sampled_from([0.0, 0.01]))] = np.nan
    block = run_of(
        norms,
        ranks=ranks,
        layout=layout([f"layer.{index}.{draw(st.sampled_from(TENSORS))}" for index in range(layers)], ranks=ranks),
        layer_norms=by_layer.astype(np.float32),
        loss=np.where(known, losses.mean(1), np.nan),
        loss_known=known,
        rank_loss=np.where(known[:, None], losses, np.nan),
        rank_norm=np.where(sampled[:, None], norms[:, None] * 2.0 ** generator.normal(0, 0.3, (LONG, ranks)), np.nan),
        learning_rate=np.full(LONG, draw(st.sampled_from([np.nan, 0.01]))),
    )
    scale = draw(st.sampled_from([np.nan, 0.0, 0.001, 0.2]))
    block = with_rarities(draw, block, generator)
    block = replace(
        block,
        rank_loss_known=np.repeat(known[:, None], ranks, axis=1),
        weight_norms=np.where(sampled[:, None], 3.0, np.nan).repeat(layers, 1).astype(np.float32),
        update_norms=np.where(sampled[:, None], scale * norms[:, None], np.nan).repeat(layers, 1).astype(np.float32),
    )
    return with_nonfinite(block, draw(st.lists(st.integers(0, LONG - 1), max_size=2)), generator)


@settings(max_examples=80, deadline=None)
@given(long_runs(), st.lists(st.tuples(st.integers(0, LONG), st.booleans()), max_size=20))
def test_steps_taken_in_at_once_leave_what_steps_looked_at_one_by_one_leave(
    run: ClosedBlock, cuts: list[tuple[int, bool]]
) -> None:
    slow = StepByStep()
    expected = together([slow.observe(run)])
    watch, observations, start = RunWatch(), [], 0
    for stop, restart in [*sorted(cuts), (LONG, False)]:
        observations.append(watch.observe(slice_block(run, start, stop)))
        start = stop
        if restart:
            watch = RunWatch.from_bytes(watch.to_bytes())
    found = together(observations)
    assert repr(found[0]) == repr(expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert watch.to_bytes() == slow.to_bytes()
    assert watch.statuses() == slow.statuses()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(runs(), long_runs()), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_runs_looked_at_together_are_what_each_is_alone(many: list[ClosedBlock], seed: int) -> None:
    generator = np.random.default_rng(seed)
    alone = [StepByStep() for _ in many]
    expected = [together([watch.observe(run)]) for watch, run in zip(alone, many, strict=True)]
    watches, starts = [RunWatch() for _ in many], [0] * len(many)
    told: list[list[Observation]] = [[] for _ in many]
    while any(start < run.count for start, run in zip(starts, many, strict=True)):
        stops = [
            min(run.count, start + int(generator.choice([0, 1, 4, 64])))
            for start, run in zip(starts, many, strict=True)
        ]
        blocks = [slice_block(*each) for each in zip(many, starts, stops, strict=True)]
        for observations, said in zip(told, look_together(watches, facts_of(blocks)), strict=True):
            assert isinstance(said, Observation)
            observations.append(said)
        starts = stops
    for watch, observations, other, twin in zip(watches, told, alone, expected, strict=True):
        found = together(observations)
        assert repr(found[0]) == repr(twin[0])
        np.testing.assert_array_equal(found[1], twin[1])
        assert watch.to_bytes() == other.to_bytes()
        assert watch.statuses() == other.statuses()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(AWKWARD), min_size=1, max_size=120),
    st.lists(st.sampled_from([*AWKWARD, -1.2e308, -1.0]), min_size=1, max_size=120),
    st.integers(0, 2**32 - 1),
)
def test_no_stream_of_numbers_makes_a_detector_raise(norms: list[float], losses: list[float], seed: int) -> None:
    count = min(len(norms), len(losses))
    generator = np.random.default_rng(seed)
    block = run_of(
        norms[:count],
        ranks=2,
        loss=np.asarray(losses[:count]),
        rank_loss=generator.choice(AWKWARD, (count, 2)),
        rank_norm=generator.choice(AWKWARD, (count, 2)),
        learning_rate=generator.choice(AWKWARD, count),
        clip_coefficient=generator.choice(AWKWARD, count),
        loss_scale=generator.choice(AWKWARD, count),
        times=np.cumsum(generator.choice([0.0, 1.0, 1e9, -1e9], count)),
        flags=generator.choice([0, 0, RecordFlag.SKIPPED_BY_SCALER], count).astype(np.uint16),
        layout=layout([f"layer.{index}.weight_hh" for index in range(8)], ranks=2),
        ranks_present=generator.random((count, 2)) < 0.9,
        steps=np.cumsum(generator.integers(0, 2**40, count)),
    )
    with np.errstate(over="ignore"):
        samples = generator.choice(AWKWARD, (4, count, 8)).astype(np.float32)
    block = replace(
        block,
        weight_norms=samples[0],
        update_norms=samples[1],
        layer_norms=samples[2],
        sampled={Quantity.SPECTRAL_GAIN: samples[3]},
        replica_gaps=tuple(ReplicaGap(row, 1, np.inf) for row in range(0, count, 3)),
    )
    watch = RunWatch()
    assert watch.observe(block).failures == ()
    RunWatch.from_bytes(watch.to_bytes()).observe(block)
    watch.statuses()


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([0.0, 5e-324, 1e-38, 1e-7, 1.0, 1e7]),
    st.booleans(),
    st.integers(1, 10_000_000),
    st.sampled_from([np.nan, 0.0, 2.5, -3.0]),
)
def test_a_constant_run_is_silent_however_its_steps_are_numbered(
    norm: float, unsampled: bool, gap: int, loss: float
) -> None:
    block = run_of(
        np.full(200, norm),
        loss=np.full(200, loss),
        loss_known=np.full(200, not np.isnan(loss)),
        steps=np.arange(200, dtype=np.int64) * gap,
    )
    if unsampled:
        block = replace(block, layer_norms=np.full((200, 3), np.nan, dtype=np.float32))
    findings = RunWatch().observe(block).findings
    assert [each for each in findings if each.severity is Severity.CRITICAL] == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-20, 20), st.floats(0.05, 1.5))
def test_noise_of_any_level_and_width_is_never_critical(seed: int, level: float, octaves: float) -> None:
    findings = RunWatch().observe(run_of(noisy(500, seed, level, octaves))).findings
    assert [each for each in findings if each.severity is Severity.CRITICAL] == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 299), max_size=60))
def test_steps_that_the_scaler_skipped_might_as_well_not_be_there(seed: int, skipped: list[int]) -> None:
    generator = np.random.default_rng(seed)
    norms, flags, counts = noisy(300, seed), np.zeros(300, dtype=np.uint16), np.zeros((300, 3), dtype=np.int64)
    flags[skipped] = RecordFlag.SKIPPED_BY_SCALER
    norms[skipped] = generator.choice([0.0, 1e30, np.inf, np.nan], len(skipped))
    counts[skipped, 1] = 5
    norms[250] = norms[250] if 250 in skipped else 1e6
    block = run_of(norms, flags=flags, nonfinite=counts)
    kept = np.flatnonzero(flags == 0)
    without = run_of(norms[kept], steps=block.steps[kept])
    shown = [(each.signature, each.severity, each.step) for each in RunWatch().observe(block).findings]
    assert shown == [(each.signature, each.severity, each.step) for each in RunWatch().observe(without).findings]
