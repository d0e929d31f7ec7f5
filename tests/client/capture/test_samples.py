"""The sampled extras: true updates, their cadence, their memory, and training left alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import seismograd
from seismograd.capture.layout import Layout
from seismograd.capture.weights import WeightSampler
from seismograd.record import Quantity
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]


def test_weight_and_update_norms_are_the_true_ones(watch: Watch) -> None:
    model = nn.Sequential(nn.Linear(6, 300), nn.Linear(300, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.3)
    watched = watch(model, optimizer)
    before = [parameter.detach().double().clone() for parameter in model.parameters()]
    model(torch.randn(4, 6)).pow(2).sum().backward()
    optimizer.step()
    after = [parameter.detach().double() for parameter in model.parameters()]

    (record,) = watched.records()

    np.testing.assert_allclose(record.tensors[Quantity.WEIGHT_NORM], [float(w.norm()) for w in before], rtol=1e-4)
    updates = [float((new - old).norm()) for new, old in zip(after, before, strict=True)]
    np.testing.assert_allclose(record.tensors[Quantity.UPDATE_NORM], updates, rtol=1e-3)


def test_the_first_steps_are_sampled_and_then_every_tenth(watch: Watch) -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watched = watch(model, optimizer, sample_every=10, sample_first=5)
    # Steps of a real length, so that the extras stay affordable: the cadence under pressure is a test of Budget.
    budget = watched.monitor._session._series[0].watch.sampling._budget  # type: ignore[union-attr]  # it is there
    budget.samples_took = lambda *_seconds: None  # type: ignore[method-assign]  # nothing costs anything here
    for _ in range(23):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()

    sampled = [record.step for record in watched.records() if Quantity.UPDATE_NORM in record.tensors]

    assert sampled == [0, 1, 2, 3, 4, 10, 20]


def test_sampling_can_be_switched_off(watch: Watch) -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watched = watch(model, optimizer, sample_every=0)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()

    assert all(not record.tensors for record in watched.records())


def test_a_model_larger_than_the_limit_is_sampled_in_turns() -> None:
    model = nn.ModuleList(nn.Linear(10, 10, bias=False) for _ in range(5))  # 400 bytes each
    layout = Layout(torch.optim.SGD(model.parameters(), lr=0.1))
    sampler = WeightSampler(limit_bytes=900)
    turns = []
    for _ in range(5):
        sample = sampler.before(layout)
        assert sample is not None
        columns, norms = sample
        assert columns is not None
        expected = [float(layout.parameters[column].detach().norm()) for column in columns]
        np.testing.assert_allclose(norms.numpy(), expected, rtol=1e-5)
        turns.append(columns)
        sampler.forget()

    assert all(len(columns) == 2 for columns in turns)
    assert {column for columns in turns for column in columns} == {0, 1, 2, 3, 4}


def test_weights_that_are_not_finite_are_recorded_as_not_known(watch: Watch) -> None:
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight[0, 0] = math.nan
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watched = watch(model, optimizer)
    model.bias.grad = torch.ones_like(model.bias)
    optimizer.step()

    (record,) = watched.records()

    assert np.isnan(record.tensors[Quantity.WEIGHT_NORM]).tolist() == [True, False]


@pytest.mark.parametrize("clip", [False, True])
def test_training_under_watch_is_the_same_to_the_last_bit(watch: Watch, clip: bool) -> None:
    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        generator = torch.Generator().manual_seed(5)
        for _ in range(15):
            optimizer.zero_grad()
            model(torch.randn(8, 6, generator=generator)).pow(2).mean().backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()

    plain = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    model = copy.deepcopy(plain)
    train(plain, torch.optim.Adam(plain.parameters(), lr=0.01))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    watch(model, optimizer)
    train(model, optimizer)

    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_finished_watch_leaves_no_hook_behind(watch: Watch) -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watched = watch(model, optimizer)
    watched.monitor.finish()
    model(torch.ones(2, 4)).sum().backward()
    seismograd.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not model._forward_pre_hooks
    assert watched.records() == []
