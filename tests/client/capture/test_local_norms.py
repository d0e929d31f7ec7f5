"""Norms of a rank's own gradients by parameter: which columns, what is not finite, and that no hook is left behind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from seismograd.capture.local_norms import LocalNorms
from seismograd.guard import Guard


def backward(model: nn.Module, factor: float = 1.0) -> None:
    (model(torch.ones(2, 4)).sum() * factor).backward()


def true_norms(model: nn.Module) -> list[float]:
    return [float(p.grad.double().norm()) for p in model.parameters() if p.grad is not None]


def test_the_sum_of_all_micro_batches_counts() -> None:
    model, local = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), LocalNorms(Guard())
    local.arm(list(model.parameters()))
    for _ in range(3):
        backward(model)
    found = local.collect()

    assert found is not None
    assert found[0] == [0, 1, 2, 3]
    assert found[1].tolist() == pytest.approx(true_norms(model), rel=1e-6)
    assert not local.armed
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


def test_parameters_that_no_gradient_reached_are_left_out() -> None:
    model, local = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 2)]), LocalNorms(Guard())
    local.arm(list(model.parameters()))
    backward(model[1])
    found = local.collect()

    assert found is not None
    assert found[0] == [2, 3]


@pytest.mark.parametrize("factor", [1e25, 1e-30])
def test_norms_whose_squares_leave_float32_are_true(factor: float) -> None:
    model, local = nn.Linear(4, 2), LocalNorms(Guard())
    local.arm(list(model.parameters()))
    backward(model, factor)
    found = local.collect()

    assert found is not None
    assert found[1].tolist() == pytest.approx(true_norms(model), rel=1e-6)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_has_an_infinite_norm_because_nan_means_not_sampled(factor: float) -> None:
    model, local = nn.Linear(4, 2), LocalNorms(Guard())
    local.arm(list(model.parameters()))
    backward(model, factor)
    found = local.collect()

    assert found is not None
    assert found[1].tolist() == [math.inf, math.inf]


def test_nothing_is_found_where_no_backward_pass_came() -> None:
    model, local = nn.Linear(4, 2), LocalNorms(Guard())
    local.arm(list(model.parameters()))

    assert local.collect() is None
    assert local.collect() is None
