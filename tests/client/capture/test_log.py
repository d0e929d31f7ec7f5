"""Which step a call of `log` belongs to, and how steps are numbered."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from seismograd.capture.numbering import Numbering
from seismograd.record import Quantity, StepRecord
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]


class Loop:
    """A training loop whose loss is the number of the iteration."""

    def __init__(self, watch: Watch, **options: object) -> None:
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.watched = watch(self.model, self.optimizer, **options)
        self.log = self.watched.monitor.log

    def backward(self) -> None:
        self.model(torch.ones(2)).backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def losses(self) -> list[float | None]:
        return [record.scalars.get(Quantity.LOSS) for record in self.watched.records()]

    def numbers(self) -> list[tuple[int, int]]:
        return [(record.branch, record.step) for record in self.watched.records()]


def test_a_loss_logged_after_the_step_belongs_to_it(watch: Watch) -> None:
    loop = Loop(watch)
    for iteration in range(4):
        loop.backward()
        loop.step()
        loop.log(loss=float(iteration))

    assert loop.losses() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("before_backward", [True, False])
def test_a_loss_logged_before_the_step_belongs_to_it(watch: Watch, before_backward: bool) -> None:
    loop = Loop(watch)
    for iteration in range(4):
        if before_backward:
            loop.log(loss=float(iteration))
        loop.backward()
        if not before_backward:
            loop.log(loss=float(iteration))
        loop.step()

    assert loop.losses() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("after", [True, False])
def test_a_loss_logged_now_and_then_finds_its_step(watch: Watch, after: bool) -> None:
    loop = Loop(watch)
    for iteration in range(60):
        loop.backward()
        if not after and iteration % 25 == 0:
            loop.log(loss=float(iteration))
        loop.step()
        if after and iteration % 25 == 0:
            loop.log(loss=float(iteration))

    losses = loop.losses()

    assert {step: loss for step, loss in enumerate(losses) if loss is not None} == {0: 0.0, 25: 25.0, 50: 50.0}


def test_tensors_and_non_finite_losses_are_welcome(watch: Watch) -> None:
    loop = Loop(watch)
    values = [torch.tensor(1.5, requires_grad=True), torch.tensor([2.5], dtype=torch.float64), math.nan, math.inf]
    for value in values:
        loop.backward()
        loop.step()
        loop.log(loss=value)  # type: ignore[arg-type]  # one of both kinds

    losses = loop.losses()

    assert losses[:2] == [1.5, 2.5]
    assert losses[2] is not None
    assert math.isnan(losses[2])
    assert losses[3] == math.inf


def test_a_loss_that_changes_afterwards_is_recorded_as_it_was(watch: Watch) -> None:
    loop = Loop(watch)
    total = torch.tensor(3.0)
    loop.log(loss=total)
    total.zero_()
    loop.backward()
    loop.step()

    assert loop.losses() == [3.0]


def test_a_loss_of_many_numbers_is_refused_without_hurting_training(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(watch)
    loop.log(loss=torch.ones(3))
    loop.backward()
    loop.step()

    assert loop.losses() == [None]
    assert "loss: a tensor of 3 elements" in caplog.text


def test_the_data_of_a_step_travels_with_it(watch: Watch) -> None:
    loop = Loop(watch)
    batches: list[object] = ["shard-3", torch.tensor([4, 5, 6]), [7, 8], torch.zeros(2, 3), {"shard": 1}, None]
    for batch in batches:
        loop.backward()
        loop.step()
        loop.log(loss=0.0, batch=batch)

    found = [record.data_ids for record in loop.watched.records()]

    assert found == ["shard-3", "4 5 6", "7 8", "float32[2, 3]", "shard=1", None]


def test_steps_count_from_the_number_given(watch: Watch) -> None:
    loop = Loop(watch, step=500)
    for _ in range(3):
        loop.backward()
        loop.step()

    assert loop.numbers() == [(0, 500), (0, 501), (0, 502)]


def test_the_job_may_number_its_steps_after_making_them(watch: Watch) -> None:
    loop = Loop(watch)
    for number in (10, 20, 30):
        loop.backward()
        loop.step()
        loop.log(loss=0.0, step=number)

    assert loop.numbers() == [(0, 10), (0, 20), (0, 30)]


def test_the_job_may_number_its_steps_before_making_them(watch: Watch) -> None:
    loop = Loop(watch)
    for number in (10, 20, 30):
        loop.backward()
        loop.log(loss=0.0, step=number)
        loop.step()

    assert loop.numbers() == [(0, 10), (0, 20), (0, 30)]


def test_a_step_that_goes_back_begins_a_branch(watch: Watch) -> None:
    loop = Loop(watch)
    for number in (0, 1, 2, 1, 2, 3):
        loop.backward()
        loop.step()
        loop.log(loss=0.0, step=number)

    records: list[StepRecord] = loop.watched.records()

    assert [(r.branch, r.step) for r in records] == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]
    assert [r.sequence for r in records] == [0, 1, 2, 3, 4, 5]


def test_a_second_optimizer_goes_back_only_with_the_first() -> None:
    first, second = Numbering(), Numbering()
    for _ in range(3):
        first.settle(first.begin_step())
        for _ in range(2):
            second.settle(second.begin_step())
    first.next_step = 10
    second.follow(first, rewound=False)
    assert second.begin_step() == 10
    second.settle(10)
    first.next_step = 4
    second.follow(first, rewound=True)

    assert second.settle(second.begin_step()) == (1, 7, 4)
