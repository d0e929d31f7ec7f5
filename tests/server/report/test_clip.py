from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.model import NormSource, RecordFlag
from seismograd_server.reading.history import Series
from seismograd_server.report.build import build
from seismograd_server.report.clip.study import study
from seismograd_server.report.clip.types import ClipStudy
from tests.support.histories import NOW, exploding_history, exploding_norm, healthy_norm, make_series


def clipped_series(norm: Any, threshold: float, **changes: Any) -> Series:
    norm = np.asarray(norm, np.float64)
    coefficient = np.minimum(1.0, threshold / (norm + 1e-6))
    thresholds = np.full(len(norm), threshold)
    return make_series(norm, clip_threshold=thresholds, clip_coefficient=coefficient, **changes)


def brute_force(series: Series, onset: int | None, threshold: float | None) -> tuple[float, float, float, int]:
    """(share clipped, mean coefficient, weighted coefficient, steps), step by step; None = the clipping in force."""
    rows = []
    for row in range(series.count):
        norm, skipped = float(series.norm[row]), bool(series.flags[row] & 1)
        if onset is not None and series.steps[row] >= onset:
            continue
        if not math.isfinite(norm) or norm <= 0 or skipped or series.nonfinite[row].sum() > 0:
            continue
        if series.sources[row] == NormSource.POST_MODIFICATION:
            continue
        rows.append(row)
    rows = rows[20:] if len(rows) >= 60 else rows
    rates = {row: float(series.learning_rate[row]) for row in rows}
    judged = [rate for rate in rates.values() if math.isfinite(rate) and rate > 0]
    usual = float(np.median(judged)) if judged else 1.0
    clipped = total = weighted = weights = 0.0
    for row in rows:
        norm = float(series.norm[row])
        own = float(series.clip_threshold[row]) if threshold is None else threshold
        coefficient = min(1.0, own / (norm + 1e-6)) if math.isfinite(own) else 1.0
        rate = rates[row] if math.isfinite(rates[row]) and rates[row] > 0 else usual
        clipped += coefficient < 1.0
        total += coefficient
        weighted += rate * norm * coefficient
        weights += rate * norm
    count = len(rows)
    return clipped / count, total / count, weighted / weights, count


ANYTHING = st.one_of(
    st.floats(1e-3, 1e3), st.sampled_from([math.nan, math.inf, 0.0, 1e-300, 1e300]), st.floats(0.5, 2.0)
)


@st.composite
def series_of_anything(draw: st.DrawFn) -> Series:
    count = draw(st.integers(1, 90))
    column = st.lists(ANYTHING, min_size=count, max_size=count)
    norm = np.array(draw(column))
    thresholds = np.array(draw(st.lists(st.sampled_from([math.nan, 0.5, 1.0, 7.0]), min_size=count, max_size=count)))
    rate = np.array(draw(st.lists(st.sampled_from([math.nan, -1.0, 0.0, 0.1, 0.3]), min_size=count, max_size=count)))
    flags = np.array(draw(st.lists(st.sampled_from([0, 0, 0, 1]), min_size=count, max_size=count)), np.uint16)
    sources = np.array(draw(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=count, max_size=count)), np.uint8)
    nonfinite = np.zeros((count, 3), np.int64)
    nonfinite[:, 1] = draw(st.lists(st.sampled_from([0, 0, 0, 4]), min_size=count, max_size=count))
    return make_series(
        norm, clip_threshold=thresholds, learning_rate=rate, flags=flags, sources=sources, nonfinite=nonfinite
    )


@given(series_of_anything(), st.one_of(st.none(), st.integers(0, 100)), st.floats(0.01, 100.0))
def test_the_effect_of_a_threshold_is_what_counting_step_by_step_gives(
    series: Series, onset: int | None, threshold: float
) -> None:
    found = study(series, onset, thresholds=[threshold])
    if not found.steps:
        assert found.counterfactuals == ()
        return
    clipped, mean, weighted, count = brute_force(series, onset, threshold)
    effect = found.counterfactuals[0].effect
    assert found.steps == count
    assert effect.clipped == pytest.approx(clipped, abs=1e-12)
    assert effect.mean == pytest.approx(mean, rel=1e-9)
    assert effect.weighted == pytest.approx(weighted, rel=1e-9)
    if found.now is not None:
        clipped, mean, weighted, _ = brute_force(series, onset, None)
        assert found.now.clipped == pytest.approx(clipped, abs=1e-12)
        assert (found.now.mean, found.now.weighted) == pytest.approx((mean, weighted), rel=1e-9)
    assert sum(found.histogram) == found.steps
    assert sum(tenth.steps for tenth in found.tenths) == found.steps
    out = found.left_out
    assert found.steps + out.exploding + out.unknown + out.after_clip + out.start_up == series.count


@given(series_of_anything(), st.one_of(st.none(), st.integers(0, 100)))
def test_a_higher_threshold_never_clips_more(series: Series, onset: int | None) -> None:
    found = study(series, onset, thresholds=[0.1, 1.0, 10.0])
    effects = [each.effect for each in found.counterfactuals]
    for lower, higher in itertools.pairwise(effects):
        assert lower.clipped >= higher.clipped
        assert lower.mean <= higher.mean + 1e-12
        assert lower.weighted <= higher.weighted + 1e-12


def test_the_readme_s_sentence_can_be_read_off() -> None:
    found = study(make_series(np.repeat([0.4, 1.6], [969, 31])), None, thresholds=[0.8])
    effect = found.counterfactuals[0].effect
    assert effect.clipped == pytest.approx(31 / 980)
    assert effect.mean == pytest.approx(1 - 0.5 * 31 / 980, rel=1e-5)


