"""One record per optimizer step, with true norms, whatever the loop looks like."""

from __future__ import annotations

import copy
import io
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import seismograd
from seismograd.record import NormSource, Quantity, RecordFlag, StepRecord
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def loss_of(model: nn.Module, seed: int = 0) -> Tensor:
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    loss: Tensor = model(inputs).pow(2).mean()
    return loss


def true_norms(parameters: Any) -> list[float]:
    gradients = [None if p.grad is None else p.grad.detach() for p in parameters]
    whole = [g.coalesce().to_dense() if g is not None and g.is_sparse else g for g in gradients]
    return [0.0 if gradient is None else float(gradient.double().norm()) for gradient in whole]


def assert_norms(record: StepRecord, expected: list[float]) -> None:
    assert record.gradient_norms is not None
    np.testing.assert_allclose(record.gradient_norms, expected, rtol=2e-5)


def test_a_loop_without_a_clip_is_recorded_by_the_step(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    watched = watch(model, optimizer)
    expected, losses = [], []
    for step in range(3):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        expected.append(true_norms(model.parameters()))
        optimizer.step()
        watched.monitor.log(loss=loss)
        losses.append(loss.item())

    records = watched.records()

    assert [(record.step, record.sequence, record.branch) for record in records] == [(0, 0, 0), (1, 1, 0), (2, 2, 0)]
    for record, norms, loss_value in zip(records, expected, losses, strict=True):
        assert_norms(record, norms)
        assert record.source is NormSource.OPTIMIZER_STEP
        assert record.flags == 0
        assert record.nonfinite is None
        assert record.scalars[Quantity.LOSS] == pytest.approx(loss_value)
        assert record.scalars[Quantity.LEARNING_RATE] == 0.01
        assert record.scalars[Quantity.CAPTURE_SECONDS] >= 0.0
        assert Quantity.CLIP_THRESHOLD not in record.scalars
    assert Quantity.STEP_SECONDS not in records[0].scalars
    assert 0.0 < records[1].scalars[Quantity.STEP_SECONDS] < 60.0


def test_accumulated_gradients_make_one_record_of_their_sum(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    expected = []
    for _ in range(2):
        optimizer.zero_grad()
        for micro_batch in range(4):
            (loss_of(model, micro_batch) / 4).backward()
        expected.append(true_norms(model.parameters()))
        seismograd.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()

    records = watched.records()

    assert len(records) == 2
    for record, norms in zip(records, expected, strict=True):
        assert_norms(record, norms)


@pytest.mark.parametrize("replaced", [False, True], ids=["in place", "replaced"])
def test_gradients_changed_after_the_clip_are_not_called_pre_clip(watch: Watch, replaced: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    loss_of(model).backward()
    seismograd.clip_grad_norm_(model.parameters(), 1e-3)
    for parameter in model.parameters():
        assert parameter.grad is not None
        if replaced:
            parameter.grad = parameter.grad + 1.0
        else:
            parameter.grad.add_(1.0)
    expected = true_norms(model.parameters())
    optimizer.step()

    (record,) = watched.records()

    assert record.source is NormSource.POST_MODIFICATION
    assert_norms(record, expected)
    assert Quantity.REPORTED_NORM not in record.scalars


def test_the_step_is_measured_before_it_changes_anything(watch: Watch) -> None:
    class Destructive(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            result = super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad.zero_()
            return result

    model = network()
    optimizer = Destructive(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    loss_of(model).backward()
    expected = true_norms(model.parameters())
    optimizer.step()

    (record,) = watched.records()

    assert_norms(record, expected)


@pytest.mark.parametrize("kind", ["lbfgs", "sgd"])
def test_a_closure_makes_one_record_per_step(watch: Watch, kind: str) -> None:
    model = network()
    optimizer = (
        torch.optim.LBFGS(model.parameters(), max_iter=4)
        if kind == "lbfgs"
        else torch.optim.SGD(model.parameters(), lr=0.1)
    )
    watched = watch(model, optimizer)
    seen: list[list[float]] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        seen.append(true_norms(model.parameters()))
        return loss

    last = []
    for _ in range(2):
        step: Any = optimizer.step  # torch annotates a closure that gives a float; everybody's gives a tensor
        step(closure)
        last.append(seen[-1])

    records = watched.records()

    assert len(records) == 2
    for record, norms in zip(records, last, strict=True):
        assert_norms(record, norms)


def test_a_clip_inside_a_closure_is_the_source(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    before: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        before.extend(true_norms(model.parameters()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        return loss

    optimizer.step(closure)

    (record,) = watched.records()

    assert record.source is NormSource.CLIP
    assert_norms(record, before)


def test_a_clip_in_somebodys_step_hook_adds_its_threshold(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)

    def clip(*_: object) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)

    optimizer.register_step_pre_hook(clip)
    expected = []
    for step in range(2):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        expected.append(true_norms(model.parameters()))
        optimizer.step()

    records = watched.records()

    for record, norms in zip(records, expected, strict=True):
        assert_norms(record, norms)
        assert record.scalars[Quantity.CLIP_THRESHOLD] == 1e-3
        assert record.source is NormSource.OPTIMIZER_STEP


@pytest.mark.parametrize(
    ("value", "column"),
    [(math.nan, "nan_counts"), (math.inf, "positive_inf_counts"), (-math.inf, "negative_inf_counts")],
)
def test_non_finite_elements_are_counted_by_kind_and_parameter(watch: Watch, value: float, column: str) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer)
    loss_of(model).backward()
    gradient = list(model.parameters())[2].grad
    assert gradient is not None
    gradient[0, :3] = value
    finite = float(gradient[torch.isfinite(gradient)].norm())
    optimizer.step()

    (record,) = watched.records()

    assert record.nonfinite is not None
    assert record.nonfinite.parameters.tolist() == [2]
    counts = {
        name: getattr(record.nonfinite, name).tolist()
        for name in ("nan_counts", "positive_inf_counts", "negative_inf_counts")
    }
    assert counts == {name: [3 if name == column else 0] for name in counts}
    assert record.gradient_norms is not None
    assert record.gradient_norms[2] == pytest.approx(finite, rel=1e-5)
    assert np.isfinite(record.gradient_norms).all()


@pytest.mark.parametrize("magnitude", [1e20, 1e-25])
def test_norms_whose_squares_leave_float32_are_true(watch: Watch, magnitude: float) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer)
    for clipped in (False, True):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, magnitude)
        if clipped:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for record in watched.records():
        assert_norms(record, [magnitude * math.sqrt(p.numel()) for p in model.parameters()])
        assert record.nonfinite is None


def test_parameters_frozen_unused_tied_and_sparse_do_no_harm(watch: Watch) -> None:
    class Tangle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 6, sparse=True)
            self.frozen = nn.Linear(6, 6).requires_grad_(False)
            self.unused = nn.Linear(6, 6)
            self.first = nn.Linear(6, 6)
            self.second = nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, ids: Tensor) -> Tensor:
            hidden: Tensor = self.second(self.first(self.frozen(self.embed(ids))))
            return hidden

    model = Tangle()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    expected = []
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.tensor([1, 1, 4])).pow(2).sum().backward()
        expected.append(true_norms(named.values()))
        optimizer.step()

    records = watched.records()

    (catalog,) = watched.ledger.catalogs
    assert [parameter.name for parameter in catalog.parameters] == list(named)
    assert "second.weight" not in named
    for record, norms in zip(records, expected, strict=True):
        assert_norms(record, norms)


def test_half_precision_parameters_have_norms_beyond_their_type(watch: Watch) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        model = nn.Linear(64, 64).to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        watched = watch(model, optimizer)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 60000.0)
        optimizer.step()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()

        for record in watched.records():
            value = float(torch.tensor(60000.0).to(dtype))
            assert_norms(record, [value * math.sqrt(p.numel()) for p in model.parameters()])
            assert record.nonfinite is None


