"""What the configuration and the weights say of the cause, and what the summary says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from seismograd_server.model import Evidence, RunKey, Signature
from seismograd_server.reading.history import History
from seismograd_server.reading.layers import samples_of
from seismograd_server.report.build import build
from seismograd_server.report.configuration import Difference
from seismograd_server.report.contents import CauseKind, Report
from seismograd_server.report.nearest import Nearest
from tests.support.histories import NOW, exploding_history, healthy_history, make_alert, make_rank_window

MATRICES = 4


def given(config: Any, history: History | None = None) -> History:
    history = history or exploding_history()
    return replace(history, run=replace(history.run, config_json=json.dumps(config)))


def growing(rates: list[float], every: int = 1, until: int = 1000, before: int = 0, since: int = 0) -> History:
    """The weights of each tensor grow by its own share a step, from a step on; known from so long before the window."""
    history = exploding_history()
    window = history.layers
    assert window is not None
    steps = np.arange(int(window.steps[0]) - before, int(window.steps[-1]) + 1)
    norms = 10.0 * (1.0 + np.array(rates)[None, :]) ** np.maximum(0, steps - max(since, int(steps[0])))[:, None]
    norms[(steps % every != 0) | (steps > until)] = np.nan
    weights = norms.astype(np.float32)
    return replace(
        history,
        layers=replace(window, weight_norms=weights[before:]),
        weights=samples_of(window.names, steps, weights),
    )


def kinds(report: Report) -> list[CauseKind]:
    return [cause.kind for cause in report.causes]


def titles(report: Report) -> list[str]:
    return [advice.title for advice in report.advice]


@pytest.mark.parametrize("key", ["weight_decay", "wd", "WD", "weightDecay"])
@pytest.mark.parametrize("value", [-0.025, "-0.025"])
def test_a_weight_decay_below_zero_is_the_likeliest_cause_and_the_first_thing_to_mend(key: str, value: Any) -> None:
    report = build(given({"optimizer": {key: value}}), NOW)
    assert kinds(report)[0] is CauseKind.WEIGHT_GROWTH
    assert dict(report.causes[0].evidence) == {f"optimizer.{key}": "−0.025"}
    assert titles(report)[0] == f"Set optimizer.{key} to zero or above: it is −0.025"
    assert not any("learning rate" in title for title in titles(report))
    assert "likely cause: the weight decay is below zero" in report.summary[2]


@pytest.mark.parametrize(
    "config",
    [{"weight_decay": 0.01}, {"weight_decay": 0}, {"weight_decay": "off"}, {"weight_decay_schedule": -1}, {}, [], None],
)
def test_other_configurations_say_nothing_of_a_weight_decay(config: Any) -> None:
    report = build(given(config), NOW)
    assert CauseKind.WEIGHT_GROWTH not in kinds(report)


def test_a_run_that_is_well_is_not_accused_of_its_weight_decay() -> None:
    report = build(given({"weight_decay": -0.025}, healthy_history()), NOW)
    assert report.causes == ()


def test_weights_that_all_grow_alike_are_named_with_their_rate_though_nobody_gave_such_a_decay() -> None:
    report = build(growing([0.025] * MATRICES, every=5), NOW)
    assert kinds(report)[0] is CauseKind.WEIGHT_GROWTH
    (label, value) = report.causes[0].evidence[0]
    assert (label, value) == ("all weight matrices grew alike, by", "2.5 % a step")


def test_weights_that_are_seldom_sampled_are_known_from_before_the_incident() -> None:
    report = build(growing([0.025] * MATRICES, every=40, before=110), NOW)
    assert kinds(report)[0] is CauseKind.WEIGHT_GROWTH


def test_a_schedule_that_made_them_grow_lately_does_not_hide_behind_the_time_before() -> None:
    report = build(growing([0.025] * MATRICES, every=10, before=110, since=120), NOW)
    assert dict(report.causes[0].evidence) == {"all weight matrices grew alike, by": "2.5 % a step"}


@pytest.mark.parametrize(
    "history",
    [
        growing([0.001] * MATRICES),  # as learning does it
        growing([0.01, 0.02, 0.03, 0.04]),  # each for itself
        growing([-0.025] * MATRICES),
        growing([0.3] * MATRICES),  # updates of Adam, whose rate is far too high
        growing([0.025] * MATRICES, every=20, until=150),  # two samples: no rate
        growing([0.025] * MATRICES, every=1000),  # none
    ],
    ids=["slowly", "apart", "shrinking", "at once", "seldom", "never"],
)
def test_weights_that_do_not_grow_alike_are_not(history: History) -> None:
    assert CauseKind.WEIGHT_GROWTH not in kinds(build(history, NOW))


# --------------------------------------------------------------------------------------- beside the healthy run


def nearest(count: int) -> Nearest:
    found = [Difference("configuration", f"key{place}", (f"{place}", f"{place + 1}")) for place in range(count)]
    return Nearest(RunKey("mt", "calm"), 3, (*found, Difference("surroundings", "world size", ("1", "2"))))


def test_settings_of_a_healthy_run_are_to_be_restored_where_they_are_few() -> None:
    report = build(exploding_history(), NOW, nearest=nearest(2))
    assert CauseKind.CHANGED_SETTING in kinds(report)
    (advice,) = [each for each in report.advice if "calm" in each.title]
    assert advice.title == "Go back to the settings of calm, one at a time: key0, key1"
    assert advice.numbers == (("key0", "1 → 0"), ("key1", "2 → 1"))
    assert report.nearest is not None


@pytest.mark.parametrize("found", [None, nearest(0), nearest(5)], ids=["no such run", "the same", "too many"])
def test_settings_are_no_trace_where_nothing_or_too_much_differs(found: Nearest | None) -> None:
    report = build(exploding_history(), NOW, nearest=found)
    assert CauseKind.CHANGED_SETTING not in kinds(report)
    assert not any("Go back" in title for title in titles(report))


def test_one_rank_that_stood_apart_is_no_matter_of_settings() -> None:
    history = exploding_history()
    assert history.layers is not None
    window = make_rank_window(history.layers.steps, outlier=1, begins=149)
    report = build(replace(history, rank_window=window), NOW, nearest=nearest(2))
    assert CauseKind.CHANGED_SETTING not in kinds(report)
    assert "likely cause: rank 1" in report.summary[2]
    assert "on rank 1" in report.summary[1]


@pytest.mark.parametrize(
    ("signature", "named"), [(Signature.RUNAWAY, False), (Signature.NONFINITE, True), (Signature.RANK_OUTLIER, True)]
)
def test_the_rank_with_the_largest_numbers_is_not_blamed_for_what_all_ranks_did(
    signature: Signature, named: bool
) -> None:
    alert = make_alert(signature=signature, evidence=Evidence(leading_layer="head.weight", leading_rank=1))
    report = build(exploding_history(alerts=(alert,)), NOW)
    assert ("on rank 1" in report.summary[1]) is named
