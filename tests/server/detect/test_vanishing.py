"""Gradients too small to learn from: a warning, only where nothing is learnt, never an explosion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from seismograd_server.model import ClosedBlock, Severity, Signature
from tests.support.closed import findings_of, layout, noisy, run_of, told

STEPS = 400
NAMES = tuple(f"layers.{index}.weight" for index in range(9))


def deep_run(octaves: npt.NDArray[np.float64], loss: npt.NDArray[np.float64] | None) -> ClosedBlock:
    """Nine layers at these levels, steady."""
    norms = (noisy(STEPS)[:, None] * 2.0**octaves).astype(np.float32)
    block = run_of(np.sqrt(np.square(norms, dtype=np.float64).sum(axis=1)), layout=layout(NAMES))
    if loss is not None:
        block = replace(block, loss=loss, loss_known=np.ones(STEPS, dtype=np.bool_))
    return replace(block, layer_norms=norms)


FLAT, FALLING = np.full(STEPS, 2.3), np.geomspace(2.3, 0.05, STEPS)
FADING = np.linspace(-30.0, 0.0, 9)  # from the input to the output


def test_fading_layers_of_a_model_that_does_not_learn_are_a_warning() -> None:
    found = findings_of(deep_run(FADING, FLAT))
    assert [(each.signature, each.severity) for each in found] == [(Signature.VANISHING, Severity.WARNING)]
    assert found[0].step < 200
    assert found[0].evidence.leading_layer == NAMES[0]


def test_layers_without_any_gradient_are_said_to_have_none() -> None:
    found = findings_of(deep_run(np.where(np.arange(9) < 6, -np.inf, 0.0), FLAT))
    assert found[0].reason == "half the layers receive no gradient at all"


def test_the_same_layers_of_a_model_that_learns_are_nobody_s_business() -> None:
    assert findings_of(deep_run(FADING, FALLING)) == []


def test_even_layers_of_a_model_that_does_not_learn_are_not_vanishing() -> None:
    assert findings_of(deep_run(np.linspace(-3.0, 0.0, 9), FLAT)) == []


@pytest.mark.parametrize(("octaves", "warned"), [(FADING / 3.0, False), (FADING, True)])
def test_without_a_loss_more_is_asked_for(octaves: npt.NDArray[np.float64], warned: bool) -> None:
    assert bool(findings_of(deep_run(octaves, None))) is warned


def test_a_norm_that_falls_a_thousandfold_without_learning_is_a_warning() -> None:
    falling = 2.0 ** -np.minimum(14.0, np.arange(STEPS) / 10.0)
    assert told(findings_of(run_of(falling, loss=FLAT)), Signature.VANISHING)
    assert findings_of(run_of(falling, loss=FALLING)) == []
    assert findings_of(run_of(falling)) == []


def test_it_is_over_when_the_model_learns() -> None:
    loss = np.where(np.arange(STEPS) < 200, 2.3, 0.5)
    assert [each for _, each in told(findings_of(deep_run(FADING, loss)), Signature.VANISHING)] == [
        Severity.WARNING,
        Severity.NONE,
    ]
