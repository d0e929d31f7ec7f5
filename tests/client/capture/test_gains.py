"""Spectral gains against numpy's singular values, in every type, and what must not disturb them."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seismograd.capture import gains
from seismograd.capture.gains import GainSampler
from seismograd.capture.layout import Layout
from seismograd.record import Quantity
from tests.client.capture.conftest import Watched

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SIGMOID, TANH = 0.25, 1.0


def layout_of(model: nn.Module) -> Layout:
    return Layout(torch.optim.SGD(model.parameters(), lr=0.1))


def true_gain(weight: Tensor, slopes: list[float]) -> float:
    blocks = np.split(weight.detach().double().numpy(), len(slopes))
    return max(slope * float(np.linalg.norm(block, 2)) for block, slope in zip(blocks, slopes, strict=True))


def recurrent(model: nn.Module) -> Tensor:
    return model.get_parameter("weight_hh_l0")


def settled(sampler: GainSampler, layout: Layout, samples: int = 20) -> dict[int, float]:
    for _ in range(samples):
        found = sampler.measure(layout)
    assert found is not None
    return dict(zip(found[0], found[1].tolist(), strict=True))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: nn.RNN(5, 24), {"weight_hh_l0": [TANH]}),
        (lambda: nn.RNNCell(5, 24), {"weight_hh": [TANH]}),
        (
            lambda: nn.GRU(3, 17, 2),
            {"weight_hh_l0": [SIGMOID, SIGMOID, TANH], "weight_hh_l1": [SIGMOID, SIGMOID, TANH]},
        ),
        (lambda: nn.LSTM(3, 16, proj_size=6), {"weight_hh_l0": [SIGMOID, SIGMOID, TANH, SIGMOID]}),
        (lambda: nn.Sequential(nn.Linear(31, 31), nn.Linear(31, 2), nn.Embedding(9, 9)), {"0.weight": [TANH]}),
    ],
    ids=["rnn", "rnn cell", "gru", "lstm", "linear"],
)
def test_gains_converge_to_the_largest_slope_times_singular_value(
    build: Callable[[], nn.Module], expected: dict[str, list[float]], dtype: torch.dtype
) -> None:
    model = build().to(dtype)
    named = dict(model.named_parameters())
    found = settled(GainSampler(model), layout_of(model))

    assert [list(named)[column] for column in found] == list(expected)
    for (name, slopes), gain in zip(expected.items(), found.values(), strict=True):
        true = true_gain(named[name], slopes)
        assert gain == pytest.approx(true, rel=5e-3)
        assert gain <= true * (1 + 1e-5)


def test_half_precision_is_widened_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(40, 40).to(torch.bfloat16)
    whole = settled(GainSampler(model), layout_of(model), 3)
    monkeypatch.setattr(gains, "_COPIED_BYTES", 4 * 40 * 7)

    assert settled(GainSampler(model), layout_of(model), 3)[0] == pytest.approx(whole[0], rel=1e-5)


@pytest.mark.parametrize("most_bytes", [4 * 16 * 16, 4 * 4 * 16 * 16, 2**22], ids=["one", "a few", "all"])
def test_matrices_of_a_kind_go_together_and_each_has_its_own_gain(
    most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gains, "_COPIED_BYTES", most_bytes)
    model = nn.Sequential(*[nn.Linear(16, 16) for _ in range(9)], nn.Linear(8, 8), nn.RNN(8, 8))
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            parameter.mul_(1.0 + place)
    layout = layout_of(model)

    found = settled(GainSampler(model), layout, 40)

    for column, gain in found.items():
        assert gain == pytest.approx(true_gain(layout.parameters[column], [TANH]), rel=2e-2)
    assert len(found) == 11


def test_a_growing_matrix_is_followed_from_sample_to_sample() -> None:
    model = nn.RNN(4, 16)
    layout, sampler = layout_of(model), GainSampler(model)
    settled(sampler, layout)
    with torch.no_grad():
        recurrent(model).mul_(3.0)
    found = sampler.measure(layout)

    assert found is not None
    assert float(found[1]) == pytest.approx(true_gain(recurrent(model), [TANH]), rel=5e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_gains_whose_squares_leave_float32_are_true(scale: float) -> None:
    model = nn.Linear(12, 12)
    with torch.no_grad():
        model.weight.mul_(scale)

    assert settled(GainSampler(model), layout_of(model))[0] == pytest.approx(true_gain(model.weight, [TANH]), rel=5e-3)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_matrix_that_was_zero_or_not_finite_is_measured_again_when_it_has_recovered(value: float) -> None:
    model = nn.Linear(12, 12)
    layout, sampler = layout_of(model), GainSampler(model)
    sound = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.fill_(value)
    broken = settled(sampler, layout, 2)[0]
    with torch.no_grad():
        model.weight.copy_(sound)

    assert broken == 0.0 if value == 0.0 else math.isnan(broken)
    assert settled(sampler, layout)[0] == pytest.approx(true_gain(model.weight, [TANH]), rel=5e-3)


def test_autocast_does_not_coarsen_the_iteration_and_no_random_number_is_drawn() -> None:
    model = nn.Linear(16, 16)
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = settled(GainSampler(model), layout_of(model), 30)

    assert found[0] == pytest.approx(true_gain(model.weight, [TANH]), rel=1e-4)
    assert torch.equal(torch.get_rng_state(), before)


class Scaled(nn.LSTM):
    """An LSTM with a parameter that is called like one of its matrices."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.weight_hh_scale = nn.Parameter(torch.ones(16))


