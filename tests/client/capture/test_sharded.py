"""DTensors in one process of its own world: what is recorded of them, and that no collective is added.

That many processes compose to the truth is shown by tests/conformance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.distributed.tensor._ops._math_ops import _NormPartial
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

import seismograd
from seismograd.record import Composition, NormSource, Quantity, RecordFlag, StepRecord
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceMesh]:
    """A mesh of one process."""
    store = tmp_path_factory.mktemp("mesh") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def network(mesh: DeviceMesh, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)
    fully_shard(model, mesh=mesh)
    return model


def backward(model: nn.Module, scale: float = 1.0) -> None:
    parameter = next(model.parameters())
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(3)).to(parameter.dtype)
    (model(inputs).pow(2).sum() * scale).backward()


def inside(gradient: Tensor | None) -> Tensor:
    """The plain tensor in a gradient."""
    assert isinstance(gradient, DTensor)
    return gradient.to_local()


def true_norms(model: nn.Module) -> list[float]:
    return [float(inside(parameter.grad).double().norm()) for parameter in model.parameters()]


def two_halves(parameters: list[Tensor], limit: float) -> None:
    total = get_total_norm([p.grad for p in parameters if p.grad is not None])
    clip_grads_with_norm_(parameters, limit, total)


CLIPS: dict[str, Callable[[list[Tensor], float], object]] = {
    "the drop-in": seismograd.clip_grad_norm_,
    "torch's": clip_grad_norm_,
    "torch's two halves": two_halves,
    "torch's, the slow way": lambda parameters, limit: clip_grad_norm_(parameters, limit, foreach=False),
}


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_norms_are_those_before_the_clip(watch: Watch, mesh: DeviceMesh, dtype: torch.dtype, clip: object) -> None:
    assert callable(clip)
    model = network(mesh, dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model, 20.0)
    expected = true_norms(model)
    clip(list(model.parameters()), 0.5)
    assert max(true_norms(model)) <= 0.51
    optimizer.step()

    (record,) = watched.records()

    np.testing.assert_allclose(norms_of(record), expected, rtol=1e-5)
    assert record.source is NormSource.CLIP
    assert record.flags == RecordFlag.CLIPPED
    assert record.scalars[Quantity.CLIP_THRESHOLD] == 0.5


def norms_of(record: StepRecord) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    assert record.gradient_norms is not None
    return record.gradient_norms


def test_a_step_that_nobody_clips_is_measured_without_a_collective(watch: Watch, mesh: DeviceMesh) -> None:
    model = network(mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    watched = watch(model, optimizer)
    backward(model)
    expected = true_norms(model)
    with CommDebugMode() as communication:
        optimizer.step()
    assert communication.get_total_counts() == 0

    (record,) = watched.records()

    np.testing.assert_allclose(norms_of(record), expected, rtol=1e-6)
    assert record.source is NormSource.OPTIMIZER_STEP
    np.testing.assert_allclose(record.tensors[Quantity.WEIGHT_NORM], [w.norm() for w in before(mesh)], rtol=1e-6)
    assert np.all(record.tensors[Quantity.UPDATE_NORM] > 0.0)


def before(mesh: DeviceMesh) -> list[Tensor]:
    """The weights that `network` begins with."""
    torch.manual_seed(0)
    return [inside(parameter.detach()) for parameter in network(mesh).parameters()]


@pytest.mark.parametrize("locally", [False, True])
def test_gradients_changed_after_the_clip_are_not_called_pre_clip(
    watch: Watch, mesh: DeviceMesh, locally: bool
) -> None:
    model = network(mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model)
    clip_grad_norm_(model.parameters(), 0.5)
    for parameter in model.parameters():
        assert parameter.grad is not None
        (inside(parameter.grad) if locally else parameter.grad).mul_(3.0)
    expected = true_norms(model)
    optimizer.step()

    (record,) = watched.records()

    np.testing.assert_allclose(norms_of(record), expected, rtol=1e-6)
    assert record.source is NormSource.POST_MODIFICATION


def test_what_is_not_finite_in_a_shard_is_counted(watch: Watch, mesh: DeviceMesh) -> None:
    model = network(mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model)
    first = inside(next(model.parameters()).grad)
    first[0, 0], first[0, 1] = math.nan, math.inf
    expected = float(torch.where(torch.isfinite(first), first, 0.0).norm())
    clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()

    (record,) = watched.records()

    assert record.nonfinite is not None
    assert record.nonfinite.parameters.tolist() == [0]
    assert (record.nonfinite.nan_counts.tolist(), record.nonfinite.positive_inf_counts.tolist()) == ([1], [1])
    assert norms_of(record)[0] == pytest.approx(expected)


def test_one_clip_over_two_optimizers_gives_each_its_own_norms(watch: Watch, mesh: DeviceMesh) -> None:
    model = network(mesh)
    parameters = list(model.parameters())
    optimizers = [torch.optim.SGD(parameters[:2], lr=0.1), torch.optim.Adam(parameters[1:], lr=0.1)]
    watched = watch(model, optimizers)
    backward(model)
    expected = true_norms(model)
    total = clip_grad_norm_(parameters, 0.5)
    for optimizer in optimizers:
        optimizer.step()

    (first,), second = watched.records(0), watched.ledger.records(1)

    np.testing.assert_allclose(norms_of(first), expected[:2], rtol=1e-6)
    np.testing.assert_allclose(norms_of(second[0]), expected[1:], rtol=1e-6)
    assert first.source is second[0].source is NormSource.CLIP
    assert first.scalars[Quantity.REPORTED_NORM] == pytest.approx(float(inside(total)))


@pytest.mark.parametrize(("limit", "expected"), [(0.5, 0.05), (100.0, 1.0)])
def test_a_total_that_is_known_nowhere_is_told_by_what_the_clip_scales_by(
    watch: Watch, mesh: DeviceMesh, limit: float, expected: float
) -> None:
    """As torch up to 2.9 has it: the norm of what this process holds, not yet brought together with those of others."""
    model = network(mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model)
    norms, total = true_norms(model), DTensor.from_local(torch.tensor(10.0), mesh, [_NormPartial(2.0)])
    clip_grads_with_norm_(list(model.parameters()), limit, total)
    scaled = true_norms(model)
    optimizer.step()

    (record,) = watched.records()

    np.testing.assert_allclose(norms_of(record), norms, rtol=1e-6)
    np.testing.assert_allclose(scaled, [expected * norm for norm in norms], rtol=1e-5)
    assert record.scalars[Quantity.CLIP_COEFFICIENT] == pytest.approx(expected)
    assert Quantity.REPORTED_NORM not in record.scalars
    assert record.flags == (RecordFlag.CLIPPED if expected < 1.0 else RecordFlag(0))


class TestSummands:
    """A parameter whose gradient is a summand on every process, as norms have it under sequence parallelism."""

    def build(self, mesh: DeviceMesh) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A model of one replicated parameter."""
        model = nn.Module()
        model.scale = nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Replicate()]))
        return model, torch.optim.SGD(model.parameters(), lr=0.0)

    def give_gradient(self, model: nn.Module, mesh: DeviceMesh, values: Tensor) -> None:
        """As a backward pass would."""
        parameter = next(model.parameters())
        parameter.grad = DTensor.from_local(values, mesh, [Partial()])

    def test_unclipped_they_are_marked(self, watch: Watch, mesh: DeviceMesh) -> None:
        model, optimizer = self.build(mesh)
        watched = watch(model, optimizer)
        self.give_gradient(model, mesh, torch.full((4,), 2.0))
        optimizer.step()

        (record,) = watched.records()

        assert record.flags == RecordFlag.INEXACT
        catalog = next(each for each in watched.ledger.catalogs if each.version == record.catalog_version)
        assert [each.composition for each in catalog.parameters] == [Composition.PARTIAL]

    def test_under_a_clip_they_are_what_torch_made_of_them(self, watch: Watch, mesh: DeviceMesh) -> None:
        model, optimizer = self.build(mesh)
        watched = watch(model, optimizer)
        self.give_gradient(model, mesh, torch.full((4,), 2.0))
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        (record,) = watched.records()

        assert record.flags == RecordFlag.CLIPPED
        assert norms_of(record).tolist() == [4.0]
        (catalog,) = watched.ledger.catalogs
        assert [each.composition for each in catalog.parameters] == [Composition.SUM_OF_SQUARES]

    def test_norms_taken_group_by_group_before_one_clip_are_kept(self, watch: Watch, mesh: DeviceMesh) -> None:
        model, _ = self.build(mesh)
        model.other = nn.Parameter(distribute_tensor(torch.ones(2), mesh, [Replicate()]))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        watched = watch(model, optimizer)
        for parameter in model.parameters():
            parameter.grad = DTensor.from_local(torch.full(parameter.shape, 2.0), mesh, [Partial()])
        squares = [inside(get_total_norm([p.grad])).square() for p in model.parameters() if p.grad is not None]
        clip_grads_with_norm_(model.parameters(), 1.0, torch.stack(squares).sum().sqrt())
        optimizer.step()

        (record,) = watched.records()

        assert record.flags == RecordFlag.CLIPPED
        np.testing.assert_allclose(norms_of(record), [4.0, math.sqrt(8.0)], rtol=1e-6)
        assert record.scalars[Quantity.REPORTED_NORM] == pytest.approx(math.sqrt(24.0))

    def test_a_job_that_clips_now_and_then_has_two_catalogs(self, watch: Watch, mesh: DeviceMesh) -> None:
        model, optimizer = self.build(mesh)
        watched = watch(model, optimizer)
        for step in range(6):
            self.give_gradient(model, mesh, torch.full((4,), 2.0))
            if step % 2:
                clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        records = watched.records()

        assert [record.catalog_version for record in records] == [1, 0, 1, 0, 1, 0]
        assert {each.version for each in watched.ledger.catalogs} == {0, 1}

    def test_nan_in_a_summand_is_counted_and_the_norm_of_the_rest_not_known(
        self, watch: Watch, mesh: DeviceMesh
    ) -> None:
        model, optimizer = self.build(mesh)
        watched = watch(model, optimizer)
        self.give_gradient(model, mesh, torch.tensor([1.0, math.nan, 2.0, 3.0]))
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        (record,) = watched.records()

        assert record.nonfinite is not None
        assert record.nonfinite.nan_counts.tolist() == [1]
        assert math.isnan(norms_of(record)[0])

    def test_halves_keep_the_sum_that_torch_rounded_and_say_so(self, watch: Watch, mesh: DeviceMesh) -> None:
        model = nn.Module()
        model.scale = nn.Parameter(distribute_tensor(torch.ones(3, dtype=torch.bfloat16), mesh, [Replicate()]))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        watched = watch(model, optimizer)
        self.give_gradient(model, mesh, torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16))
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        (record,) = watched.records()

        assert norms_of(record)[0] == pytest.approx(math.sqrt(14.0), rel=2.0**-8)
        assert record.flags == RecordFlag.CLIPPED | RecordFlag.INEXACT


def test_the_result_of_a_clip_has_the_bits_that_torch_gives(watch: Watch, mesh: DeviceMesh) -> None:
    torch.manual_seed(1)
    plain = network(mesh)
    torch.manual_seed(1)
    watched = network(mesh)
    watch(watched, torch.optim.SGD(watched.parameters(), lr=0.1))
    for model in (plain, watched):
        backward(model, 20.0)
    with CommDebugMode() as first:
        theirs = clip_grad_norm_(plain.parameters(), 0.5)
    with CommDebugMode() as second:
        ours = clip_grad_norm_(watched.parameters(), 0.5)
    assert torch.equal(inside(ours), inside(theirs))
    assert first.get_comm_counts() == second.get_comm_counts()
    for mine, other in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(inside(mine.grad), inside(other.grad))
