"""The gain of recurrent matrices: risen and rising, in real small training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from torch import nn

from seismograd_server.model import ClosedBlock, Quantity, Severity, Signature
from tests.support.closed import findings_of, noisy, run_of, told
from tests.support.networks import Recurrent, train_recurrent

STEPS = 400


def run_with(gain: npt.NDArray[np.float64], every: int = 10) -> ClosedBlock:
    """The second of three layers is recurrent; a square Linear has a large gain all the time."""
    gains = np.full((len(gain), 3), np.nan, dtype=np.float32)
    gains[::every, 1], gains[::every, 2] = gain[::every], 50.0
    return replace(run_of(noisy(len(gain))), sampled={Quantity.SPECTRAL_GAIN: gains})


def test_a_gain_that_has_risen_above_one_and_rises_warns_and_names_the_matrix() -> None:
    found = findings_of(run_with(np.linspace(0.9, 2.5, STEPS)))
    assert told(found, Signature.RECURRENT_GAIN)[0][1] is Severity.WARNING
    assert found[0].evidence.leading_layer == "rnn.weight_hh_l0"
    assert found[0].evidence.value == pytest.approx(1.5 * 1.15, abs=0.1)


@pytest.mark.parametrize(("first", "last"), [(0.2, 0.9), (1.15, 1.4), (3.0, 3.0), (3.0, 1.0)])
def test_a_gain_below_one_or_steady_is_none(first: float, last: float) -> None:
    assert told(findings_of(run_with(np.linspace(first, last, STEPS))), Signature.RECURRENT_GAIN) == []


def test_it_is_over_when_the_gain_comes_down() -> None:
    gain = np.concatenate((np.linspace(0.9, 2.0, 200), np.linspace(2.0, 0.8, 200)))
    assert [severity for _, severity in told(findings_of(run_with(gain)), Signature.RECURRENT_GAIN)] == [
        Severity.WARNING,
        Severity.NONE,
    ]


def test_it_is_seen_in_a_real_network_before_the_norm_explodes() -> None:
    block = train_recurrent(nn.RNN, steps=200, growth=0.01)
    found = findings_of(block)
    assert found[0].signature is Signature.RECURRENT_GAIN
    assert found[0].evidence.leading_layer == "rnn.weight_hh_l0"
    usual = np.median(block.global_norm[40:60])
    exploded = 60 + np.flatnonzero(block.global_norm[60:] > 8.0 * usual)
    assert len(exploded)
    assert found[0].step < exploded[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.RNN])
def test_it_is_absent_in_healthy_real_networks(kind: Recurrent) -> None:
    block = train_recurrent(kind, steps=240)
    assert np.nanmax(block.sampled[Quantity.SPECTRAL_GAIN]) > 1.0
    assert told(findings_of(block), Signature.RECURRENT_GAIN) == []
