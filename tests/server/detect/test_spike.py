"""One step far above everything: a warning at once, and no more than that when it comes back."""

from __future__ import annotations

import numpy as np

from seismograd_server.model import RecordFlag, Severity, Signature
from tests.support.closed import LAYERS, findings_of, noisy, run_of, told, with_ratio

STEPS, AT = 200, 120


def spiky(factor: float, length: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    norms = noisy(STEPS)
    norms[AT : AT + length] = factor
    return norms


def test_a_spike_warns_at_its_own_step_and_ends_when_the_norm_is_back() -> None:
    found = findings_of(run_of(spiky(300.0)))
    assert told(found, Signature.SPIKE) == [(AT, Severity.WARNING), (AT + 8, Severity.NONE)]
    assert told(found, Signature.RUNAWAY) == []
    evidence = found[0].evidence
    assert evidence.value == 300.0
    assert evidence.baseline is not None
    assert 0.8 < evidence.baseline < 1.25
    assert evidence.threshold is not None
    assert evidence.baseline < evidence.threshold < 300.0
    assert found[0].since_step == AT


def test_bad_data_of_two_steps_stay_a_warning() -> None:
    loss = np.full(STEPS, 2.0) + np.random.default_rng(0).normal(0.0, 0.1, STEPS)
    loss[AT : AT + 2] = 500.0
    found = findings_of(run_of(spiky(300.0, length=2), loss=loss))
    assert {each.signature for each in found} == {Signature.SPIKE}


def test_a_long_excursion_stays_a_warning_while_updates_are_small() -> None:
    loss = np.full(STEPS, 2.0) + np.random.default_rng(0).normal(0.0, 0.1, STEPS)
    loss[AT : AT + 30] *= 20.0
    block = with_ratio(run_of(spiky(40.0, length=30), loss=loss), np.full(STEPS, 2.0**-9))
    assert {each.severity for each in findings_of(block)} == {Severity.WARNING, Severity.NONE}


def test_ordinary_noise_is_silent_also_where_it_is_wild() -> None:
    assert findings_of(run_of(noisy(2000, octaves=0.3))) == []
    assert findings_of(run_of(noisy(2000, octaves=1.5))) == []


def test_a_step_that_the_scaler_skipped_neither_warns_nor_teaches() -> None:
    flags = np.zeros(STEPS, dtype=np.uint16)
    flags[AT::3] = RecordFlag.SKIPPED_BY_SCALER
    norms = noisy(STEPS)
    norms[AT::3] = 1e9
    found = findings_of(run_of(norms, flags=flags))
    assert {each.signature for each in found} <= {Signature.LOSS_SCALE_COLLAPSE}  # which is about the skipping itself


def test_the_layer_that_jumped_is_named() -> None:
    block = run_of(spiky(300.0))
    layers = block.layer_norms
    layers[AT] = layers[AT - 1]
    layers[AT, 1] = 300.0
    found = findings_of(block)
    assert found[0].evidence.leading_layer == LAYERS[1]
    assert found[0].reason.endswith(f"led by {LAYERS[1]}")