def test_what_is_called_like_a_recurrent_matrix_and_is_none_has_no_gain() -> None:
    normalised = nn.LSTM(4, 4)
    torch.nn.utils.parametrizations.weight_norm(normalised, "weight_hh_l0")
    flat = nn.LSTM(4, 4)
    flat.weight_hh_l0 = nn.Parameter(recurrent(flat).detach().flatten())

    assert [len(settled(GainSampler(model), layout_of(model), 1)) for model in (Scaled(), nn.LSTM(4, 4))] == [1, 1]
    assert GainSampler(normalised).measure(layout_of(normalised)) is None
    assert GainSampler(flat).measure(layout_of(flat)) is None


def test_matrices_that_the_first_forward_pass_makes_have_a_gain_from_then_on() -> None:
    model = nn.LazyLinear(6)
    layout, sampler = layout_of(model), GainSampler(model)
    assert not sampler.are_in(layout)
    model(torch.ones(2, 6))

    assert sampler.are_in(layout)
    assert settled(sampler, layout)[0] == pytest.approx(true_gain(model.weight, [TANH]), rel=5e-3)


def test_a_failure_to_find_matrices_costs_their_gains_and_nothing_else(
    watch: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with mock.patch.object(gains, "_batches", side_effect=RuntimeError("no memory")):
        watched = watch(model, optimizer)
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        (record,) = watched.records()

    assert set(record.tensors) == {Quantity.WEIGHT_NORM, Quantity.UPDATE_NORM, Quantity.MAX_ABS}
    assert "spectral gain is off" in caplog.text


def test_models_without_such_a_matrix_have_no_gain() -> None:
    model = nn.Linear(4, 3)

    assert GainSampler(model).measure(layout_of(model)) is None
    assert GainSampler(None).measure(layout_of(nn.Linear(4, 4))) is None


def test_the_gain_of_a_recurrent_model_is_in_the_sampled_records(watch: Callable[..., Watched]) -> None:
    model = nn.LSTM(4, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watched = watch(model, optimizer, sample_every=2, sample_first=0, sample_budget=1.0)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(3, 1, 4))[0].sum().backward()
        optimizer.step()

    records = watched.records()

    assert [Quantity.SPECTRAL_GAIN in record.tensors for record in records] == [True, False, True, False]
    gain = records[2].tensors[Quantity.SPECTRAL_GAIN]
    assert np.isnan(gain).tolist() == [name != "weight_hh_l0" for name, _ in model.named_parameters()]
    assert float(gain[1]) == pytest.approx(true_gain(recurrent(model), [0.25, 0.25, 1.0, 0.25]), rel=0.1)
