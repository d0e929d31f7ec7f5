from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from seismograd_server.model import Quantity, RecordFlag, Signature
from seismograd_server.reading.history import History
from seismograd_server.report.build import build
from seismograd_server.report.contents import Cause, CauseKind
from seismograd_server.report.render_html import render_html
from seismograd_server.report.render_json import render_json
from seismograd_server.report.render_markdown import render_markdown
from tests.support.histories import (
    NOW,
    exploding_history,
    healthy_history,
    healthy_norm,
    make_alert,
    make_rank_window,
)

ONSET = 150


def causes(history: History) -> list[Cause]:
    return list(build(history, NOW + 300).causes)


def kinds(history: History) -> list[CauseKind]:
    return [cause.kind for cause in causes(history)]


def with_series(history: History, **changes: Any) -> History:
    return replace(history, series=replace(history.series, **changes))


def with_layers(history: History, **changes: Any) -> History:
    assert history.layers is not None
    return replace(history, layers=replace(history.layers, **changes))


def abrupt(loss_too: bool = True) -> History:
    """The norm is sixty times as large from one step to the next, and grows from there."""
    history = exploding_history()
    norm, loss = history.series.norm.copy(), history.series.loss.copy()
    norm[ONSET:] *= 30.0
    if loss_too:
        loss[ONSET:180] *= 50.0
    return with_series(history, norm=norm, loss=loss)


def rates(history: History, value: float, since: int = ONSET, base: float = 0.1) -> History:
    rate = np.full(history.series.count, base)
    rate[since:] = value
    return with_series(history, learning_rate=rate)


def test_a_rate_that_was_raised_before_the_onset_comes_first() -> None:
    first = causes(rates(exploding_history(), 4.0, since=145))[0]
    assert (first.kind, first.word) == (CauseKind.LEARNING_RATE, "likely")
    assert first.title == "The learning rate rose 40×"
    assert dict(first.evidence)["rate before"] == "0.1"


def test_a_rate_that_rises_for_hundreds_of_steps_comes_first_as_well() -> None:
    history = exploding_history()
    slow = with_series(history, learning_rate=0.1 * 1.02 ** np.arange(history.series.count))
    assert kinds(slow)[0] is CauseKind.LEARNING_RATE


def test_a_rate_that_fell_is_no_rise() -> None:
    found = {cause.kind: cause for cause in causes(rates(exploding_history(), 0.01, since=145))}
    assert found[CauseKind.LEARNING_RATE].word == "possible"


@pytest.mark.parametrize(("at_first", "expected"), [(0.1, True), (0.01, False)])
def test_an_onset_in_the_first_steps_at_full_rate_is_a_missing_warm_up(at_first: float, expected: bool) -> None:
    history = exploding_history(onset=30, failure=60, alerts=(make_alert(since_step=30, opened_step=33),))
    rate = np.full(history.series.count, 0.1)
    rate[:25] = at_first
    found = kinds(with_series(history, learning_rate=rate))
    assert (CauseKind.MISSING_WARM_UP in found) is expected


def test_huge_first_norms_that_grow_through_the_depth_are_an_initialisation() -> None:
    names = tuple(f"layers.{depth}.weight" for depth in range(8))
    steps = np.arange(0, 40, dtype=np.int64)
    norms = (2.0 ** -np.arange(8.0))[None, :] * 1e5 * np.ones((40, 1))
    history = exploding_history(onset=2, failure=30, alerts=(make_alert(since_step=2, opened_step=2),))
    assert history.layers is not None
    layers = replace(
        history.layers,
        names=names,
        module_types=("Linear",) * 8,
        depths=tuple(range(8)),
        numels=(64,) * 8,
        steps=steps,
        norms=norms.astype(np.float32),
        weight_norms=np.full((40, 8), 10.0, np.float32),
        update_norms=np.full((40, 8), 0.1, np.float32),
    )
    history = replace(with_series(history, norm=np.full(200, 2e5)), layers=layers)
    first = causes(history)[0]
    assert first.kind is CauseKind.INITIALISATION
    assert dict(first.evidence)["growth per layer"] == "2×"


def test_a_recurrent_gain_that_rises_above_one_speaks_for_recurrence() -> None:
    history = exploding_history()
    assert history.layers is not None
    gains = np.full_like(history.layers.norms, np.nan)
    gains[:, 2] = np.where(history.layers.steps < ONSET, 0.9, 1.6)
    found = {each.kind: each for each in causes(with_layers(history, sampled={Quantity.SPECTRAL_GAIN: gains}))}
    assert found[CauseKind.RECURRENT_GAIN].word == "likely"
    assert dict(found[CauseKind.RECURRENT_GAIN].evidence)["largest recurrent gain"] == "1.6"


def test_a_jump_of_norm_and_loss_from_one_step_to_the_next_is_the_data() -> None:
    assert set(kinds(abrupt())[:2]) == {CauseKind.BAD_BATCH, CauseKind.TARGET_OUTLIER}
    (batch,) = (cause for cause in causes(abrupt()) if cause.kind is CauseKind.BAD_BATCH)
    assert dict(batch.evidence)["norm from one step to the next"].endswith("×")


@pytest.mark.parametrize(("gap", "first"), [(1.0, CauseKind.TARGET_OUTLIER), (16.0, CauseKind.BAD_BATCH)])
def test_matrices_that_rise_further_than_biases_tell_inputs_from_targets(gap: float, first: CauseKind) -> None:
    history = abrupt()
    assert history.layers is not None
    rise = np.where(history.layers.steps < ONSET, 1.0, 64.0)[:, None] * np.ones((1, 4))
    rise[:, 1::2] = np.where(history.layers.steps < ONSET, 1.0, 64.0 / gap)[:, None]
    named = with_layers(history, names=("0.weight", "0.bias", "1.weight", "1.bias"), norms=rise.astype(np.float32))
    assert kinds(named)[0] is first


