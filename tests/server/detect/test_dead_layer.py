"""Layers without any gradient, counted as a slow look would count them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd_server.detect.dead_layer import DeadLayerConfig, DeadLayerDetector
from seismograd_server.detect.watch import RunWatch, WatchConfig
from seismograd_server.model import ClosedBlock, Severity, Signature
from tests.support.closed import LAYERS, findings_of, noisy, run_of, told

STEPS = 700


def run_with(layer_norms: npt.NDArray[np.float32]) -> ClosedBlock:
    return replace(run_of(noisy(len(layer_norms))), layer_norms=layer_norms)


def zero_from(layer: int, first: int, last: int = STEPS) -> npt.NDArray[np.float32]:
    norms = np.repeat(noisy(STEPS)[:, None], 3, axis=1).astype(np.float32)
    norms[first:last, layer] = 0.0
    return norms


def test_a_layer_without_gradient_is_told_of_once_by_name() -> None:
    found = findings_of(run_with(zero_from(1, 100)))
    assert told(found, Signature.DEAD_LAYER) == [(355, Severity.INFO)]
    assert found[0].evidence.leading_layer == LAYERS[1]
    assert LAYERS[1] in found[0].reason


def test_it_is_over_when_the_gradient_comes_back() -> None:
    found = told(findings_of(run_with(zero_from(1, 100, 500))), Signature.DEAD_LAYER)
    assert found == [(355, Severity.INFO), (500, Severity.NONE)]


def test_an_expert_that_some_batches_do_not_use_is_alive() -> None:
    norms = zero_from(2, 0)
    norms[::200, 2] = 0.1
    assert told(findings_of(run_with(norms)), Signature.DEAD_LAYER) == []


def test_a_layer_that_is_not_known_is_not_dead() -> None:
    norms = zero_from(0, 0, 0)
    norms[:, 1] = np.nan
    assert told(findings_of(run_with(norms)), Signature.DEAD_LAYER) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.9, 0.99]), st.lists(st.integers(0, 90), max_size=6))
def test_any_cut_counts_zeros_like_a_slow_look(seed: int, share: float, cuts: list[int]) -> None:
    generator = np.random.default_rng(seed)
    norms = np.where(generator.random((90, 3)) < share, 0.0, 1.0).astype(np.float32)
    expected = []
    for layer in range(3):
        count = 0
        for value in norms[:, layer]:
            count = count + 1 if value == 0.0 else 0
        expected.append(count)
    detector, start = DeadLayerDetector(), 0
    for stop in [*sorted(cuts), 90]:
        detector._count(norms[start:stop]) if stop > start else None
        start = stop
    assert (detector.zero_for.tolist() or [0, 0, 0]) == expected


def test_the_number_of_steps_can_be_set() -> None:
    watch = RunWatch(WatchConfig(dead_layer=DeadLayerConfig(dead_after_steps=20)))
    assert told(findings_of(run_with(zero_from(1, 100)), watch), Signature.DEAD_LAYER) == [(119, Severity.INFO)]
