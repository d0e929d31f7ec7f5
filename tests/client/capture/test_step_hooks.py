"""Steps within steps, steps that raise, and a watch that ends within a step: a record for each step that was made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from seismograd.record import NormSource, Quantity, StepRecord
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]

GRADIENT = [500.0]  # norm of the gradient of `network()`, before a clip


class Twice(torch.optim.SGD):
    """Calls the step of its base class, as optimizers do that add to a known one."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Fails(torch.optim.SGD):
    """Raises when it is told to, within the step of its base class."""

    fails = False

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        if self.fails:
            raise ArithmeticError("this is the job's own")
        return result


@pytest.fixture(autouse=True)
def _both_classes_have_hooks() -> None:
    """Torch gives hooks to the step of a class when the first of its optimizers is made."""
    torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


def network() -> nn.Linear:
    return nn.Linear(2, 1, bias=False)


def backward(model: nn.Module) -> Tensor:
    model.zero_grad()
    loss: Tensor = model(torch.tensor([300.0, 400.0])).sum()
    loss.backward()
    return loss


def assert_clipped(records: list[StepRecord], count: int) -> None:
    assert [record.source for record in records] == [NormSource.CLIP] * count
    for record in records:
        np.testing.assert_allclose(record.gradient_norms, GRADIENT, rtol=1e-6)  # type: ignore[arg-type]  # there
        assert record.scalars[Quantity.CLIP_THRESHOLD] == 1.0


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("ignore")  # torch's compiler meets torch's own deprecations
def test_a_step_that_calls_the_step_of_its_base_class_is_one_step(watch: Watch, compiled: bool, closure: bool) -> None:
    model = network()
    optimizer = Twice(model.parameters(), lr=0.0)
    watched = watch(model, optimizer, sample_every=2)

    def clipped() -> Tensor:
        loss = backward(model)
        clip_grad_norm_(model.parameters(), 1.0)
        return loss

    def step() -> None:
        optimizer.step(clipped if closure else None)

    step = torch.compile(step, backend="eager") if compiled else step
    for number in range(6):
        if not closure:
            clipped()
        step()
        watched.monitor.log(loss=float(number))

    records = watched.records()
    assert_clipped(records, 6)
    assert [record.scalars[Quantity.LOSS] for record in records] == [float(number) for number in range(6)]
    torch._dynamo.reset()


