"""Each detector's decisions once more, by its definition over the whole run: slow, without state and without stretches.

Norms are calm here, so that nothing else has a say: no excursion, no restart, every step judged.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.detect.clip_saturation import ClipSaturationConfig
from seismograd_server.detect.dead_layer import DeadLayerConfig
from seismograd_server.detect.loss_divergence import LossDivergenceConfig
from seismograd_server.detect.loss_scale_collapse import LossScaleCollapseConfig
from seismograd_server.detect.nonfinite import NonfiniteConfig
from seismograd_server.detect.rank_outlier import RankOutlierConfig
from seismograd_server.detect.recurrent_gain import RecurrentGainConfig
from seismograd_server.detect.replica_desync import ReplicaDesyncConfig
from seismograd_server.detect.stalled import StalledConfig
from seismograd_server.detect.update_overshoot import UpdateOvershootConfig
from seismograd_server.detect.vanishing import VanishingConfig
from seismograd_server.detect.watch import RunWatch, WatchConfig
from seismograd_server.model import Quantity, RecordFlag, ReplicaGap, Severity, Signature
from tests.support.closed import findings_of, layout, run_of, told, with_ratio
from tests.support.twins import (
    SEEDS,
    STEPS,
    UNTRAINED,
    WARM_UP,
    WINDOW,
    Told,
    calm,
    episodes,
    lower_median,
    run_length,
    twins,
    usual,
)


def watched(**configs: Any) -> RunWatch:
    return RunWatch(WatchConfig(**configs))


@twins
@given(SEEDS, st.sampled_from([0.003, 0.02]))
def test_dead_layers_are_those_that_have_been_zero_for_so_long(seed: int, share: float) -> None:
    generator, after = np.random.default_rng(seed), 12
    zero = np.stack([episodes(generator, share, 40) for _ in range(3)], axis=1)
    block = replace(run_of(calm()), layer_norms=np.where(zero, 0.0, 1.0).astype(np.float32))
    expected: Told = []
    before = 0
    for step in range(STEPS):
        dead = sum(run_length(zero[:, layer], step) >= after for layer in range(3))
        if before and not dead:
            expected.append((step, Severity.NONE))
            before = 0
        elif dead and dead >= 2 * before:
            expected.append((step, Severity.INFO))
            before = dead
    found = findings_of(block, watched(dead_layer=DeadLayerConfig(dead_after_steps=after)))
    assert told(found, Signature.DEAD_LAYER) == expected


@twins
@given(SEEDS, st.sampled_from([0.003, 0.02]))
def test_absent_ranks_are_told_when_more_are_missing_for_so_long_and_when_none_is(seed: int, share: float) -> None:
    generator, after = np.random.default_rng(seed), 12
    absent = np.stack([episodes(generator, share, 40) for _ in range(3)], axis=1)
    block = replace(run_of(calm(), layout=layout(ranks=3), ranks=3), ranks_present=~absent)
    expected: Told = []
    before = 0
    for step in range(STEPS):
        missing = sum(run_length(absent[:, rank], step) >= after for rank in range(3))
        if missing > before:
            expected.append((step, Severity.WARNING))
            before = missing
        elif before and not missing:
            expected.append((step, Severity.NONE))
            before = 0
    found = findings_of(block, watched(stalled=StalledConfig(absent_steps=after)))
    assert told(found, Signature.STALLED) == expected


@twins
@given(SEEDS, st.sampled_from([0.005, 0.04]), st.sampled_from([2.0**12, 4.0]))
def test_a_loss_scale_collapses_by_the_skips_within_the_window(seed: int, share: float, first: float) -> None:
    skipped = episodes(np.random.default_rng(seed), share, 12)
    scale = first * 0.5 ** np.concatenate(([0], np.cumsum(skipped)[:-1]))
    config = LossScaleCollapseConfig()
    counts = np.zeros((STEPS, 3), dtype=np.int64)
    counts[skipped, 1] = 1
    flags = np.where(skipped, RecordFlag.SKIPPED_BY_SCALER, 0).astype(np.uint16)
    block = run_of(np.where(skipped, 0.0, calm()), loss_scale=scale, flags=flags, nonfinite=counts)
    expected: Told = []
    severity, last = Severity.NONE, -math.inf
    for step in range(STEPS):
        rows = [row for row in range(max(0, step - config.window_steps + 1), step + 1) if skipped[row]]
        if not skipped[step]:
            if severity != Severity.NONE and step - last >= config.window_steps:
                severity = Severity.NONE
                expected.append((step, severity))
            continue
        last = step
        late = [row for row in rows if row >= config.warm_up_steps]
        worst = Severity.NONE
        if len(late) >= config.skipped_steps or (late and max(scale[late]) / scale[step] >= 2.0**config.fallen_octaves):
            worst = Severity.WARNING
        if sum(scale[row] <= config.floor for row in rows) >= config.skipped_at_floor:
            worst = Severity.CRITICAL
        if worst > severity:
            severity = worst
            expected.append((step, severity))
    assert told(findings_of(block), Signature.LOSS_SCALE_COLLAPSE) == expected


@twins
@given(SEEDS, st.sampled_from([0.005, 0.03]))
def test_replicas_are_apart_by_much_or_again_until_they_have_agreed_for_long(seed: int, share: float) -> None:
    generator, config = np.random.default_rng(seed), ReplicaDesyncConfig()
    gaps = np.where(generator.random(STEPS) < share, 10.0 ** generator.uniform(-8.0, 0.0, STEPS), 0.0)
    rows = tuple(ReplicaGap(int(row), 1, float(gaps[row])) for row in np.flatnonzero(gaps))
    apart = gaps > config.beyond_rounding
    expected: Told = []
    active, since = False, 0
    for step in range(STEPS):
        recent = np.flatnonzero(apart[since : step + 1]) + since
        if apart[step]:
            if not active and (gaps[step] >= config.certain_gap or len(recent) >= config.steps):
                active = True
                expected.append((step, Severity.CRITICAL))
        elif len(recent) and step - recent[-1] >= config.recovered_after_steps:
            since = step + 1
            if active:
                active = False
                expected.append((step, Severity.NONE))
    found = findings_of(replace(run_of(calm(), layout=layout(ranks=2), ranks=2), replica_gaps=rows))
    assert told(found, Signature.REPLICA_DESYNC) == expected


@twins
@given(SEEDS, st.sampled_from([1, 7]))
def test_updates_overshoot_by_samples_in_a_row(seed: int, every: int) -> None:
    config = UpdateOvershootConfig()
    large = episodes(np.random.default_rng(seed), 0.01, 60)
    ratios = np.where(np.arange(STEPS) % every == 0, np.where(large, 0.2, 0.002), np.nan)
    samples = [step for step in range(STEPS) if step % every == 0 and step >= WARM_UP]
    expected: Told = []
    active = False
    for place, step in enumerate(samples):
        latest = large[samples[: place + 1]]
        if not active and run_length(latest, place) >= config.samples:
            active = True
            expected.append((step, Severity.WARNING))
        elif active and run_length(~latest, place) >= config.recovered_samples:
            active = False
            expected.append((step, Severity.NONE))
    assert told(findings_of(with_ratio(run_of(calm()), ratios)), Signature.UPDATE_OVERSHOOT) == expected


@twins
@given(SEEDS, st.sampled_from([1, 7]), st.sampled_from([0.0, 0.004, 0.02]))
def test_a_recurrent_gain_has_risen_over_its_lowest_since_anything_was_learnt_and_still_rises(
    seed: int, every: int, slope: float
) -> None:
    config, generator = RecurrentGainConfig(), np.random.default_rng(seed)
    walk = np.exp(np.cumsum(generator.normal(0.0, 0.05, STEPS))).astype(np.float32)
    gains = np.full((STEPS, 3), np.nan, dtype=np.float32)
    gains[::every, 1] = walk[::every]
    loss = 2.0 ** (generator.normal(0.0, 0.1, STEPS) - slope * np.arange(STEPS))
    expected: Told = []
    start, warned = 0, -1  # samples: since when the lowest counts, and at which one it was told
    best = np.inf
    samples = [float(each) for each in walk[::every]]
    for place, gain in enumerate(samples):
        step = place * every
        lately = lower_median(loss[max(0, step - config.losses) : step]) if step >= WARM_UP else np.inf
        learnt = lately < (best - config.learnt_share * abs(best) if best < np.inf else np.inf)
        best = lately if learnt else best
        if step < WINDOW or learnt:  # training finds its level until the first window is full
            start = place
        unlearnt = min(samples[start : place + 1])
        if warned >= 0:
            if learnt or gain < max(config.growing, config.fallen * max(samples[warned : place + 1])):
                start, warned = place, -1
                expected.append((place * every, Severity.NONE))
            continue
        latest = samples[max(0, place + 1 - config.samples) : place + 1]
        rises = len(latest) == config.samples and gain >= config.rising * latest[0]
        if rises and gain >= max(config.growing, config.risen * unlearnt):
            warned = place
            expected.append((place * every, Severity.WARNING))
    block = replace(run_of(calm(), loss=loss), sampled={Quantity.SPECTRAL_GAIN: gains})
    assert told(findings_of(block), Signature.RECURRENT_GAIN) == expected


@twins
@given(SEEDS, st.sampled_from([0.0, 0.015, 0.02, 0.05]))
def test_the_usual_loss_diverges_from_the_untrained_and_the_best_one(seed: int, slope: float) -> None:
    config, generator = LossDivergenceConfig(), np.random.default_rng(seed)
    turn = int(generator.integers(60, 120))
    learnt = -0.03 * np.minimum(np.arange(STEPS), turn) + slope * np.maximum(0, np.arange(STEPS) - turn)
    loss = 2.0 ** (learnt + generator.normal(0.0, 0.1, STEPS))
    norms = calm(seed % 100)
    levels = np.log2(norms)
    untrained = sorted(loss[:UNTRAINED])[UNTRAINED // 2]
    usual_losses = {step: usual(loss, step) for step in range(WARM_UP, STEPS)}
    usual_levels = {step: usual(levels, step) for step in range(WARM_UP, STEPS)}
    expected: Told = []
    severity, forgotten = Severity.NONE, 0
    for step, now in usual_losses.items():
        best = min(usual_losses[each] for each in range(WARM_UP, step + 1))
        above, risen = math.log2(now / untrained), math.log2(now / best)
        forgotten = forgotten + 1 if above >= config.forgotten_octaves and risen >= config.learnt_octaves else 0
        lowest = min(usual_levels[each] for each in range(WARM_UP, step + 1))
        bounded = usual_levels[step] - lowest < config.bounded_share * risen
        level = Severity.WARNING if forgotten else Severity.NONE
        far = above >= config.untrained_octaves and risen >= config.best_octaves and bounded
        if far or forgotten >= config.for_good_steps:
            level = Severity.CRITICAL
        if level > severity or (level == Severity.NONE and severity != Severity.NONE):
            severity = level
            expected.append((step, severity))
    assert told(findings_of(run_of(norms, loss=loss)), Signature.LOSS_DIVERGENCE) == expected


@twins
@given(SEEDS, st.sampled_from([0.008, 0.012, 0.02]), st.sampled_from([0.98, 1.0]))
def test_clipping_is_saturated_while_the_usual_norm_rises_from_look_to_look(
    seed: int, slope: float, share: float
) -> None:
    config, generator = ClipSaturationConfig(), np.random.default_rng(seed)
    until = int(generator.integers(150, STEPS))
    levels = np.log2(calm(seed % 100)) + slope * np.minimum(np.arange(STEPS), until)
    levels -= 0.02 * np.maximum(0, np.arange(STEPS) - until)
    clips = np.where(generator.random(STEPS) < share, 0.5, 1.0)
    looks: list[tuple[bool, float]] = []  # saturated, the usual norm
    expected: Told = []
    active = False
    for step in range(WARM_UP + config.every_steps - 1, STEPS, config.every_steps):
        clipped = clips[step - config.every_steps + 1 : step + 1] < 1.0
        looks.append((bool(clipped.mean() >= config.clipped_share), usual(levels, step)))
        since = max((place + 1 for place, look in enumerate(looks) if not look[0]), default=0)
        norms = [level for _, level in looks[since:]][-config.looks :]
        rises = len(norms) == config.looks and norms[-1] - norms[0] >= config.risen_octaves
        rises = rises and all(after >= before for before, after in pairwise(norms))
        over = not norms or (not rises and norms[-1] <= norms[0])
        if rises and not active:
            active = True
            expected.append((step, Severity.WARNING))
        elif active and over:
            active = False
            expected.append((step, Severity.NONE))
    block = run_of(2.0**levels, clip_coefficient=clips, clip_threshold=np.full(STEPS, 0.1))
    assert told(findings_of(block), Signature.CLIP_SATURATION) == expected


@twins
@given(SEEDS, st.sampled_from([0.01, 0.06]))
def test_what_is_not_finite_is_told_unless_the_scaler_explains_it_until_all_has_been_finite_for_long(
    seed: int, share: float
) -> None:
    generator, config = np.random.default_rng(seed), NonfiniteConfig()
    gradient, loss_lost = episodes(generator, share, 4), generator.random(STEPS) < share / 2.0
    counts = np.zeros((STEPS, 3), dtype=np.int64)
    counts[gradient, generator.integers(0, 3, int(gradient.sum()))] = 7
    norms, loss = calm(), np.full(STEPS, 2.0)
    norms[generator.random(STEPS) < share / 4.0] = np.inf  # overflowed although no element did
    loss[loss_lost] = generator.choice([np.nan, np.inf], int(loss_lost.sum()))
    flags = generator.choice([0, RecordFlag.SKIPPED_BY_SCALER, RecordFlag.SKIPPED_BY_USER], STEPS)
    harmless = flags == RecordFlag.SKIPPED_BY_SCALER
    nan, infinite = counts[:, 0] > 0, (counts[:, 1:] > 0).any(axis=1) | np.isposinf(norms) | np.isposinf(loss)
    broken = (nan | infinite | np.isnan(loss)) & ~harmless
    expected: list[tuple[int, Severity, str | None]] = []
    severity = Severity.NONE
    for step in np.flatnonzero(~harmless).tolist():
        if broken[step]:
            level = Severity.WARNING if flags[step] == RecordFlag.SKIPPED_BY_USER else Severity.CRITICAL
            kinds = ["nan"] * bool(nan[step] or np.isnan(loss[step])) + ["inf"] * bool(infinite[step])
            if level > severity:
                severity = level
                expected.append((step, severity, " and ".join(kinds)))
        elif severity != Severity.NONE:
            last = int(np.flatnonzero(broken[:step])[-1])
            if np.count_nonzero(~harmless[last + 1 : step + 1]) >= config.recovered_after_steps:
                severity = Severity.NONE
                expected.append((step, severity, None))
    findings = findings_of(run_of(norms, loss=loss, flags=flags.astype(np.uint16), nonfinite=counts))
    found = [each for each in findings if each.signature is Signature.NONFINITE]
    assert [(each.step, each.severity, each.evidence.details.get("kind")) for each in found] == expected


@twins
@given(SEEDS, st.sampled_from([1, 7]), st.sampled_from([0.1, 0.6]))
def test_a_rank_is_an_outlier_when_it_alone_lies_far_above_the_others_twice_in_a_row(
    seed: int, every: int, octaves: float
) -> None:
    generator, config, ranks = np.random.default_rng(seed), RankOutlierConfig(), 4
    levels = generator.normal(0.0, octaves, (STEPS, ranks))
    for rank in range(ranks):  # by as much or nearly as much as it takes, sometimes two at once
        levels[:, rank] += np.where(episodes(generator, 0.01, 8 * every), generator.uniform(2.5, 9.0, STEPS), 0.0)
    sampled = np.arange(STEPS) % every == 0
    norms = np.where(sampled[:, None], 2.0**levels, np.nan)
    expected: list[tuple[int, Severity, int | None]] = []
    apart: list[float] = []  # how far ranks lay from the others on average, at each sample
    named: list[int] = []  # whom each sample is about; -1 = nobody
    warned = False
    for step in np.flatnonzero(sampled).tolist():
        above = [levels[step, rank] - np.median(np.delete(levels[step], rank)) for rank in range(ranks)]
        leader, (second, highest) = int(np.argmax(above)), sorted(above)[-2:]
        usually = 0.0
        for count, distance in enumerate(apart, start=1):
            usually += (distance - usually) / min(count, 32)
        enough = config.above_octaves if warned else max(config.above_octaves, config.times_usual * usually)
        named.append(leader if highest >= enough and second <= config.next_most * highest else -1)
        apart.append(float(np.mean(np.minimum(np.abs(above), 4.0))))
        if not warned and len(named) >= config.samples and set(named[-config.samples :]) == {leader}:
            warned = True
            expected.append((step, Severity.WARNING, leader))
        elif warned and set(named[-config.recovered_samples :]) == {-1}:
            warned = False
            expected.append((step, Severity.NONE, None))
    block = replace(run_of(calm(), layout=layout(ranks=ranks), ranks=ranks), rank_norm=norms)
    found = [each for each in findings_of(block) if each.signature is Signature.RANK_OUTLIER]
    assert [(each.step, each.severity, each.evidence.leading_rank) for each in found] == expected


@twins
@given(SEEDS, st.booleans(), st.sampled_from([0.0, 0.0, -12.0]))
def test_gradients_vanish_where_nothing_is_learnt_and_layers_or_the_norm_are_far_below(
    seed: int, has_loss: bool, fall: float
) -> None:
    generator, config, layers = np.random.default_rng(seed), VanishingConfig(), 9
    learns, small = episodes(generator, 0.004, 150), episodes(generator, 0.01, 200)
    depth = generator.uniform(6.0, 16.0) * generator.choice([np.linspace(1.0, 0.0, layers), np.arange(layers) % 2])
    levels = generator.normal(0.0, 0.3, (STEPS, layers)) - np.where(small[:, None], depth, 0.0)
    layer_norms = (2.0**levels).astype(np.float32)
    loss = 2.0 ** (generator.normal(0.0, 0.05, STEPS) - 0.8 * learns)
    norms = calm(seed % 100) * 2.0 ** np.clip(fall * (np.arange(STEPS) - 150) / 100.0, min(fall, 0.0), 0.0)
    untrained, first = sorted(loss[:UNTRAINED])[UNTRAINED // 2], sorted(np.log2(norms[:WARM_UP]))[WARM_UP // 2]
    limit = config.vanished_octaves if has_loss else config.vanished_unseen_octaves
    expected: Told = []
    warned, disagreeing = False, 0
    for step in range(STEPS):
        count = step + 1
        if count < config.first_look_steps or count % config.every_steps:
            continue
        kept = np.log2(layer_norms[range(0, step, 4)][-16:])  # one in four, sixteen of them
        typical = np.sort(kept, axis=0)[(len(kept) - 1) // 2]
        early, late = np.median(typical[:3]), np.median(typical[-3:])
        below = min(np.median(typical) - typical.max(), early - late) <= limit
        fallen = has_loss and usual(np.log2(norms), step) - first <= config.fallen_octaves
        learnt = has_loss and math.log2(usual(loss, step) / untrained) <= config.learnt_octaves
        vanished = bool((below or fallen) and not learnt)
        disagreeing = 0 if vanished == warned else disagreeing + 1
        if disagreeing == config.confirming_looks:
            warned, disagreeing = vanished, 0
            expected.append((step, Severity.WARNING if warned else Severity.NONE))
    block = run_of(norms, layout=layout([f"layer.{index}.weight" for index in range(layers)]), layer_norms=layer_norms)
    if has_loss:
        block = replace(block, loss=loss, loss_known=np.ones(STEPS, dtype=np.bool_))
    assert told(findings_of(block), Signature.VANISHING) == expected
