"""On a CUDA device: the same numbers as on the host, and not one synchronisation in the training thread."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

import seismograd
from seismograd.capture import norms, seats
from seismograd.record import NormSource, Quantity, RecordFlag
from tests.client.capture.conftest import Watched

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

Watch = Callable[..., Watched]


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 300), nn.Tanh(), nn.Linear(300, 8)).to("cuda", dtype)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_steps_are_recorded_without_waiting_for_the_device(
    watch: Watch, clip: bool, dtype: torch.dtype, no_synchronisation: None
) -> None:
    model = network(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer)
    inputs = torch.ones(16, 64, device="cuda", dtype=dtype)
    gradients = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(inputs).pow(2).mean()
        loss.backward()
        gradients.append(
            [parameter.grad.detach().clone() for parameter in model.parameters() if parameter.grad is not None]
        )
        if clip:
            seismograd.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        watched.monitor.log(loss=loss, batch=torch.arange(3, device="cuda"))
    torch.cuda.set_sync_debug_mode("default")

    records = watched.records()

    assert [record.step for record in records] == list(range(40))
    for record in records:
        expected = [float(gradient.double().norm()) for gradient in gradients[record.step]]
        np.testing.assert_allclose(record.gradient_norms, expected, rtol=2e-3)  # type: ignore[arg-type]  # there
        assert record.source is (NormSource.CLIP if clip else NormSource.OPTIMIZER_STEP)
        assert math.isfinite(record.scalars[Quantity.LOSS])
        assert record.data_ids == "0 1 2"
        if clip:
            assert record.flags & RecordFlag.CLIPPED


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_the_drop_in_leaves_the_bits_that_torch_leaves(watch: Watch, dtype: torch.dtype) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        model = network(dtype)
        model(torch.randn(16, 64, device="cuda", dtype=dtype)).pow(2).mean().backward()
        twin = copy.deepcopy(model)
        for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
            assert mine.grad is not None
            other.grad = mine.grad.clone()
        watched = watch(model, torch.optim.SGD(model.parameters(), lr=0.0))
        ours = seismograd.clip_grad_norm_(model.parameters(), 1e-2)
        theirs = seats.original("clip_grad_norm_")(list(twin.parameters()), 1e-2)
        watched.monitor.finish()
        assert torch.equal(ours, theirs)
        for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(mine.grad, other.grad)  # type: ignore[arg-type]  # both there


@pytest.mark.parametrize("magnitude", [1e20, 1e-25])
def test_norms_whose_squares_leave_float32_are_true(magnitude: float) -> None:
    gradients = [torch.full((100,), magnitude, device="cuda")]

    found = norms.stacked_norms(gradients, norms.accumulation(torch.float32, gradients[0].device))

    assert float(found[0]) == pytest.approx(10 * magnitude, rel=1e-5)


def test_a_non_finite_gradient_is_told_at_once_and_counted_from_the_next_steps_on(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer)
    for _ in range(12):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        weight = list(model.parameters())[2].grad
        assert weight is not None
        weight[0, :5] = math.nan
        weight[0, 5] = -math.inf
        optimizer.step()
        torch.cuda.synchronize()
        watched.ledger.wait_for(lambda ledger: bool(ledger.records()), 2.0)

    records = watched.records()

    assert all(record.nonfinite is not None and record.nonfinite.parameters.tolist() == [2] for record in records)
    first, last = records[0], records[-1]
    assert first.flags & RecordFlag.INEXACT
    assert first.gradient_norms is not None
    assert math.isnan(first.gradient_norms[2])
    assert last.nonfinite is not None
    assert int(last.nonfinite.nan_counts[0]) == 5
    assert int(last.nonfinite.negative_inf_counts[0]) == 1
    assert last.gradient_norms is not None
    assert last.gradient_norms[2] == pytest.approx(math.sqrt(300 * 8 - 6))


def test_a_graph_can_be_captured_under_watch(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, capturable=True)
    watched = watch(model, optimizer)
    inputs = torch.ones(16, 64, device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        model(inputs).pow(2).mean().backward()
        seismograd.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(5):
        graph.replay()
    torch.cuda.synchronize()

    assert [record.step for record in watched.records()] == [0, 1, 2]


def test_a_graph_can_be_captured_while_records_of_earlier_steps_are_on_their_way(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watched = watch(model, optimizer)
    inputs = torch.ones(16, 64, device="cuda")
    for _ in range(5):
        graph, doubled = torch.cuda.CUDAGraph(), torch.zeros(8, device="cuda")
        optimizer.zero_grad()
        model(inputs).pow(2).mean().backward()
        optimizer.step()
        with torch.cuda.graph(graph):  # another thread that asks for any event would break it off
            doubled = doubled + doubled
            time.sleep(0.2)  # the sender asks whether the step has arrived meanwhile
        graph.replay()

    assert [record.step for record in watched.records()] == list(range(5))


def test_a_model_on_two_devices_has_its_norms_and_its_losses(watch: Watch) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two devices")
    model = nn.ModuleList([nn.Linear(8, 8).to("cuda:0"), nn.Linear(8, 1).to("cuda:1")])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer)
    for step in range(60):
        optimizer.zero_grad()
        loss = model[1](model[0](torch.ones(4, 8, device="cuda:0")).to("cuda:1")).pow(2).mean()
        loss.backward()
        optimizer.step()
        if step % 3:  # the buffers of the two devices change places, if they are the same
            watched.monitor.log(loss=loss)

    records = watched.records()

    assert [record.step for record in records] == list(range(60))
    assert [Quantity.LOSS in record.scalars for record in records] == [bool(step % 3) for step in range(60)]


def test_a_scaler_that_skips_has_every_kind_counted(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cuda", init_scale=64.0)
    watched = watch(model, optimizer, scaler=scaler)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(4, 64, device="cuda")).pow(2).mean()).backward()
        if step == 1:
            gradient = next(model.parameters()).grad
            assert gradient is not None
            gradient[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()

    records = watched.records()

    assert [bool(record.flags & RecordFlag.SKIPPED_BY_SCALER) for record in records] == [False, True, False]
    assert records[1].nonfinite is not None
    assert records[1].nonfinite.positive_inf_counts.tolist() == [1]
    assert [record.scalars[Quantity.LOSS_SCALE] for record in records] == [64.0, 64.0, 32.0]


class Recurrent(nn.Module):
    """Has everything that the extras look at: recurrent and square matrices, and others."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32)
        self.square = nn.Linear(32, 32)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.square(self.lstm(inputs)[0])
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_extras_are_taken_without_waiting_for_the_device(
    watch: Watch, dtype: torch.dtype, no_synchronisation: None
) -> None:
    model = Recurrent().to("cuda", dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer, sample_every=1, sample_budget=1.0)
    inputs = torch.ones(5, 2, 8, device="cuda", dtype=dtype)
    largest = []
    for _ in range(12):
        optimizer.zero_grad()
        model(inputs).float().pow(2).mean().backward()
        largest.append([p.grad.detach().abs().max() for p in model.parameters() if p.grad is not None])
        seismograd.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
    torch.cuda.set_sync_debug_mode("default")

    records = [record for record in watched.records() if Quantity.SPECTRAL_GAIN in record.tensors]

    assert records
    assert not watched.monitor._guard.broken
    for record in records:
        expected = [float(each) for each in largest[record.step]]
        np.testing.assert_allclose(record.tensors[Quantity.MAX_ABS], expected, rtol=2e-3)
        assert np.isfinite(record.tensors[Quantity.UPDATE_NORM]).all()
    weight = model.square.weight.detach().double().cpu().numpy()
    column = [name for name, _ in model.named_parameters()].index("square.weight")
    found = records[-1].tensors[Quantity.SPECTRAL_GAIN][column]
    assert found == pytest.approx(np.linalg.norm(weight, 2), rel=0.02)


