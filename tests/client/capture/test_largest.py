"""The largest element of each gradient: of every kind of gradient, taken before anybody scales it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import seismograd
from seismograd.capture.largest import in_memory_order, is_dense, largest_elements
from seismograd.record import Float32, Quantity
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64],
    ids=str,
)
def test_it_is_the_largest_magnitude_in_every_type(dtype: torch.dtype) -> None:
    gradients = [torch.tensor([1.0, -3.0, 2.0], dtype=dtype), torch.zeros(2, 2, dtype=dtype)]

    assert largest_elements(gradients).tolist() == [3.0, 0.0]


def test_nothing_but_zeros_is_zero_and_not_its_negative() -> None:
    assert str(largest_elements([torch.zeros(3), torch.tensor([-0.0, 0.0])]).tolist()) == "[0.0, 0.0]"


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(-11.0, 13.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.arange(-30.0, 42.0).reshape(2, 3, 3, 4).to(memory_format=torch.channels_last),
        torch.arange(-12.0, 4.0).reshape(4, 4)[:, ::2],
        torch.tensor([-7.0]).expand(5),
    ],
    ids=["permuted", "channels last", "with gaps", "expanded"],
)
def test_the_order_in_memory_does_not_matter_and_is_followed(value: Tensor) -> None:
    assert largest_elements([value]).tolist() == [float(value.abs().max())]
    assert not is_dense(value) or in_memory_order(value).is_contiguous()


def test_gradients_of_several_kinds_stand_together() -> None:
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[1, 1, 3]]), torch.tensor([2.0, 2.0, -1.0]), (5,), check_invariants=True
    )
    half = torch.tensor([-6e4], dtype=torch.float16)
    double = torch.tensor([1e300], dtype=torch.float64)

    assert largest_elements([sparse, half, double, torch.zeros(0)]).tolist() == [4.0, 60000.0, 1e300, 0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_elements_that_are_not_finite_are_left_out(value: float) -> None:
    broken = torch.tensor([1.0, value, -2.0])

    assert largest_elements([broken, torch.full((2,), value)]).tolist() == [2.0, 0.0]


def test_squares_that_leave_the_type_do_not_matter() -> None:
    assert largest_elements([torch.full((3,), 1e38), torch.full((3,), 1e-40)]).tolist() == pytest.approx([1e38, 1e-40])


def train(watch: Watch, clip: Callable[[list[Tensor]], object] | None) -> tuple[Float32, list[float]]:
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    model(torch.randn(8, 6)).pow(2).sum().backward()
    true = [float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None]
    if clip is not None:
        clip(list(model.parameters()))
    optimizer.step()
    (record,) = watched.records()
    return record.tensors[Quantity.MAX_ABS], true


@pytest.mark.parametrize(
    "clip",
    [
        None,
        lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, 1e-3),
        lambda parameters: seismograd.clip_grad_norm_(parameters, 1e-3),
        lambda parameters: torch.nn.utils.clip_grad_value_(parameters, 1e-6),
        lambda parameters: [seismograd.clip_grad_norm_(each, 1e-3) for each in parameters],
    ],
    ids=["no clip", "torch's", "ours", "by value", "one by one"],
)
def test_it_is_taken_before_the_clip(watch: Watch, clip: Callable[[list[Tensor]], object] | None) -> None:
    largest, true = train(watch, clip)

    np.testing.assert_allclose(largest, true, rtol=1e-6)


def test_it_is_unscaled_like_the_norm(watch: Watch) -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    watched = watch(model, optimizer)
    loss = model(torch.ones(2, 4)).sum()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    scaler.step(optimizer)
    scaler.update()

    (record,) = watched.records()

    assert record.tensors[Quantity.MAX_ABS].tolist() == [2.0, 2.0]


def test_parameters_without_a_gradient_have_none(watch: Watch) -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    model[1](torch.ones(1, 2)).sum().backward()
    optimizer.step()

    (record,) = watched.records()

    assert record.tensors[Quantity.MAX_ABS].tolist()[2:] == [1.0, 1.0]
    assert np.isnan(record.tensors[Quantity.MAX_ABS][:2]).all()
