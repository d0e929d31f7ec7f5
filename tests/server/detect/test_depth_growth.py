"""Growth over the depth: the line as numpy fits it, told apart from vanishing in real networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seismograd_server.detect.depth_growth import DepthGrowthDetector, fit_depth, kinds_of, may_grow
from seismograd_server.model import ClosedBlock, Layout, Severity, Signature
from tests.support.closed import findings_of, layout, noisy, run_of, told
from tests.support.networks import train_perceptron

STEPS = 300
NAMES = tuple(f"layers.{index}.weight" for index in range(12))


def deep_run(octaves: npt.NDArray[np.float64], names: tuple[str, ...] = NAMES) -> ClosedBlock:
    norms = (noisy(STEPS, octaves=0.2)[:, None] * 2.0**octaves).astype(np.float32)
    block = run_of(np.sqrt(np.square(norms, dtype=np.float64).sum(axis=1)), layout=layout(names))
    return replace(block, layer_norms=norms)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-1.8, 1.8), st.integers(6, 60), st.booleans())
def test_the_line_is_the_one_that_numpy_fits(seed: int, slope: float, layers: int, holes: bool) -> None:
    generator = np.random.default_rng(seed)
    numels = generator.integers(1, 10_000, layers)
    shape = Layout(
        1, tuple(f"{each}.weight" for each in range(layers)), ("",) * layers, tuple(range(layers)),
        tuple(numels.tolist()), ("float32",) * layers,
    )  # fmt: skip
    levels = generator.normal(0.0, 1.0, layers) - slope * np.arange(layers)
    norms = (np.sqrt(numels) * 2.0**levels).astype(np.float32)
    known = np.ones(layers, dtype=np.bool_)
    if holes:
        known[generator.integers(0, layers)] = False
        norms[~known] = np.nan
    (kind,) = kinds_of(shape, 6)
    found = fit_depth(kind, norms, 6)
    if known.sum() < 6:
        assert found is None
        return
    depths = np.flatnonzero(known)
    expected = np.polyfit(depths, levels[known], 1)
    assert found is not None
    assert found.octaves == pytest.approx(-expected[0], abs=1e-3)
    correlation = np.corrcoef(depths, levels[known])[0, 1]
    assert found.fit == pytest.approx(correlation**2, abs=1e-3)


def test_growth_from_the_last_to_the_first_layer_warns_within_the_first_steps() -> None:
    (found,) = findings_of(deep_run(np.linspace(11.0, 0.0, 12)))
    assert (found.signature, found.severity, found.step) == (Signature.DEPTH_GROWTH, Severity.WARNING, 2)
    assert found.reason == "gradients grow 2.00 x per layer on their way back, 2^11 over 12 weights"
    assert found.evidence.leading_layer == NAMES[0]


def test_it_is_over_when_the_layers_are_even_again() -> None:
    block = deep_run(np.linspace(11.0, 0.0, 12))
    even = np.repeat(noisy(STEPS)[:, None], 12, axis=1).astype(np.float32)
    block = replace(block, layer_norms=np.where((np.arange(STEPS) < 100)[:, None], block.layer_norms, even))
    found = told(findings_of(block), Signature.DEPTH_GROWTH)
    assert [severity for _, severity in found] == [Severity.WARNING, Severity.NONE]


@pytest.mark.parametrize(
    "octaves",
    [np.linspace(0.0, 11.0, 12), np.linspace(4.0, 0.0, 12), np.where(np.arange(12) == 0, 12.0, 0.0)],
    ids=["towards the last", "a little", "one layer alone"],
)
def test_what_is_not_growth_over_the_depth(octaves: npt.NDArray[np.float64]) -> None:
    assert told(findings_of(deep_run(octaves)), Signature.DEPTH_GROWTH) == []


def test_norms_of_a_normalisation_and_embeddings_are_no_links_of_the_chain() -> None:
    names = ("embedding.weight", *(f"blocks.{index}.ln1.weight" for index in range(11)))
    assert kinds_of(layout(names), 6) == ()


@pytest.mark.parametrize(
    ("depth", "activation", "gain", "steps", "expected"),
    [
        (10, nn.ReLU, 2.0 * 2.0**0.5, 16, {Signature.DEPTH_GROWTH}),
        (30, nn.Tanh, 3.0, 16, {Signature.DEPTH_GROWTH}),
        (60, nn.Tanh, 3.0, 16, {Signature.DEPTH_GROWTH}),
        (10, nn.Tanh, 0.5, 170, {Signature.VANISHING}),
        (30, nn.ReLU, 0.5 * 2.0**0.5, 170, {Signature.VANISHING}),
        (60, nn.Sigmoid, 1.0, 170, {Signature.VANISHING}),
        (10, nn.Tanh, 1.0, 170, set()),
        (30, nn.ReLU, 2.0**0.5, 170, set()),
        (60, nn.Tanh, 1.2, 40, set()),
    ],
)
def test_growth_and_vanishing_are_told_apart_on_real_networks(
    depth: int, activation: type[nn.Module], gain: float, steps: int, expected: set[Signature]
) -> None:
    found = findings_of(train_perceptron(depth, activation, gain, steps))
    assert {each.signature for each in found} == expected
    assert {each.severity for each in found} <= {Severity.WARNING}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 1.2), st.sampled_from([0.0, np.nan, np.inf]), st.floats(0.0, 0.3))
def test_a_look_at_many_steps_at_once_misses_none_that_would_find_growth(
    seed: int, slope: float, hole: float, share: float
) -> None:
    generator = np.random.default_rng(seed)
    detector, shape = DepthGrowthDetector(), layout(NAMES)
    levels = generator.normal(0.0, 0.5, (40, 12)) - np.linspace(0.0, 2.0 * slope, 40)[:, None] * np.arange(12)
    norms = (2.0**levels).astype(np.float32)
    norms[generator.random(norms.shape) < share] = hole

    doubts = may_grow(detector.kinds(shape), norms, detector.config.total_octaves)

    doubtful = [row for row, doubt in enumerate(doubts) if doubt]
    grown = [row for row in range(40) if detector._grown(shape, norms[row]) is not None]
    assert set(grown) <= set(doubtful)
    if not share:
        assert len(doubtful) - len(grown) <= 12, "those without growth are mostly passed over"