def test_a_rank_apart_from_the_others_is_the_cause_whatever_else_is_seen() -> None:
    history = abrupt()
    assert history.layers is not None
    window = make_rank_window(history.layers.steps, outlier=1, begins=ONSET)
    first = causes(replace(history, rank_window=window))[0]
    assert first.kind is CauseKind.BAD_BATCH
    assert first.title == "Rank 1: its batch or shard is bad, or its machine"


def test_a_weight_norm_that_moves_further_than_its_update_was_changed_from_outside() -> None:
    history = abrupt()
    assert history.layers is not None
    weights = history.layers.weight_norms.copy()
    weights[history.layers.steps >= ONSET, 3] *= 8.0
    updates = np.full_like(weights, 0.1)
    first = causes(with_layers(history, weight_norms=weights, update_norms=updates))[0]
    assert (first.kind, first.title) == (
        CauseKind.WEIGHT_CORRUPTION,
        "The weights of head.weight were changed from outside",
    )
    assert dict(first.evidence)["its norm changed"] == "8×"
    explained = with_layers(history, weight_norms=weights, update_norms=np.full_like(weights, 100.0))
    assert CauseKind.WEIGHT_CORRUPTION not in kinds(explained)


def test_between_samples_far_apart_a_weight_that_moved_alone_is_not_certain() -> None:
    history = abrupt()
    assert history.layers is not None
    sampled = history.layers.steps % 10 == 0
    weights = history.layers.weight_norms.copy()
    weights[history.layers.steps >= ONSET, 3] *= 8.0
    weights[~sampled] = np.nan
    updates = np.where(sampled[:, None], np.float32(0.1), np.float32(np.nan)) * np.ones((1, 4), np.float32)
    found = {
        cause.kind: cause.weight for cause in causes(with_layers(history, weight_norms=weights, update_norms=updates))
    }
    assert CauseKind.BAD_BATCH in found
    assert 0.7 < found[CauseKind.WEIGHT_CORRUPTION] < 0.9


def test_an_overflow_from_an_ordinary_norm_is_a_matter_of_precision() -> None:
    nonfinite = np.zeros((200, 3), np.int64)
    nonfinite[ONSET:, 1] = 5
    loss = np.linspace(3.0, 2.0, 200)
    loss[ONSET + 1 :] = np.nan
    alert = make_alert(signature=Signature.NONFINITE, since_step=ONSET, opened_step=ONSET)
    history = exploding_history(alerts=(alert,), layers=None, nonfinite=())
    history = with_series(history, norm=healthy_norm(), nonfinite=nonfinite, loss=loss)
    assert kinds(history)[0] is CauseKind.PRECISION_OVERFLOW


def test_a_loss_scaler_that_skips_many_steps_is_a_matter_of_precision() -> None:
    history = exploding_history()
    flags = np.zeros(200, np.uint16)
    flags[20:150:10] = int(RecordFlag.SKIPPED_BY_SCALER)
    found = causes(with_series(history, flags=flags, loss_scale=np.full(200, 1024.0)))
    (precision,) = (cause for cause in found if cause.kind is CauseKind.PRECISION_OVERFLOW)
    assert dict(precision.evidence)["steps that the loss scaler skipped"] == "6.5 %"


@pytest.mark.parametrize(("threshold", "named"), [(1000.0, True), (2.5, False)])
def test_a_clip_threshold_far_above_the_usual_norm_is_named(threshold: float, named: bool) -> None:
    found = kinds(with_series(exploding_history(), clip_threshold=np.full(200, threshold)))
    assert (CauseKind.LOOSE_CLIPPING in found) is named


def test_a_slow_growth_with_small_updates_at_a_steady_rate_feeds_on_itself() -> None:
    history = exploding_history()
    assert history.layers is not None
    small = with_layers(history, update_norms=np.full_like(history.layers.norms, 0.01))
    assert kinds(small)[0] is CauseKind.BOOTSTRAPPED_TARGETS
    assert CauseKind.BOOTSTRAPPED_TARGETS not in kinds(rates(small, 4.0, since=145))


def test_a_run_to_which_nothing_happened_or_whose_gradients_vanished_has_no_cause() -> None:
    assert causes(healthy_history()) == []
    vanished = exploding_history(alerts=(make_alert(signature=Signature.VANISHING),))
    assert causes(vanished) == []


def test_the_likeliest_come_first_and_few_are_enough() -> None:
    weights = [cause.weight for cause in causes(abrupt())]
    assert weights == sorted(weights, reverse=True)
    assert 1 <= len(weights) <= 4
    assert all(0.2 <= weight <= 1.0 for weight in weights)


def test_a_run_of_which_little_is_known_has_causes_without_an_error() -> None:
    history = exploding_history(layers=None, rank_window=None, nonfinite=(), checkpoints=())
    blank = np.full(200, np.nan)
    bare = with_series(history, learning_rate=blank, loss_known=np.zeros(200, np.bool_))
    assert all(cause.kind is not CauseKind.MISSING_WARM_UP for cause in causes(bare))


def test_every_format_shows_the_causes_with_their_evidence() -> None:
    report = build(rates(exploding_history(), 4.0, since=145), NOW)
    values = json.loads(render_json(report))["causes"][0]
    assert (values["cause"], values["evidence"]["rate before"]) == ("learning_rate", "0.1")
    page = render_html(report)
    assert page.index("Likely causes") < page.index("The learning rate rose 40×") < page.index("What to try")
    text = render_markdown(report)
    assert "## Likely causes\n\n1. **The learning rate rose 40×** (likely): " in text
