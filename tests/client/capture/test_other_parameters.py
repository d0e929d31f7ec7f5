"""Optimizers whose parameters are added to, thawed or replaced during training: each step has the norms of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from seismograd.record import NormSource, Quantity
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]


def clip_in_one(parameters: Iterable[Tensor]) -> None:
    clip_grad_norm_(parameters, 1e-3)


def clip_in_two(parameters: Iterable[Tensor]) -> None:
    everyone = list(parameters)
    total = get_total_norm([parameter.grad for parameter in everyone if parameter.grad is not None])
    clip_grads_with_norm_(everyone, 1e-3, total)


def clip_one_by_one(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        clip_grad_norm_(parameter, 1e-3)


def leave(_parameters: Iterable[Tensor]) -> None:
    """No clip."""


CLIPS = [leave, clip_in_one, clip_in_two, clip_one_by_one]


class Training:
    """A step after the other, with gradients whose norms grow by one from parameter to parameter."""

    def __init__(self, watch: Watch, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.watched = watch(None, optimizer, sample_every=0, sample_first=0)
        self.expected: list[list[float]] = []

    def step(self, clip: Callable[[Iterable[Tensor]], None], *, clipped: list[Tensor] | None = None) -> None:
        everyone = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        trained = [parameter for parameter in everyone if parameter.requires_grad]
        norms = [float(place + 1 + len(self.expected)) for place in range(len(trained))]
        for parameter, norm in zip(trained, norms, strict=True):
            parameter.grad = torch.full_like(parameter, norm / math.sqrt(parameter.numel()))
        self.expected.append(norms)
        clip(trained if clipped is None else clipped)
        self.optimizer.step()
        self.watched.monitor.log(loss=1.0)

    def assert_true(self, source: NormSource, columns: list[int]) -> None:
        records = self.watched.records()
        assert [record.source for record in records] == [source] * len(self.expected)
        for record, norms in zip(records, self.expected, strict=True):
            assert record.gradient_norms is not None
            np.testing.assert_allclose(record.gradient_norms, norms, rtol=1e-5)
            assert (Quantity.CLIP_THRESHOLD in record.scalars) == (source is NormSource.CLIP)
        assert [len(catalog.parameters) for catalog in self.watched.ledger.catalogs] == columns


def source_of(clip: object) -> NormSource:
    return NormSource.OPTIMIZER_STEP if clip is leave else NormSource.CLIP


def parameter(length: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(length))


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_parameter_that_replaces_another_is_the_one_whose_norm_is_recorded(
    watch: Watch, clip: Callable[[Iterable[Tensor]], None], groups: int
) -> None:
    """As those do that make a model denser: all points of a scene are one tensor, and a longer one takes its place."""
    lists = [[parameter(2), parameter(3)]] if groups == 1 else [[parameter(2)], [parameter(3)]]
    optimizer = torch.optim.Adam([{"params": each, "name": str(at)} for at, each in enumerate(lists)], lr=0.0)
    training = Training(watch, optimizer)
    for step in range(9):
        if step in (3, 6):
            group = optimizer.param_groups[-1]
            optimizer.state.pop(group["params"][-1])
            group["params"][-1] = parameter(5 + step)
        training.step(clip)

    training.assert_true(source_of(clip), [2, 2, 2])
    lengths = [catalog.parameters[1].shape for catalog in training.watched.ledger.catalogs]
    assert lengths == [(3,), (8,), (11,)]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("how", ["added", "thawed"])
def test_a_parameter_that_joins_in_is_in_the_record_of_its_first_step(
    watch: Watch, clip: Callable[[Iterable[Tensor]], None], how: str
) -> None:
    frozen = parameter(4).requires_grad_(False)
    optimizer = torch.optim.SGD([frozen, parameter(2), parameter(3)], lr=0.0)
    training = Training(watch, optimizer)
    for step in range(7):
        if step == 4 and how == "thawed":
            frozen.requires_grad_()
        elif step == 4:
            optimizer.add_param_group({"params": [parameter(5)]})
        training.step(clip)

    training.assert_true(source_of(clip), [2, 3])


@pytest.mark.parametrize("clip", [clip_in_one, clip_one_by_one])
def test_a_clip_that_leaves_out_what_was_added_is_known_to_have_cut_the_rest(
    watch: Watch, clip: Callable[[Iterable[Tensor]], None]
) -> None:
    old: list[Tensor] = [parameter(2), parameter(3)]
    optimizer = torch.optim.SGD(old, lr=0.0)
    training = Training(watch, optimizer)
    for step in range(7):
        if step == 4:
            optimizer.add_param_group({"params": [parameter(5)]})
        training.step(clip, clipped=old)

    training.assert_true(NormSource.CLIP, [2, 3])


def test_what_was_clipped_before_another_took_its_place_is_not_called_unclipped(watch: Watch) -> None:
    optimizer = torch.optim.SGD([parameter(2), parameter(3)], lr=0.0)
    training = Training(watch, optimizer)

    def clip_and_replace(parameters: Iterable[Tensor]) -> None:
        clip_in_one(parameters)
        optimizer.param_groups[0]["params"][1] = parameter(9)

    for step in range(5):
        training.step(clip_and_replace if step == 3 else clip_in_one)

    sources = [record.source for record in training.watched.records()]
    assert sources == [*[NormSource.CLIP] * 3, NormSource.POST_MODIFICATION, NormSource.CLIP]


@pytest.mark.parametrize("clip", [leave, clip_one_by_one])
def test_optimizers_that_step_together_may_get_other_parameters(
    watch: Watch, clip: Callable[[Iterable[Tensor]], None]
) -> None:
    optimizers = [torch.optim.SGD([parameter(2)], lr=0.0) for _ in range(6)]
    watched = watch(None, optimizers)
    for step in range(4):
        if step == 2:
            optimizers[3].param_groups[0]["params"][0] = parameter(7)
        trained = [optimizer.param_groups[0]["params"][0] for optimizer in optimizers]
        for place, each in enumerate(trained):
            each.grad = torch.full_like(each, (place + 1) / math.sqrt(each.numel()))
        clip(trained)
        for optimizer in optimizers:
            optimizer.step()

    records = watched.records()
    assert [record.source for record in records] == [source_of(clip)] * 4
    for record in records:
        np.testing.assert_allclose(record.gradient_norms, [1, 2, 3, 4, 5, 6], rtol=1e-6)  # type: ignore[arg-type]  # there
    assert [catalog.parameters[3].shape for catalog in watched.ledger.catalogs] == [(2,), (7,)]


def test_a_gradient_that_a_frozen_parameter_has_kept_makes_no_catalog_of_every_step(watch: Watch) -> None:
    frozen = parameter(4)
    frozen.grad = torch.ones(4)
    optimizer = torch.optim.SGD([frozen.requires_grad_(False), parameter(2), parameter(3)], lr=0.0)
    training = Training(watch, optimizer)
    for step in range(6):
        training.step(clip_in_one if step % 2 else leave)

    assert len(training.watched.records()) == 6
    assert [len(catalog.parameters) for catalog in training.watched.ledger.catalogs] == [2]
