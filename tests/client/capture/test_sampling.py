"""What the budget hears of a sampled step: all that the training thread spends on it, on host and device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seismograd.capture.budget import Budget, Extra
from seismograd.capture.device_time import DeviceTimes
from seismograd.capture.layout import Layout
from seismograd.capture.sampling import Sampling
from seismograd.capture.weights import WeightSampler
from seismograd.guard import Guard
from seismograd.record import Quantity
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]


class Heard(Budget):
    """A budget that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(every=10, first=0)
        self.told: list[dict[Extra, float]] = []
        self.beside: list[float] = []

    def samples_took(self, seconds: Mapping[Extra, float]) -> None:
        self.told.append(dict(seconds))

    def sampling_took(self, seconds: float) -> None:
        self.beside.append(seconds)


def layout_of(model: nn.Module) -> Layout:
    return Layout(torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_sampled_step_costs_its_probes_and_what_it_takes_longer_than_others_beside() -> None:
    budget = Heard()
    sampling = Sampling(Guard(), budget, None)
    sampling.probes.costs = {Extra.GAIN: 0.003}
    sampling.account(1, 0.010, 0.010, 0.003)
    sampling.probes.costs = {Extra.GAIN: 0.004}
    # Nine steps of a millisecond between, and this one took 7: 4 in the probe, 1 as any other, 2 beside.
    sampling.account(11, 0.010 + 9 * 0.001 + 0.007, 0.007, 0.004)

    assert budget.told == [{Extra.GAIN: 0.003}, {Extra.GAIN: 0.004}]
    assert budget.beside == [pytest.approx(0.002)]


@pytest.mark.parametrize(
    ("ships_rows", "shared_model", "expected"),
    [
        (True, False, {Extra.WEIGHTS, Extra.LARGEST, Extra.GAIN}),
        (True, True, set(Extra)),
        (False, True, {Extra.LOCAL}),
        (False, False, set()),
    ],
)
def test_a_rank_samples_what_it_has_and_what_is_its_part(
    ships_rows: bool, shared_model: bool, expected: set[Extra]
) -> None:
    model = nn.Linear(4, 4)
    sampling = Sampling(Guard(), Budget(every=10, first=0), model)
    sampling.go_by(layout_of(model), ships_rows=ships_rows, shared_model=shared_model)
    sampling.choose(0)

    assert sampling.chosen == expected


def test_other_parameters_are_sampled_for_what_they_have() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    sampling = Sampling(Guard(), Budget(every=10, first=0), model)
    sampling.go_by(layout_of(model), ships_rows=True, shared_model=False)
    sampling.follow(layout_of(model[1]))
    sampling.choose(0)

    assert sampling.chosen == {Extra.WEIGHTS, Extra.LARGEST}


class Mark:
    """A CUDA event as far as it is used here: recorded at a time, passed by the device at another."""

    clock = 0.0
    device = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Mark.clock

    def query(self) -> bool:
        return Mark.device >= self.at

    def elapsed_time(self, end: Mark) -> float:
        return (end.at - self.at) * 1000.0


def test_host_and_device_seconds_of_one_step_are_told_together_when_the_device_is_through() -> None:
    told = []
    with mock.patch("torch.cuda.Event", Mark), mock.patch("torch.cuda.device"):
        times = DeviceTimes(torch.device("cuda"))
        for began in (1.0, 3.0):
            for extra, seconds in ((Extra.WEIGHTS, 0.5), (Extra.LARGEST, 0.25)):
                Mark.clock = began
                times.begin(extra)
                Mark.clock = began + seconds
                times.end(extra)
            Mark.device = began + 0.3  # in the midst of this one, behind the one before
            told.append(times.done({Extra.WEIGHTS: 0.125}))
        Mark.device = 9.0
        told.append(times.done({}))

    one = {Extra.WEIGHTS: 0.625, Extra.LARGEST: 0.25}
    assert told == [[], [one], [one, {}]]


def test_what_the_host_spends_is_known_where_nobody_can_ask_the_device() -> None:
    budget, guard = Heard(), Guard()
    sampling = Sampling(guard, budget, None)
    sampling.probes._device = broken = mock.create_autospec(DeviceTimes, instance=True)
    broken.done.side_effect = RuntimeError("no driver")
    for _ in range(2):
        sampling.probes.costs = {Extra.GAIN: 0.003}
        sampling.account(1, 0.010, 0.010, 0.003)

    assert budget.told == [{Extra.GAIN: 0.003}] * 2
    assert "device times" in guard.broken


def spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_all_that_a_sampled_step_takes_longer_is_counted_whatever_it_is_spent_on(watch: Watch) -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watched = watch(model, optimizer, sample_every=5, sample_first=0, sample_budget=1.0)
    step_watch = watched.monitor._session._series[0].watch  # type: ignore[union-attr]  # it is there
    budget = step_watch.sampling._budget
    make_draft, after = step_watch._make_draft, WeightSampler.after

    def slow_draft(*arguments: Any) -> Any:
        spin(0.003)
        return make_draft(*arguments)

    def slow_after(self: WeightSampler) -> Any:
        spin(0.004)
        return after(self)

    step_watch._make_draft = slow_draft  # type: ignore[method-assign]  # of this one watch
    with mock.patch.object(WeightSampler, "after", slow_after):
        for _ in range(41):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()

    assert 0.004 <= budget._costs[Extra.WEIGHTS] < 0.012
    assert 0.003 <= budget._usual_beside() < 0.009


def test_what_the_job_does_when_it_hears_of_an_alert_is_no_cost_of_ours(watch: Watch) -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watched = watch(model, optimizer, sample_every=2, sample_first=0, sample_budget=1.0)
    session = watched.monitor._session
    assert session is not None
    session.at_boundary(lambda: spin(0.02))
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()

    step_watch = session._series[0].watch
    assert step_watch.hook_seconds < 20 * 0.02 / 2
    assert step_watch.sampling._budget._usual_beside() < 0.01
    told = [record.scalars[Quantity.CAPTURE_SECONDS] for record in watched.records()[1:]]
    assert statistics.median(told) < 0.01  # each heard for 0.02 s; a busy machine may hold up one or another


def test_several_optimizers_share_one_budget(watch: Watch) -> None:
    models = [nn.Linear(4, 4) for _ in range(3)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in models]
    watched = watch(nn.ModuleList(models), optimizers, sample_budget=0.03)
    session = watched.monitor._session
    assert session is not None

    assert [each.watch.sampling._budget._share for each in session._series] == pytest.approx([0.01] * 3)


@pytest.mark.parametrize("in_closure", [False, True])
def test_a_step_in_which_a_parameter_joins_is_recorded_and_its_samples_are_right_or_left_out(
    watch: Watch, in_closure: bool
) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer, sample_every=1, sample_first=0, sample_budget=1.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.ones(2, 4)).square().mean()
        loss.backward()
        spin(0.005)  # a step that can bear its samples
        return loss

    for step in range(5):
        model[0].requires_grad_(step >= 2)
        if in_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()

    records = watched.records()
    weights = [float(parameter.detach().norm()) for parameter in model.parameters()]
    assert [len(record.gradient_norms) for record in records if record.gradient_norms is not None] == [2, 2, 4, 4, 4]
    for record in records:
        found = record.tensors.get(Quantity.WEIGHT_NORM)
        if found is not None:
            np.testing.assert_allclose(found, weights[-len(found) :], rtol=1e-5)
    assert sum(Quantity.WEIGHT_NORM in record.tensors for record in records) >= 4