def test_what_a_step_adds_to_that_of_its_base_class_belongs_to_its_update(watch: Watch) -> None:
    class Decays(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            result = super().step(closure)
            with torch.no_grad():
                model.weight.add_(7.0)
            return result

    model = nn.Linear(1, 1, bias=False)
    optimizer = Decays(model.parameters(), lr=1.0)
    watched = watch(model, optimizer, sample_every=1)
    for _ in range(3):
        model.zero_grad()
        model(torch.ones(1)).sum().backward()
        optimizer.step()

    for record in watched.records():
        assert record.tensors[Quantity.UPDATE_NORM].tolist() == pytest.approx([6.0], rel=1e-5)


def test_optimizers_that_step_together_may_call_the_steps_of_their_base_class(watch: Watch) -> None:
    model = nn.Sequential(*[network() for _ in range(6)])
    optimizers = [Twice([parameter], lr=0.0) for parameter in model.parameters()]
    watched = watch(model, optimizers)
    for _ in range(3):
        for layer in model:
            backward(layer)
            clip_grad_norm_(layer.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()

    records = watched.records()
    assert [record.source for record in records] == [NormSource.CLIP] * 3
    for record in records:
        np.testing.assert_allclose(record.gradient_norms, GRADIENT * 6, rtol=1e-6)  # type: ignore[arg-type]  # there


@pytest.mark.parametrize("again", ["the same gradients", "new gradients"])
@pytest.mark.parametrize("sampled", [False, True])
def test_behind_a_step_that_raised_the_next_clip_counts(watch: Watch, again: str, sampled: bool) -> None:
    model = network()
    optimizer = Fails(model.parameters(), lr=0.0)
    watched = watch(model, optimizer, sample_every=int(sampled))
    for number in range(8):
        optimizer.fails = number in (4, 5)
        if number != 5 or again == "new gradients":
            backward(model)
            clip_grad_norm_(model.parameters(), 1.0)
        with pytest.raises(ArithmeticError) if optimizer.fails else nullcontext():
            optimizer.step()
        if not optimizer.fails:
            watched.monitor.log(loss=float(number))

    assert_clipped(watched.records(), 6)


def test_a_failed_step_that_is_made_again_is_recorded(watch: Watch) -> None:
    model = network()
    optimizer = Fails(model.parameters(), lr=0.0)
    watched = watch(model, optimizer)
    for number in range(5):
        backward(model)
        optimizer.fails = number == 3
        with pytest.raises(ArithmeticError) if optimizer.fails else nullcontext():
            optimizer.step()
        if optimizer.fails:
            optimizer.fails = False
            optimizer.step()
        watched.monitor.log(loss=float(number))

    assert [record.scalars[Quantity.LOSS] for record in watched.records()] == [float(number) for number in range(5)]


def test_a_step_whose_closure_raised_leaves_the_next_ones_as_they_are(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer, sample_every=0, sample_first=0)

    def fail() -> float:
        raise ArithmeticError("this is the job's own")

    for number in range(6):
        backward(model)
        if number == 3:
            with pytest.raises(ArithmeticError):
                optimizer.step(fail)
            continue
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        watched.monitor.log(loss=float(number))

    assert_clipped(watched.records(), 5)


def test_what_another_thread_clips_during_a_step_takes_no_record_from_it(watch: Watch) -> None:
    model, other = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer, sample_every=0, sample_first=0)

    def clip_elsewhere(*_: object) -> None:
        backward(other)
        thread = threading.Thread(target=clip_grad_norm_, args=(list(other.parameters()), 1.0))
        thread.start()
        thread.join()

    optimizer.register_step_pre_hook(clip_elsewhere)
    for number in range(5):
        backward(model)
        optimizer.step()
        watched.monitor.log(loss=float(number))

    records = watched.records()
    assert [record.scalars[Quantity.LOSS] for record in records] == [float(number) for number in range(5)]
    assert all(Quantity.CLIP_THRESHOLD not in record.scalars for record in records)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("together", [False, True])
def test_a_run_may_end_within_a_step_whatever_other_hooks_there_are(watch: Watch, where: str, together: bool) -> None:
    model = nn.Sequential(*[network() for _ in range(6)])
    groups = [[parameter] for parameter in model.parameters()] if together else [list(model.parameters())]
    optimizers = [torch.optim.SGD(group, lr=0.1) for group in groups]
    calls = []

    def end(*_: object) -> None:
        calls.append("before ours")
        if len(calls) == 3:
            watched.monitor.finish(timeout_seconds=20.0)

    def register(hook: Callable[..., None]) -> None:
        for each in (optimizers[0].register_step_pre_hook, optimizers[0].register_step_post_hook):
            if each.__name__.endswith("pre_hook") == (where == "before"):
                each(hook)

    register(end)
    watched = watch(model, optimizers)
    register(lambda *_: calls.append("behind ours"))
    for _ in range(4):
        for layer in model:
            backward(layer)
        for optimizer in optimizers:
            optimizer.step()

    assert calls == ["before ours", "behind ours"] * 4
    assert not watched.monitor.active


def test_hooks_are_gone_when_a_run_ends_between_steps_and_do_nothing_when_within_one(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    watched.monitor.finish(timeout_seconds=20.0)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks

    watched = watch(model, optimizer)
    session: Any = watched.monitor._session

    def end(*_: object) -> None:
        watched.monitor.finish(timeout_seconds=20.0)

    optimizer.register_step_post_hook(end)
    backward(model)
    optimizer.step()
    watching = session._series[0].watch
    left = [*optimizer._optimizer_step_pre_hooks.values(), *optimizer._optimizer_step_post_hooks.values()]
    assert not any(getattr(hook, "__self__", None) is watching for hook in left)