def test_several_optimizers_have_a_series_each(watch: Watch) -> None:
    generator, critic = network(), nn.Linear(3, 1)
    first, second = torch.optim.SGD(generator.parameters(), lr=0.1), torch.optim.Adam(critic.parameters(), lr=0.2)
    watched = watch(nn.ModuleDict({"generator": generator, "critic": critic}), [first, second])
    for _ in range(3):
        for _ in range(2):
            critic(generator(torch.randn(4, 6)).detach()).mean().backward()
            torch.nn.utils.clip_grad_norm_(critic.parameters(), 1e-3)
            second.step()
            second.zero_grad()
        loss = critic(generator(torch.randn(4, 6))).mean()
        loss.backward()
        first.step()
        first.zero_grad()
        watched.monitor.log(loss=loss)

    assert [record.step for record in watched.records(0)] == [0, 1, 2]
    second_records = watched.records(1)
    assert [record.step for record in second_records] == [0, 1, 2, 3, 4, 5]
    assert all(record.source is NormSource.CLIP for record in second_records)
    assert [next(p.name for p in catalog.parameters) for catalog in watched.ledger.catalogs] == [
        "generator.0.weight",
        "critic.weight",
    ]
    (identity,) = watched.ledger.identities.values()
    assert [info.class_name.rsplit(".", 1)[1] for info in identity.optimizers] == ["SGD", "Adam"]


