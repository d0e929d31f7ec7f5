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


def run_with(
    gain: npt.NDArray[np.float64],
    *,
    loss: npt.NDArray[np.float64] | None = None,
    norm: npt.NDArray[np.float64] | None = None,
    every: int = 10,
) -> ClosedBlock:
    """The second of three layers is recurrent; a square Linear has a large gain all the time. Nothing is learnt."""
    gains = np.full((len(gain), 3), np.nan, dtype=np.float32)
    gains[::every, 1], gains[::every, 2] = gain[::every], 50.0
    scatter = np.random.default_rng(3).normal(0.0, 0.05, len(gain))
    losses = (np.ones(len(gain)) if loss is None else loss) * 2.0**scatter
    norms = noisy(len(gain)) * (1.0 if norm is None else norm)
    block = run_of(norms) if loss is None and norm is not None else run_of(norms, loss=losses)
    return replace(block, sampled={Quantity.SPECTRAL_GAIN: gains})


def test_a_gain_that_has_risen_above_one_and_rises_warns_and_names_the_matrix() -> None:
    found = findings_of(run_with(np.linspace(0.9, 2.5, STEPS)))
    assert told(found, Signature.RECURRENT_GAIN)[0][1] is Severity.WARNING
    assert found[0].evidence.leading_layer == "rnn.weight_hh_l0"
    assert found[0].evidence.value == pytest.approx(1.5 * 1.15, abs=0.1)


@pytest.mark.parametrize(("first", "last"), [(0.2, 0.9), (1.15, 1.4), (3.0, 3.0), (3.0, 1.0)])
def test_a_gain_below_one_or_steady_is_none(first: float, last: float) -> None:
    assert told(findings_of(run_with(np.linspace(first, last, STEPS))), Signature.RECURRENT_GAIN) == []


@pytest.mark.parametrize("last", [2.0, 8.0])
def test_a_gain_that_rises_while_the_model_learns_is_none(last: float) -> None:
    gain, loss = np.geomspace(1.1, last, STEPS), np.geomspace(3.0, 0.8, STEPS)
    assert told(findings_of(run_with(gain, loss=loss)), Signature.RECURRENT_GAIN) == []


def test_a_gain_that_goes_on_rising_when_no_more_is_learnt_warns_until_the_loss_falls_again() -> None:
    loss = np.concatenate((np.geomspace(3.0, 1.5, 100), np.full(200, 1.5), np.geomspace(1.5, 0.8, 100)))
    (began, warning), (ended, over) = told(
        findings_of(run_with(np.geomspace(1.1, 6.0, STEPS), loss=loss)), Signature.RECURRENT_GAIN
    )
    assert (warning, over) == (Severity.WARNING, Severity.NONE)
    assert 120 < began < 280
    assert 300 < ended < 350


@pytest.mark.parametrize(("rise", "expected"), [(1.0, []), (2.0, []), (16.0, [Severity.WARNING])])
def test_where_no_loss_is_known_the_norm_must_rise_with_the_gain(rise: float, expected: list[Severity]) -> None:
    found = told(
        findings_of(run_with(np.geomspace(1.1, 4.0, STEPS), norm=np.geomspace(1.0, rise, STEPS))),
        Signature.RECURRENT_GAIN,
    )
    assert [severity for _, severity in found][:1] == expected


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
