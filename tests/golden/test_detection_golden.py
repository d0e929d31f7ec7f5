"""Real, small training runs and what the detectors say about them, frozen.

When a change of the detectors is meant, `python -m tests.golden.make_detection_traces --findings` freezes it anew.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.make_detection_traces import FOLDER, findings

FROZEN: dict[str, dict[str, list[dict[str, Any]]]] = json.loads((FOLDER / "findings.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("thin", [1, 10])
@pytest.mark.parametrize("name", sorted(FROZEN))
def test_the_findings_of_a_golden_run_are_the_frozen_ones(name: str, thin: int) -> None:
    assert findings(FOLDER / f"{name}.npz", thin) == FROZEN[name][f"every_{thin}"]


@pytest.mark.parametrize("cadence", ["every_1", "every_10"])
def test_what_is_frozen_is_what_the_runs_are_about(cadence: str) -> None:
    def first(name: str, severity: str) -> dict[str, Any]:
        return next(each for each in FROZEN[name][cadence] if each["severity"] == severity)

    assert FROZEN["healthy"][cadence] == []
    assert {each["severity"] for each in FROZEN["one_bad_batch"][cadence]} == {"warning", "none"}
    assert (first("one_bad_batch", "warning")["signature"], first("one_bad_batch", "warning")["step"]) == ("spike", 180)
    assert {each["signature"] for each in FROZEN["deep_sigmoids"][cadence]} == {"vanishing"}
    fault = first("corrupted_shard_on_rank_1", "critical")
    assert (fault["signature"], fault["step"], fault["leading_rank"]) == ("runaway", 200, 1)
    ramp = first("learning_rate_ramp", "critical")
    assert ramp["signature"] == "runaway"
    assert 150 < ramp["step"] < 220  # the loss becomes infinite at 233


@pytest.mark.parametrize("cadence", ["every_1", "every_10"])
@pytest.mark.parametrize(
    ("name", "signature", "severity", "between"),
    [
        ("deep_relus_of_large_gain", "depth_growth", "warning", (0, 16)),
        ("loss_scaler_at_its_floor", "loss_scale_collapse", "critical", (150, 230)),
        ("overflow_in_half_precision", "nonfinite", "critical", (180, 180)),
        ("rise_behind_the_clip", "clip_saturation", "warning", (60, 180)),
        ("sidelined_branch", "dead_layer", "info", (255, 259)),
        ("recurrent_weights_that_grow", "recurrent_gain", "warning", (64, 200)),
        ("replica_that_kept_its_own_gradients", "replica_desync", "critical", (150, 150)),
        ("rank_2_away_for_a_while", "stalled", "warning", (163, 163)),
        ("wild_targets_on_rank_2", "rank_outlier", "warning", (160, 160)),
        ("targets_that_move_away", "loss_divergence", "critical", (130, 200)),
    ],
)
def test_each_signature_has_a_run_in_which_it_is_told(
    cadence: str, name: str, signature: str, severity: str, between: tuple[int, int]
) -> None:
    told = [each for each in FROZEN[name][cadence] if (each["signature"], each["severity"]) == (signature, severity)]
    assert told
    assert between[0] <= told[0]["step"] <= between[1]


@pytest.mark.parametrize("cadence", ["every_1", "every_10"])
@pytest.mark.parametrize(
    ("name", "signature", "rank"),
    [
        ("replica_that_kept_its_own_gradients", "replica_desync", 1),
        ("rank_2_away_for_a_while", "stalled", 2),
        ("wild_targets_on_rank_2", "rank_outlier", 2),
        ("wild_targets_on_rank_2", "runaway", 2),
    ],
)
def test_what_one_rank_did_is_said_of_that_rank(cadence: str, name: str, signature: str, rank: int) -> None:
    told = [each for each in FROZEN[name][cadence] if each["signature"] == signature and each["severity"] != "none"]
    assert {each["leading_rank"] for each in told} == {rank}


@pytest.mark.parametrize("cadence", ["every_1", "every_10"])
@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("recurrent_weights_that_grow", "recurrent_gain"),
        ("replica_that_kept_its_own_gradients", "replica_desync"),
        ("rank_2_away_for_a_while", "stalled"),
        ("targets_that_move_away", "loss_divergence"),
    ],
)
def test_nothing_else_is_told_where_only_one_thing_happens(cadence: str, name: str, signature: str) -> None:
    assert {each["signature"] for each in FROZEN[name][cadence]} == {signature}