def test_parameters_added_or_thawed_later_make_a_new_catalog(watch: Watch) -> None:
    model = network()
    model[0].requires_grad_(False)
    extra = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)

    def step(records: int) -> None:
        optimizer.step()
        watched.monitor.log(loss=0.0)
        assert watched.ledger.wait_for(lambda ledger: len(ledger.records()) == records)

    loss_of(model).backward()
    step(1)
    model[0].requires_grad_(True)
    loss_of(model).backward()
    expected = true_norms(model.parameters())
    step(2)
    optimizer.add_param_group({"params": extra.parameters()})
    extra(torch.ones(3)).sum().backward()
    step(3)

    records = watched.records()

    assert [len(record.gradient_norms) for record in records if record.gradient_norms is not None] == [2, 4, 6]
    assert [record.catalog_version for record in records] == [0, 1, 2]
    assert [len(catalog.parameters) for catalog in watched.ledger.catalogs] == [2, 4, 6]
    assert_norms(records[1], expected)


def test_gradients_with_a_graph_of_their_own_are_measured(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer, sample_first=0)
    expected = []
    for step in range(6):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*create_graph=True")
            loss_of(model).backward(create_graph=step >= 3)
        expected.append(true_norms(model.parameters()))
        optimizer.step()
        for parameter in model.parameters():
            parameter.grad = None  # breaks the cycle that create_graph makes

    for record, norms in zip(watched.records(), expected, strict=True):
        assert_norms(record, norms)


def test_a_step_that_the_job_skips_can_be_said(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    for step in range(3):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if step == 1:
            watched.monitor.log(loss=loss, skipped=True)
            continue
        optimizer.step()
        watched.monitor.log(loss=loss)

    records = watched.records()

    assert [bool(record.flags & RecordFlag.SKIPPED_BY_USER) for record in records] == [False, True, False]
    assert [record.step for record in records] == [0, 1, 2]
    assert all(Quantity.LOSS in record.scalars for record in records)


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_recurrent_and_attention_models_are_recorded(watch: Watch, kind: str) -> None:
    model = nn.LSTM(6, 8, 2) if kind == "lstm" else nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    watched = watch(model, optimizer)
    output = model(torch.randn(5, 2, 6))
    (output[0] if isinstance(output, tuple) else output).pow(2).sum().backward()
    expected = true_norms(model.parameters())
    seismograd.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()

    (record,) = watched.records()

    assert_norms(record, expected)
    assert [p.name for p in watched.ledger.catalogs[0].parameters] == [name for name, _ in model.named_parameters()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler meets torch's own deprecations
def test_a_compiled_step_is_recorded_every_time(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)

    @torch.compile(backend="eager")
    def compiled_step() -> None:
        optimizer.step()

    expected = []
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        expected.append(true_norms(model.parameters()))
        compiled_step()

    records = watched.records()

    assert len(records) == 3
    for record, norms in zip(records, expected, strict=True):
        assert_norms(record, norms)


def test_models_and_optimizers_can_be_copied_and_saved_under_watch(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)

    def save_and_copy() -> None:
        stream = io.BytesIO()
        torch.save(model, stream)
        stream.seek(0)
        for twin in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
            loss_of(twin).backward()
            twin_optimizer = torch.optim.Adam(twin.parameters(), lr=0.1)
            twin_optimizer.step()
        copy.deepcopy(optimizer).step()
        torch.save(optimizer.state_dict(), io.BytesIO())

    save_and_copy()
    loss_of(model).backward()
    optimizer.step()
    save_and_copy()

    assert len(watched.records()) == 1


def test_the_catalog_follows_the_forward_pass(watch: Watch) -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(6, 3)
            self.first = nn.Linear(6, 6)

        def forward(self, inputs: Tensor) -> Tensor:
            result: Tensor = self.last(self.first(inputs))
            return result

    model = Backwards()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    loss_of(model).backward()
    optimizer.step()
    watched.records()

    (catalog,) = watched.ledger.catalogs
    found = {
        parameter.name: (parameter.depth, parameter.module_type, parameter.shape) for parameter in catalog.parameters
    }
    assert found["first.weight"] == (0, "Linear", (6, 6))
    assert found["last.bias"] == (1, "Linear", (3,))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_capture_global_ships_the_total_only(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer, capture="global")
    loss_of(model).backward()
    expected = math.sqrt(sum(norm**2 for norm in true_norms(model.parameters())))
    optimizer.step()

    (record,) = watched.records()

    assert record.gradient_norms is None
    assert record.total_norm == pytest.approx(expected, rel=1e-5)
    assert record.digest is None
    assert not record.tensors
