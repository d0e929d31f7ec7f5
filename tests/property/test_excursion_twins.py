"""`spike` and `runaway` once more, by their definitions over the whole run: slow, and nothing is kept but the history.

Only the norm is known here: what the loss, the updates or the ranks add to it is for the detectors' own tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.detect.grounds import RunawayConfig
from seismograd_server.detect.spike import SpikeConfig
from seismograd_server.model import Finding, Severity, Signature
from tests.support.closed import findings_of, run_of
from tests.support.twins import SEEDS, STEPS, WARM_UP, WINDOW, calm, lower_median, twins

Levels = npt.NDArray[np.float64]
# Step, since which step, and severity of a finding.
Changes = list[tuple[int, int, Severity]]
QUIET_STEPS, LATE_STEPS, TOLD_AGAIN = 8, 8, 4.0


@dataclass(frozen=True)
class At:
    """A step in the light of the steps before it; levels in octaves."""

    step: int
    level: float
    usual: float  # NaN = the run is too young
    spread: float
    above_record: float
    out: list[float]  # levels since the norm left the usual range, to this step; empty = it is inside
    records_broken: list[float]  # by how much each of these lay above the record
    high: list[bool]  # which of these were far from usual and above the record
    over: bool  # the norm has come back: this is the last step of the excursion

    @property
    def first(self) -> int:
        return self.step + 1 - len(self.out)


def spread(window: list[float]) -> float:
    """The larger of two robust estimates of a standard deviation, and a fifth of an octave at least."""
    ordered, count = sorted(window), len(window)
    quartiles = (ordered[(3 * count) // 4] - ordered[count // 4]) / 1.349
    upper = (ordered[(9 * count) // 10] - lower_median(ordered)) / 1.2816
    return max(0.2, quartiles, upper)


def record(accepted: list[float], survived: list[tuple[int, float]]) -> float:
    """The highest usual level so far: each counts eight steps late and for an octave more at most, and all of it fades.

    `survived` are the peaks of excursions that are over, and after how many usual steps: these count at once, for an
    octave and a half at most.
    """
    height = -math.inf
    after = [*(count for count, _ in survived), len(accepted)]
    begin = 0
    for number, end in enumerate(after):
        for count in range(begin, end):
            height -= 1.0 / 256.0
            if count >= LATE_STEPS:
                late = accepted[count - LATE_STEPS]
                height = late if height == -math.inf else max(height, min(late, height + 1.0))
        if number < len(survived):
            height = max(height, min(survived[number][1], height + 1.5))
        begin = end
    return height


def looked_at(levels: Levels) -> Iterator[At]:
    """Step by step: what is usual is learnt from the steps outside of excursions only, and at first from all.

    A young model of which nothing but the norm is known may be beginning to learn.
    """
    accepted: list[float] = []
    survived: list[tuple[int, float]] = []
    out: list[float] = []
    broken: list[float] = []
    far: list[bool] = []
    for step, level in enumerate(levels.tolist()):
        window = accepted[-WINDOW:]
        known = len(accepted) >= WARM_UP
        usual, wide = (lower_median(window), spread(window)) if known else (math.nan, math.nan)
        excess = level - record(accepted, survived)
        leaves = level - usual >= max(2.0, 2.0 * wide)
        if out or (leaves and excess > 0.0):
            out, broken, far = [*out, level], [*broken, excess], [*far, leaves]
        over = len(out) > QUIET_STEPS and not any(far[-QUIET_STEPS:])
        high = [is_far and above >= 1.0 for is_far, above in zip(far, broken, strict=True)]
        yield At(step, level, usual, wide, excess, out, broken, high, over)
        if not out or len(accepted) < WINDOW:
            accepted.append(level)
        if over:
            survived.append((len(accepted), max(out)))
            out, broken, far = [], [], []


def changes(findings: list[Finding], signature: Signature) -> Changes:
    return [(each.step, each.since_step, each.severity) for each in findings if each.signature is signature]


def with_outliers(seed: int, share: float) -> Levels:
    """Calm but for a few steps in a row, now and then, that lie up to 13 octaves higher."""
    generator, levels = np.random.default_rng(seed), np.log2(calm(seed % 1000))
    for start in np.flatnonzero(generator.random(STEPS) < share):
        length = int(generator.integers(1, 5))
        levels[start : start + length] += generator.uniform(0.0, 13.0) * generator.uniform(0.7, 1.0)
    return levels


def with_growth(seed: int, drift: float) -> Levels:
    """Calm, then growing from some step on by so much a step, up to a height, for a while: twice.

    With a drift, slowly up over 180 steps instead, so that it never is far from the usual, and back at once.
    """
    generator, levels = np.random.default_rng(seed), np.log2(calm(seed % 1000))
    if drift:
        return levels + np.where(np.arange(STEPS) < 280, drift * np.clip(np.arange(STEPS) - 30, 0, 180), 0.0)
    early = generator.random() < 0.3
    starts = (
        int(generator.integers(2, 16) if early else generator.integers(30, 120)),
        int(generator.integers(200, 280)),
    )
    for start in starts:
        slope = float(generator.choice([0.1, 0.4, 1.5, 6.0] if start > WARM_UP else [4.0, 9.0]))
        height = float(generator.choice([generator.uniform(2.5, 4.5), generator.uniform(1.0, 14.0)]))
        length = int(generator.integers(3, 50))
        levels[start : start + length] += np.minimum(height, slope * np.arange(1, length + 1))
    return levels


@twins
@given(SEEDS, st.sampled_from([0.01, 0.03]))
def test_spikes_are_far_above_the_usual_and_the_record_until_the_norm_has_come_back(seed: int, share: float) -> None:
    config, levels = SpikeConfig(), with_outliers(seed, share)
    expected: Changes = []
    since, again, stride = -1, math.inf, TOLD_AGAIN  # since which step one is on; from which level on it is told again
    for at in looked_at(levels):
        if since >= 0 and (not at.out or at.over):
            expected.append((at.step, since, Severity.NONE))
            since = -1
            continue
        enough = max(config.above_baseline_octaves, config.above_spreads * at.spread)
        if at.level - at.usual < enough or at.above_record < config.above_record_octaves or math.isnan(at.usual):
            continue
        if since < 0:
            since, again, stride = at.first, -math.inf, TOLD_AGAIN
        if at.level >= again:
            expected.append((at.step, since, Severity.WARNING))
            again, stride = at.level + stride, 2.0 * stride
    assert changes(findings_of(run_of(2.0**levels)), Signature.SPIKE) == expected


def runs_away(at: At, levels: Levels, config: RunawayConfig) -> bool:
    """By the norm alone: growing, a thousandfold, without return, risen over all of the beginning, or at its start."""
    if at.step and math.isnan(at.usual):
        return bool(at.level - levels[: min(3, at.step)].max() >= config.early_hopeless_octaves)
    if at.usual - levels[:WARM_UP].max() >= max(config.rising_octaves, config.rising_spreads * at.spread):
        return True
    if not at.out:
        return False
    # What is compared with is the highest of the time until a third step was high: bad data fill a batch or two.
    third = [place for place, high in enumerate(at.high) if high][2:3] or [len(at.out)]
    growth = max(at.out) - max(at.out[: third[0]])
    peak = at.records_broken[at.out.index(max(at.out))]
    if len(at.out) > 1 and at.above_record >= config.hopeless_excess:  # the first may be a single bad batch
        return True
    if at.level == max(at.out) and at.above_record >= config.growth_excess and growth >= config.growth_octaves:
        return True
    stays = at.high[-1] and at.above_record >= max(config.no_return_excess, config.no_return_up * peak)
    long = sum(at.high) >= max(config.no_return_steps, len(at.out) / 2)
    return stays and long and growth >= config.rescaled_octaves


@settings(max_examples=60, deadline=None)  # growth comes in more shapes than a step has
@given(SEEDS, st.sampled_from([0.0, 0.0, 0.0, 0.06]))
def test_a_run_runs_away_by_its_norm_until_it_has_had_no_ground_for_long(seed: int, drift: float) -> None:
    config, levels = RunawayConfig(), with_growth(seed, drift)
    expected: Changes = []
    since, again, stride, quiet = -1, math.inf, TOLD_AGAIN, 0
    for at in looked_at(levels):
        if runs_away(at, levels, config):
            if since < 0:
                since, again, stride = at.first if at.out else at.step, -math.inf, TOLD_AGAIN
            quiet = 0
            if at.level >= again:
                expected.append((at.step, since, Severity.CRITICAL))
                again, stride = at.level + stride, 2.0 * stride
        elif since >= 0:
            quiet = 0 if at.out else quiet + 1
            if quiet >= config.recovered_after_steps:
                expected.append((at.step, since, Severity.NONE))
                since = -1
    assert changes(findings_of(run_of(2.0**levels)), Signature.RUNAWAY) == expected