def test_a_fused_optimizer_under_a_scaler_is_recorded_unscaled_and_its_skips_are_seen(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    watched = watch(model, optimizer, scaler=scaler)
    expected = []
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(4, 64, device="cuda")).pow(2).mean()).backward()
        expected.append(
            [float(p.grad.double().norm()) / scaler.get_scale() for p in model.parameters() if p.grad is not None]
        )
        if step == 1:
            gradient = next(model.parameters()).grad
            assert gradient is not None
            gradient[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()

    records = watched.records()

    assert [bool(record.flags & RecordFlag.SKIPPED_BY_SCALER) for record in records] == [False, True, False]
    for record in (records[0], records[2]):
        np.testing.assert_allclose(record.gradient_norms, expected[record.step], rtol=1e-4)  # type: ignore[arg-type]  # there


def synchronisations(step: Callable[[], None]) -> int:
    """How often the host waited for the device in ten steps, as the profiler saw it."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(10):
            step()
    names = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize", "cudaMemcpy")
    return sum(event.count for event in profile.key_averages() if event.key in names)


def test_a_profile_of_watched_steps_shows_no_synchronisation_that_training_has_not(watch: Watch) -> None:
    model = Recurrent().to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    inputs = torch.ones(5, 2, 8, device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        model(inputs).pow(2).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()

    step()
    without = synchronisations(step)
    watched = watch(model, optimizer, sample_every=2, sample_budget=1.0)
    step()

    assert synchronisations(step) <= without
    assert len(watched.records()) == 11