def test_quantiles_are_told_in_octaves_from_the_median() -> None:
    found = study(make_series(2.0 ** np.linspace(-3.0, 3.0, 1021)), None)
    by_share = {each.share: each for each in found.quantiles}
    assert by_share[0.5].octaves == 0.0
    assert by_share[1.0].norm == 8.0
    assert by_share[0.99].octaves - by_share[0.01].octaves == pytest.approx(0.98 * 6.0, rel=0.02)


def test_clipping_in_force_is_told_with_what_it_costs() -> None:
    norm = healthy_norm(400, level=4.0)
    found = study(clipped_series(norm, 1.0), None)
    assert found.in_force == 1.0
    assert found.now is not None
    assert found.now.clipped == 1.0
    assert found.now.mean == pytest.approx(np.mean(1.0 / norm[20:]), rel=1e-5)
    assert found.now.weighted == pytest.approx(1.0 / np.mean(norm[20:]), rel=1e-5)
    recommended = found.recommendation
    assert recommended.threshold == pytest.approx(np.quantile(norm[20:], 0.9), rel=0.05)
    assert not recommended.keep
    assert "multiply the learning rate by about 0.25" in recommended.reason


def test_a_threshold_that_bounds_and_costs_little_may_stay() -> None:
    found = study(clipped_series(healthy_norm(400), 2.6), None)
    assert (found.recommendation.threshold, found.recommendation.keep) == (2.6, True)
    loose = study(clipped_series(healthy_norm(400), 100.0), None)
    assert not loose.recommendation.keep
    assert loose.recommendation.threshold is not None
    assert loose.recommendation.threshold < 4.0


def test_the_exploding_stretch_is_left_out_and_told_apart() -> None:
    found = study(make_series(exploding_norm(200, 150)), 150)
    calm = study(make_series(exploding_norm(200, 150)[:150]), None)
    assert found.quantiles == calm.quantiles
    assert found.left_out.exploding == 50
    threshold = found.recommendation.threshold
    assert threshold is not None
    at_it = found.at(threshold)
    assert at_it is not None
    assert at_it.exploding == 1.0
    assert any("explosion is no level" in limit for limit in found.limits)


def test_a_run_that_was_clipped_tightly_and_exploded_is_not_told_to_clip() -> None:
    series = clipped_series(exploding_norm(200, 150), 2.0)
    found = study(series, 150)
    assert found.recommendation.keep
    assert "did not save" in found.recommendation.reason


def test_where_the_norm_has_drifted_a_threshold_is_measured_on_what_came_last() -> None:
    norm = healthy_norm(1000) * 2.0 ** np.linspace(3.0, 0.0, 1000)
    found = study(make_series(norm), None)
    assert found.drift_octaves == pytest.approx(-2.7, abs=0.15)
    assert found.recommendation.threshold == pytest.approx(1.5 * np.quantile(norm[706:], 0.99), rel=0.05)
    assert "last three tenths" in found.recommendation.reason
    octaves = [tenth.octaves for tenth in found.tenths]
    assert all(each is not None for each in octaves)
    assert octaves == sorted(octaves, reverse=True)  # type: ignore[type-var] # none is None, as asserted


def test_norms_from_behind_a_clip_are_left_out_and_said_to_be() -> None:
    sources = np.full(100, int(NormSource.POST_MODIFICATION), np.uint8)
    found = study(make_series(healthy_norm(100), sources=sources), None)
    assert (found.steps, found.left_out.after_clip) == (0, 100)
    assert found.recommendation.threshold is None
    assert any("before the clip is not known" in limit for limit in found.limits)


def test_norms_that_pile_up_at_their_largest_are_suspected_of_a_clip_nobody_told_of() -> None:
    def piled(found: ClipStudy) -> bool:
        return any("clipped there before they were measured" in limit for limit in found.limits)

    norm = healthy_norm(400, level=1.0)
    assert piled(study(make_series(np.minimum(norm, 1.0)), None))
    assert not piled(study(make_series(norm), None))
    assert not piled(study(make_series(np.full(400, 1.0)), None)), "a constant norm has no pile"


def test_too_few_steps_are_said_to_be_few() -> None:
    few = study(make_series(healthy_norm(8)), None)
    assert not few.recommendation.settled
    assert any("upper percentiles rest on a few" in limit for limit in few.limits)
    none = study(make_series(np.zeros(0)), None)
    assert (none.steps, none.quantiles, none.counterfactuals, none.tenths) == (0, (), (), ())
    assert none.recommendation.threshold is None


def test_norms_at_the_ends_of_what_a_float_holds_break_nothing() -> None:
    norm = np.array([1e-320, 1e-5, 1.0, 1e5, 1e308] * 20)
    found = study(make_series(norm, steps=np.arange(100) + (2**63 - 100)), None, thresholds=[1.0])
    assert len(found.histogram) <= 256
    assert sum(found.histogram) == found.steps == 80
    assert np.isfinite(found.counterfactuals[0].effect.weighted)


def test_steps_skipped_by_the_scaler_are_nobody_s_norms() -> None:
    flags = np.zeros(100, np.uint16)
    flags[::2] = int(RecordFlag.SKIPPED_BY_SCALER)
    found = study(make_series(healthy_norm(100), flags=flags), None)
    assert found.left_out.unknown == 50


def test_the_post_mortem_says_the_same_as_the_study() -> None:
    history = exploding_history()
    report = build(history, NOW)
    assert report.clip == study(history.series, 150)
    clipped = replace(history, series=clipped_series(history.series.norm, 40.0, nonfinite=history.series.nonfinite))
    advice = next(each for each in build(clipped, NOW).advice if each.title.startswith("Lower the clip threshold"))
    assert advice.reason == build(clipped, NOW).clip.recommendation.reason
