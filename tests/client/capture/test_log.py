"""Which step a call of `log` belongs to, and how steps are numbered."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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


def found(loop: Loop) -> dict[int, float]:
    """The losses, by the number of their step."""
    records = loop.watched.records()
    return {record.step: record.scalars[Quantity.LOSS] for record in records if Quantity.LOSS in record.scalars}


@pytest.mark.parametrize("numbered", [True, False])
def test_a_job_that_logs_rarely_after_its_steps_loses_the_first_loss_and_finds_every_other_step(
    watch: Watch, caplog: pytest.LogCaptureFixture, numbered: bool
) -> None:
    loop = Loop(watch)
    for iteration in range(160):
        loop.backward()
        loop.step()
        if iteration % 50 == 49:
            loop.log(loss=float(iteration), step=iteration if numbered else None)

    assert found(loop) == {99: 99.0, 149: 149.0}
    assert caplog.text.count("the loss of step 49 is dropped: it had been sent") == 1


def test_a_job_that_counts_from_one_and_logs_rarely_has_its_own_numbers(watch: Watch) -> None:
    loop = Loop(watch)
    for iteration in range(1, 161):
        loop.backward()
        loop.step()
        if iteration % 50 == 0:
            loop.log(loss=float(iteration), step=iteration)

    assert found(loop) == {100: 100.0, 150: 150.0}


@pytest.mark.parametrize("clears", [True, False], ids=["clears its gradients at once", "clears them later"])
@pytest.mark.parametrize("scaled", [True, False], ids=["scales the loss it logs", "logs the loss as it is"])
def test_losses_logged_after_steps_once_a_warm_up_is_over_are_those_of_their_steps(
    watch: Watch, clears: bool, scaled: bool
) -> None:
    loop = Loop(watch)
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(8)])
    loop.optimizer.add_param_group({"params": list(model.parameters())})
    for iteration in range(60):
        loss = model(torch.ones(2)).sum() * 0.0 + iteration
        loop.optimizer.zero_grad()
        loss.backward()
        loop.optimizer.step()
        if clears:
            loop.optimizer.zero_grad()
        if iteration >= 30:
            loop.log(loss=loss * 1.0 if scaled else loss)

    assert found(loop) == {step: float(step) for step in range(31, 60)}


@pytest.mark.parametrize("begins", [0, 30])
@pytest.mark.parametrize("numbered", [True, False])
def test_a_loss_logged_behind_the_forward_pass_finds_its_step_whichever_others_are_left_out(
    watch: Watch, begins: int, numbered: bool
) -> None:
    loop = Loop(watch)
    logged = [step for step in range(begins, 60) if step % 7 != 5]
    for iteration in range(60):
        output = loop.model(torch.ones(2))
        if iteration in logged:
            loop.log(loss=float(iteration), step=iteration if numbered else None)
        loop.optimizer.zero_grad()
        output.backward()
        loop.optimizer.step()

    assert found(loop) == {step: float(step) for step in logged}


def test_a_loss_logged_before_the_step_finds_it_where_gradients_are_cleared_in_place(watch: Watch) -> None:
    loop = Loop(watch)
    for iteration in range(40):
        loop.optimizer.zero_grad(set_to_none=False)
        loop.backward()
        if iteration % 3 == 0:
            loop.log(loss=float(iteration))
        loop.optimizer.step()

    assert found(loop) == {step: float(step) for step in range(0, 40, 3)}


def test_a_loss_logged_by_a_closure_belongs_to_the_step_that_calls_it(watch: Watch) -> None:
    loop = Loop(watch)
    for iteration in range(6):

        def closure(iteration: int = iteration) -> float:
            loop.optimizer.zero_grad()
            loop.backward()
            loop.log(loss=float(iteration))
            return 0.0

        loop.optimizer.step(closure)

    assert loop.losses() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_second_loss_of_a_step_is_dropped_and_said(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(watch)
    for iteration in range(6):
        loop.backward()
        loop.step()
        loop.log(loss=float(iteration))
        loop.log(loss=-1.0)

    assert loop.losses() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert caplog.text.count("call log once per step") == 1


def test_a_loss_logged_when_both_optimizers_have_stepped_belongs_to_the_step_of_the_first(watch: Watch) -> None:
    critic, generator = nn.Linear(2, 1), nn.Linear(1, 2)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.0) for each in (critic, generator)]
    watched = watch(nn.ModuleList([critic, generator]), optimizers)
    for iteration in range(40):
        optimizers[0].zero_grad()
        critic(torch.ones(2)).backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
        optimizers[1].zero_grad()
        critic(generator(torch.ones(1))).backward()  # leaves gradients in the critic
        optimizers[1].step()
        watched.monitor.log(loss=float(iteration))

    assert [record.scalars.get(Quantity.LOSS) for record in watched.records()] == [float(step) for step in range(40)]


def test_a_job_that_makes_a_step_again_and_logs_before_it_begins_a_branch(watch: Watch) -> None:
    loop = Loop(watch)
    for number in (0, 1, 2, 2, 3):
        loop.backward()
        loop.log(loss=float(number), step=number)
        loop.step()

    assert [(r.branch, r.step, r.scalars[Quantity.LOSS]) for r in loop.watched.records()] == [
        (0, 0, 0.0),
        (0, 1, 1.0),
        (0, 2, 2.0),
        (1, 2, 2.0),
        (1, 3, 3.0),
    ]


def test_a_job_that_never_logs_has_every_step_but_its_first_ones_in_the_ring_when_it_ends(watch: Watch) -> None:
    """So that a process that is killed loses the step under way and no other."""
    loop = Loop(watch)
    session: Any = loop.watched.monitor._session
    for iteration in range(40):
        loop.backward()
        loop.step()
        assert iteration < 25 or session._sender.rings.of(0).end == iteration + 1


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
