from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.benchmarks.detection.labels import Label, label_of, onset_step, references, rise
from tests.benchmarks.detection.training import Fault, Spec

STEPS = 200
HEALTHY = Spec("h_any", task="waves")  # chance is 2
FAULTY = Spec("x_any", task="waves", faults=(Fault("bad_batch", 100, 50.0),))


def arrays(loss: Any = None, norm: Any = None) -> dict[str, Any]:
    loss = np.linspace(2.0, 0.5, STEPS) if loss is None else np.asarray(loss, float)
    norm = np.ones(len(loss)) if norm is None else np.asarray(norm, float)
    return {
        "loss": loss,
        "outcome": loss,
        "global_norm": norm,
        "grad_norms": np.ones((1, len(loss), 4)),
        "layer_names": np.array(["0.weight", "2.weight", "4.weight", "6.weight"]),
    }


def growth(onset: int, factor: float) -> Any:
    return factor ** np.maximum(0, np.arange(STEPS) - onset)


def test_a_run_that_learns_is_healthy_whatever_its_norm_does() -> None:
    assert label_of(HEALTHY, arrays(norm=growth(50, 1.05))) == Label("healthy")


def test_a_loss_that_is_not_finite_fails_a_run_and_the_rise_before_it_is_the_onset() -> None:
    loss = np.linspace(2.0, 0.5, STEPS)
    loss[150:] = np.nan
    assert label_of(HEALTHY, arrays(loss, growth(140, 2.0))) == Label("exploding", 142, 150)


def test_the_tenth_step_in_a_row_far_above_the_reference_fails_a_run_that_does_not_come_back() -> None:
    loss = np.where(np.arange(STEPS) < 120, 0.5, 50.0)
    assert label_of(HEALTHY, arrays(loss, growth(118, 1.5))).failure_step == 129
    loss[160:] = 0.5
    assert label_of(HEALTHY, arrays(loss, growth(118, 1.5))) == Label("healthy")


def test_a_stretch_at_the_end_above_three_times_the_reference_fails_a_run_after_25_steps() -> None:
    loss = np.where(np.arange(STEPS) < 120, 0.5, 2.0)
    assert label_of(HEALTHY, arrays(loss, growth(118, 1.5))).failure_step == 145
    loss = np.where(np.arange(STEPS) < 190, 0.5, 2.0)  # too short to say
    assert label_of(HEALTHY, arrays(loss, growth(188, 2.5))) == Label("healthy")


def test_a_loss_back_at_chance_after_learning_fails_a_run() -> None:
    loss = np.where(np.arange(STEPS) < 120, 0.9, 1.9)  # not three times the reference
    assert label_of(HEALTHY, arrays(loss, growth(118, 1.5))).failure_step == 145


def test_a_loss_that_diverges_while_the_norm_stays_is_ambiguous() -> None:
    assert label_of(HEALTHY, arrays(np.where(np.arange(STEPS) < 120, 0.5, 50.0))) == Label("ambiguous")


def test_a_run_that_fails_within_fifty_steps_explodes_whatever_its_norm_was() -> None:
    loss = np.full(STEPS, 2.0)
    loss[20:] = np.inf
    assert label_of(HEALTHY, arrays(loss)).label == "exploding"


def test_the_onset_of_a_fault_is_the_fault() -> None:
    loss = np.where(np.arange(STEPS) < 110, 0.5, np.nan)
    assert label_of(FAULTY, arrays(loss, growth(105, 3.0))) == Label("exploding", 100, 110)


@pytest.mark.parametrize(("behind", "label"), [(1.0, "spike"), (20.0, "ambiguous")])
def test_a_fault_that_comes_back_is_a_spike_and_one_that_stays_is_not(behind: float, label: str) -> None:
    norm = np.ones(STEPS)
    norm[100:103] = 40.0
    norm[120:] = behind
    assert label_of(FAULTY, arrays(norm=norm)).label == label


def test_a_spike_that_costs_most_of_what_was_learnt_has_not_recovered() -> None:
    norm = np.ones(STEPS)
    norm[100:103] = 40.0
    loss = np.where(np.arange(STEPS) < 100, 1.2, 1.8)  # of chance 2
    assert label_of(FAULTY, arrays(loss, norm)).label == "ambiguous"
    loss = np.where(np.arange(STEPS) < 100, 1.2, 1.5)
    assert label_of(FAULTY, arrays(loss, norm)).label == "spike"


@pytest.mark.parametrize("spec", [HEALTHY, FAULTY])
def test_a_network_that_ends_dead_is_neither_healthy_nor_recovered(spec: Spec) -> None:
    norm = np.ones(STEPS)
    norm[100:103] = 40.0
    values = arrays(norm=norm)
    values["grad_norms"][:, 150:, :3] = 0.0
    assert label_of(spec, values).label == "ambiguous"


def test_a_fault_that_nobody_notices_leaves_a_run_healthy() -> None:
    norm = np.ones(STEPS)
    norm[100] = 9.0
    assert label_of(FAULTY, arrays(norm=norm)) == Label("healthy")


def test_a_run_without_learning_whose_first_layers_get_no_gradient_vanishes() -> None:
    values = arrays(np.full(STEPS, 2.0))
    spec = Spec("v_any", task="waves")
    assert label_of(spec, values) == Label("healthy")
    values["grad_norms"][:, :, 0] = 1e-3
    assert label_of(spec, values) == Label("vanishing")


def test_the_reference_is_the_lowest_median_so_far_and_never_next_to_nothing() -> None:
    loss = np.concatenate([np.full(30, 4.0), np.full(30, 1.0), np.full(30, 3.0), np.full(30, 1e-6)])
    loss[40] = 1e-9  # one lucky batch
    found = references(loss, chance=2.0)
    assert found[0] == 4.0
    assert found[50] == found[80] == 1.0
    assert found[-1] == 0.1


def test_the_rise_begins_behind_the_last_usual_norm() -> None:
    norm = np.ones(100)
    norm[60] = 50.0  # a spike before it is no part of the rise
    norm[80:] = 100.0
    assert onset_step(norm, 90) == 80
    assert rise(norm, 80) == 100.0


def test_a_slow_rise_begins_where_the_norm_left_its_level_and_not_where_it_last_doubled() -> None:
    norm = 1.1 ** np.maximum(0.0, np.arange(200) - 80.0)
    assert 80 <= onset_step(norm, 190) <= 90


def test_an_explosion_that_swings_begins_with_its_first_swing() -> None:
    norm = np.ones(100)
    norm[[40, 70, 76, 83]] = 6.0  # the one at 40 stands by itself
    norm[90:] = 100.0
    assert onset_step(norm, 95) == 70
