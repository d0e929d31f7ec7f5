"""What the budget hears of a sampled step: all that the training thread spends on it, on host and device."""

from __future__ import annotations

from collections.abc import Mapping
from unittest import mock

import pytest
import torch
from torch import nn

from seismograd.capture.budget import Budget, Extra
from seismograd.capture.device_time import DeviceTimes
from seismograd.capture.layout import Layout
from seismograd.capture.sampling import Sampling
from seismograd.guard import Guard


class Heard(Budget):
    """A budget that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(every=10, first=0)
        self.told: list[tuple[dict[Extra, float], float | None]] = []

    def samples_took(self, seconds: Mapping[Extra, float], beside: float | None = None) -> None:
        self.told.append((dict(seconds), beside))


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

    assert budget.told == [({Extra.GAIN: 0.003}, None), ({Extra.GAIN: 0.004}, pytest.approx(0.002))]


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
    sampling.of(layout_of(model), ships_rows=ships_rows, shared_model=shared_model)
    sampling.choose(0)

    assert sampling.chosen == expected


def test_other_parameters_are_sampled_for_what_they_have() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    sampling = Sampling(Guard(), Budget(every=10, first=0), model)
    sampling.of(layout_of(model), ships_rows=True, shared_model=False)
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
    with mock.patch("torch.cuda.Event", Mark), mock.patch("torch.cuda.device"):
        times = DeviceTimes(torch.device("cuda"))
        for began in (1.0, 3.0):
            for extra, seconds in ((Extra.WEIGHTS, 0.5), (Extra.LARGEST, 0.25)):
                Mark.clock = began
                times.begin(extra)
                Mark.clock = began + seconds
                times.end(extra)
            times.complete({Extra.WEIGHTS: 0.125})

        Mark.device = 1.3  # in the midst of the first
        assert times.take() == []
        Mark.device = 3.3
        assert times.take() == [{Extra.WEIGHTS: 0.625, Extra.LARGEST: 0.25}]
        assert times.take() == []
        Mark.device = 9.0
        assert times.take() == [{Extra.WEIGHTS: 0.625, Extra.LARGEST: 0.25}]
