"""Optimizers that step inside the backward pass, one parameter each: their steps make one record, with true norms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from seismograd.record import NormSource, Quantity, StepRecord
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]


class Network(nn.Module):
    """Six parameters, of which two take no part unless asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.last = nn.Linear(16, 3)
        self.spare = nn.Linear(16, 3)

    def forward(self, inputs: Tensor, *, spare: bool = False) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        result: Tensor = self.last(hidden) + (self.spare(hidden) if spare else 0.0)
        return result


def in_backward(
    model: nn.Module, before_step: Callable[[Tensor], object] = lambda _: None
) -> tuple[list[torch.optim.Optimizer], dict[int, float]]:
    """An optimizer a parameter, stepped by its hook, and the true norms of the gradients by parameter."""
    optimizers = {id(p): torch.optim.AdamW([p], lr=0.01) for p in model.parameters()}
    norms: dict[int, float] = {}

    def step(parameter: Any) -> None:
        norms[id(parameter)] = float(parameter.grad.double().norm())
        before_step(parameter)
        optimizers[id(parameter)].step()
        optimizers[id(parameter)].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    return list(optimizers.values()), norms


def loss_of(model: nn.Module, seed: int, **options: bool) -> Tensor:
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    loss: Tensor = model(inputs, **options).pow(2).mean()
    return loss


def assert_norms(record: StepRecord, model: nn.Module, norms: dict[int, float]) -> None:
    assert record.gradient_norms is not None
    expected = [norms.get(id(parameter), 0.0) for parameter in model.parameters()]
    np.testing.assert_allclose(record.gradient_norms, expected, rtol=1e-5)


def test_a_backward_pass_makes_one_record_whatever_takes_part(watch: Watch) -> None:
    model = Network()
    optimizers, norms = in_backward(model)
    watched = watch(model, optimizers)
    expected, losses = [], []
    for step in range(6):
        norms.clear()
        loss = loss_of(model, step, spare=step in (2, 3))
        loss.backward()
        watched.monitor.log(loss=loss)
        expected.append(dict(norms))
        losses.append(loss.item())

    records = watched.records()

    assert [record.step for record in records] == list(range(6))
    for record, true, loss_value in zip(records, expected, losses, strict=True):
        assert_norms(record, model, true)
        assert record.source is NormSource.OPTIMIZER_STEP
        assert record.scalars[Quantity.LOSS] == pytest.approx(loss_value)
        assert record.scalars[Quantity.LEARNING_RATE] == 0.01
    (catalog,) = watched.ledger.catalogs
    assert [each.name for each in catalog.parameters] == [name for name, _ in model.named_parameters()]
    assert len(next(iter(watched.ledger.identities.values())).optimizers) == 1


def test_training_is_the_same_to_the_last_bit(watch: Watch) -> None:
    def train(watched: bool) -> list[list[float]]:
        torch.manual_seed(1)
        model = Network()
        optimizers, _ = in_backward(model)
        if watched:
            watch(model, optimizers)
        for step in range(4):
            loss_of(model, step).backward()
        return [parameter.flatten().tolist() for parameter in model.parameters()]

    assert train(watched=True) == train(watched=False)


def test_clips_between_backward_and_step_are_seen_before_they_cut(watch: Watch) -> None:
    model = Network()
    optimizers, norms = in_backward(model, lambda parameter: clip_grad_norm_([parameter], 1e-3))
    watched = watch(model, optimizers)
    loss_of(model, 0, spare=True).backward()

    (record,) = watched.records()

    assert_norms(record, model, norms)
    assert record.source is NormSource.CLIP
    assert record.scalars[Quantity.CLIP_THRESHOLD] == 1e-3


@pytest.mark.parametrize("limit", [None, 1e-3])
def test_the_largest_elements_are_those_before_any_clip(watch: Watch, limit: float | None) -> None:
    model = Network()
    largest: dict[int, float] = {}

    def look_and_clip(parameter: Any) -> None:
        largest[id(parameter)] = float(parameter.grad.abs().max())
        if limit is not None:
            clip_grad_norm_([parameter], limit)

    optimizers, _ = in_backward(model, look_and_clip)
    watched = watch(model, optimizers)
    loss_of(model, 1, spare=True).backward()

    (record,) = watched.records()

    expected = [largest[id(parameter)] for parameter in model.parameters()]
    np.testing.assert_allclose(record.tensors[Quantity.MAX_ABS], expected, rtol=1e-6)


def test_what_is_not_finite_is_counted_where_it_is(watch: Watch) -> None:
    def spoil(parameter: Tensor) -> None:
        if parameter is model.last.bias:
            assert parameter.grad is not None
            parameter.grad[1] = math.nan

    model = Network()
    optimizers, _ = in_backward(model, spoil)
    watched = watch(model, optimizers)
    loss_of(model, 0, spare=True).backward()

    (record,) = watched.records()

    names = [name for name, _ in model.named_parameters()]
    assert record.nonfinite is not None
    assert [names[place] for place in record.nonfinite.parameters] == ["last.bias"]
    assert record.nonfinite.nan_counts.tolist() == [1]


def test_a_few_optimizers_of_one_parameter_keep_a_series_each(watch: Watch) -> None:
    model = nn.Linear(3, 2)
    optimizers = [torch.optim.SGD([parameter], lr=0.1) for parameter in model.parameters()]
    watched = watch(model, optimizers)
    model(torch.ones(1, 3)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    assert len(watched.records(0)) == len(watched.ledger.records(1)) == 1
