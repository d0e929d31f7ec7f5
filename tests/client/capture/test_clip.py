"""Clipping under watch: the same result as torch's, and norms taken before anything is scaled, whoever calls."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_ as early_clip
from torch.nn.utils import clip_grad_value_ as early_clip_value
from torch.nn.utils import clip_grads_with_norm_ as early_clip_with_norm
from torch.nn.utils import get_total_norm as early_total_norm

import seismograd
from seismograd.capture import clip as clip_module
from seismograd.capture import seats
from seismograd.capture.parts import Part
from seismograd.record import NormSource, Quantity, RecordFlag
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]
Clip = Callable[..., Any]


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)


def backward(model: nn.Module, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> None:
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(3)).to(dtype)
    (model(inputs).pow(2).sum() * scale).backward()


def true_norms(model: nn.Module) -> list[float]:
    return [0.0 if p.grad is None else float(p.grad.double().norm()) for p in model.parameters()]


def bits_of(parameter: Tensor) -> Any:
    """The gradient's bytes, so that NaN equals NaN and minus zero does not equal zero."""
    assert parameter.grad is not None
    return parameter.grad.contiguous().view(torch.uint8).numpy()


def two_calls(parameters: Any, limit: float) -> Tensor:
    parameters = list(parameters)
    total = early_total_norm([p.grad for p in parameters if p.grad is not None])
    early_clip_with_norm(parameters, limit, total)
    return total


CLIPS: dict[str, Clip] = {
    "the drop-in": seismograd.clip_grad_norm_,
    "torch's": torch.nn.utils.clip_grad_norm_,
    "torch's, imported early": early_clip,
    "torch's two halves, imported early": two_calls,
    "torch's, the slow way": lambda parameters, limit: early_clip(parameters, limit, foreach=False),
}


@pytest.fixture(params=CLIPS, ids=str)
def clip(request: pytest.FixtureRequest) -> Clip:
    return CLIPS[request.param]


def test_norms_are_taken_before_the_clip_whoever_calls_it(watch: Watch, clip: Clip) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model, 50.0)
    expected = true_norms(model)
    total = clip(model.parameters(), 0.5)
    assert max(true_norms(model)) <= 0.5, "the clip has done its work"
    optimizer.step()

    (record,) = watched.records()

    assert record.gradient_norms is not None
    np.testing.assert_allclose(record.gradient_norms, expected, rtol=1e-5)
    assert record.source is NormSource.CLIP
    assert record.flags == RecordFlag.CLIPPED
    assert record.scalars[Quantity.CLIP_THRESHOLD] == 0.5
    assert record.scalars[Quantity.REPORTED_NORM] == float(total)
    assert record.scalars[Quantity.CLIP_COEFFICIENT] == pytest.approx(0.5 / (float(total) + 1e-6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("limit", [1e-3, 1.0, 1e9])
def test_the_drop_in_leaves_the_bits_that_torch_leaves(watch: Watch, dtype: torch.dtype, limit: float) -> None:
    model = network(dtype)
    twin = copy.deepcopy(model)
    backward(model, dtype=dtype)
    backward(twin, dtype=dtype)
    watch(model, torch.optim.SGD(model.parameters(), lr=0.1))

    ours = seismograd.clip_grad_norm_(model.parameters(), limit)
    theirs = seats.original("clip_grad_norm_")(list(twin.parameters()), limit)

    assert torch.equal(ours, theirs)
    assert ours.dtype == theirs.dtype
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.equal(mine.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "share", [-1.0, 0.0, 1 - 2e-5, 1 - 1e-6, 1 - 1e-7, 1.0, 1 + 1e-7, 1 + 1e-6, 1 + 2e-5, math.inf, math.nan]
)
def test_at_the_edge_of_the_threshold_the_bits_are_those_of_torch_too(
    watch: Watch, dtype: torch.dtype, share: float
) -> None:
    model = network(dtype)
    twin = copy.deepcopy(model)
    backward(model, dtype=dtype)
    backward(twin, dtype=dtype)
    watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    limit = share * float(early_total_norm([p.grad for p in twin.parameters() if p.grad is not None]))

    seismograd.clip_grad_norm_(model.parameters(), limit)
    seats.original("clip_grad_norm_")(list(twin.parameters()), limit)

    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(bits_of(mine), bits_of(other))


@given(
    total=st.floats(1e-30, 1e30),
    share=st.floats(1e-20, 0.999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_coefficient_computed_on_the_host_has_the_bits_of_torch(
    total: float, share: float, dtype: torch.dtype
) -> None:
    tensor = torch.tensor(total, dtype=dtype)
    limit = share * float(tensor)

    ours = clip_module._host_coefficient(float(tensor), limit, dtype)

    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours.numpy(), torch.clamp(limit / (tensor + 1e-6), max=1.0).numpy())


def test_two_models_of_one_shape_clipped_before_either_steps_keep_their_own_norms(watch: Watch) -> None:
    models = [network(), network()]
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in models]
    each_watched = [watch(*pair) for pair in zip(models, optimizers, strict=True)]
    true, totals = [], []
    for place, model in enumerate(models):
        backward(model)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad *= 1.0 + place
        true.append(true_norms(model))
        totals.append(seismograd.clip_grad_norm_(model.parameters(), 0.01))
    for optimizer in optimizers:
        optimizer.step()

    for watched, norms, total in zip(each_watched, true, totals, strict=True):
        (record,) = watched.records()
        assert record.gradient_norms is not None
        np.testing.assert_allclose(record.gradient_norms, norms, rtol=1e-6)
        assert float(total) == pytest.approx(math.hypot(*norms), rel=1e-6)


def test_clips_of_ever_other_numbers_of_parameters_are_those_of_torch(watch: Watch) -> None:
    models = [nn.ModuleList(nn.Linear(3, 3) for _ in range(count)) for count in range(1, 12)]
    for model in models * 2:
        for place, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, 1.0 + place)
        watched = watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
        expected = early_total_norm([each.grad for each in model.parameters() if each.grad is not None])

        assert torch.equal(seismograd.clip_grad_norm_(model.parameters(), 1.0), expected)
        watched.monitor.finish()


def test_a_model_whose_parts_have_changed_their_type_since_is_clipped_as_torch_clips_it(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watch(model, optimizer)
    model[2].to(torch.float64)
    twin = copy.deepcopy(model)
    for each in (model, twin):
        for place, parameter in enumerate(each.parameters()):
            parameter.grad = torch.full_like(parameter, 1.0 + place / 7)

    ours = seismograd.clip_grad_norm_(model.parameters(), 0.5)
    theirs = seats.original("clip_grad_norm_")(list(twin.parameters()), 0.5)

    assert torch.equal(ours, theirs)
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(bits_of(mine), bits_of(other))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_clip_of_non_finite_gradients_does_what_torch_does(watch: Watch, bad: float) -> None:
    model, twin = network(), network()
    for each in (model, twin):
        for parameter in each.parameters():
            parameter.grad = torch.full_like(parameter, 2.0)
        gradient = next(each.parameters()).grad
        assert gradient is not None
        gradient[0, 0] = bad
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer)

    ours = seismograd.clip_grad_norm_(model.parameters(), 1.0)
    theirs = seats.original("clip_grad_norm_")(list(twin.parameters()), 1.0)

    assert torch.equal(ours, theirs) or (math.isnan(ours) and math.isnan(theirs))
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(mine.grad, other.grad)  # NaN equals NaN here
    optimizer.step()
    (record,) = watched.records()
    assert record.nonfinite is not None
    assert record.nonfinite.parameters.tolist() == [0]
    assert int(record.nonfinite.nan_counts[0]) == (1 if math.isnan(bad) else 0)
    assert int(record.nonfinite.positive_inf_counts[0]) == (0 if math.isnan(bad) else 1)
    assert record.gradient_norms is not None
    assert record.gradient_norms[0] == pytest.approx(2.0 * math.sqrt(6 * 16 - 1))


def test_an_error_for_a_non_finite_norm_is_the_one_of_torch(watch: Watch) -> None:
    model = network()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    watch(model, torch.optim.SGD(model.parameters(), lr=0.1))

    with pytest.raises(RuntimeError, match="is non-finite, so it cannot be clipped"):
        seismograd.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)


def test_another_norm_than_the_euclidean_clips_as_torch_does_and_is_not_reported_as_one(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model)
    expected, largest = true_norms(model), max(float(p.grad.abs().max()) for p in model.parameters())  # type: ignore[union-attr]  # just made
    total = seismograd.clip_grad_norm_(model.parameters(), 0.01, norm_type=math.inf)
    assert float(total) == pytest.approx(largest)
    optimizer.step()

    (record,) = watched.records()

    np.testing.assert_allclose(record.gradient_norms, expected, rtol=1e-5)  # type: ignore[arg-type]  # there
    assert record.source is NormSource.CLIP
    assert Quantity.REPORTED_NORM not in record.scalars


def test_a_clip_by_value_is_seen_before_it_cuts(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model, 10.0)
    expected = true_norms(model)
    early_clip_value(model.parameters(), 1e-3)
    optimizer.step()

    (record,) = watched.records()

    np.testing.assert_allclose(record.gradient_norms, expected, rtol=1e-5)  # type: ignore[arg-type]  # there
    assert record.source is NormSource.CLIP


def test_parts_of_the_model_clipped_apart_make_one_record(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model)
    expected = true_norms(model)
    seismograd.clip_grad_norm_([*model[2].parameters()][::-1], 1e-3)
    torch.nn.utils.clip_grad_norm_([*model[0].parameters()][:1], 1e-3)  # the bias of this layer is clipped by nobody
    optimizer.step()

    (record,) = watched.records()

    np.testing.assert_allclose(record.gradient_norms, expected, rtol=1e-5)  # type: ignore[arg-type]  # there
    assert record.source is NormSource.CLIP


def test_a_clip_of_the_whole_model_after_one_of_a_part_keeps_what_the_first_saw(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model, 10.0)
    expected = true_norms(model)
    torch.nn.utils.clip_grad_norm_(model[0].parameters(), 1e-3)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-4)
    optimizer.step()

    (record,) = watched.records()

    np.testing.assert_allclose(record.gradient_norms, expected, rtol=1e-5)  # type: ignore[arg-type]  # there
    assert record.source is NormSource.CLIP


def test_a_second_clip_of_the_same_step_does_not_hide_the_first(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model, 10.0)
    expected = true_norms(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    early_total_norm([p.grad for p in model.parameters() if p.grad is not None])  # somebody logs what is left
    optimizer.step()

    (record,) = watched.records()

    np.testing.assert_allclose(record.gradient_norms, expected, rtol=1e-5)  # type: ignore[arg-type]  # there
    assert record.scalars[Quantity.CLIP_THRESHOLD] == 0.5


def test_the_norm_of_the_previous_iteration_is_not_taken_for_this_one(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model, 10.0)
    seismograd.clip_grad_norm_(model.parameters(), 1.0)  # and then the job skips the step
    optimizer.zero_grad()
    backward(model, 3.0)
    expected = true_norms(model)
    seismograd.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

    (record,) = watched.records()

    np.testing.assert_allclose(record.gradient_norms, expected, rtol=1e-5)  # type: ignore[arg-type]  # there


def test_foreign_parameters_and_parameters_without_gradients_are_ignored(watch: Watch) -> None:
    model, other = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(other)
    torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
    assert float(seismograd.clip_grad_norm_(model.parameters(), 1.0)) == 0.0
    told = []
    for clip in (torch.nn.utils.clip_grad_norm_, seismograd.clip_grad_norm_):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            clip((parameter for parameter in list[Tensor]()), 1.0)
        told.append([str(each.message) for each in said])
    assert told[0] == told[1], "of an empty generator it says what torch says: up to 2.6 nothing"
    backward(model)
    model[0].weight.grad = None
    seismograd.clip_grad_norm_([*other.parameters(), *model.parameters()], 1.0)
    expected = [0.0 if p.grad is None else 1.0 for p in model.parameters()]
    optimizer.step()

    (record,) = watched.records()

    assert np.sign(record.gradient_norms).tolist() == expected  # type: ignore[arg-type]  # there
    assert record.source is NormSource.CLIP


def test_without_a_watch_the_drop_in_is_the_function_of_torch() -> None:
    model, twin = network(), network()
    twin.load_state_dict(model.state_dict())
    backward(model)
    backward(twin)

    assert torch.equal(
        seismograd.clip_grad_norm_(model.parameters(), 0.1), torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    )


def test_torch_is_as_it_was_when_the_last_watch_ends(watch: Watch) -> None:
    names = ("clip_grad_norm_", "_get_total_norm", "_clip_grads_with_norm_", "clip_grad_value_")

    def functions() -> list[Any]:
        wrappers = [getattr(torch.nn.utils.clip_grad, name) for name in names]
        return [wrapper.__closure__[0].cell_contents for wrapper in wrappers] + [torch.amp.GradScaler.step]

    before = functions()
    first, second = network(), network()
    one = watch(first, torch.optim.SGD(first.parameters(), lr=0.1))
    two = watch(second, torch.optim.SGD(second.parameters(), lr=0.1))
    assert all(now is not then for now, then in zip(functions(), before, strict=True))
    one.monitor.finish()
    assert functions() != before
    two.monitor.finish()

    assert functions() == before


def test_a_torch_that_is_built_differently_is_intercepted_by_its_names(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "_cell", lambda _wrapper, _name: None)
    before = torch.nn.utils.clip_grad_norm_
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    backward(model, 10.0)
    expected = true_norms(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()

    (record,) = watched.records()

    np.testing.assert_allclose(record.gradient_norms, expected, rtol=1e-5)  # type: ignore[arg-type]  # there
    assert record.source is NormSource.CLIP
    assert torch.nn.utils.clip_grad_norm_ is before


@pytest.mark.parametrize("times", [1, 2])
def test_a_job_that_clips_parameter_by_parameter_pays_for_each_clip_once(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(60)]
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    watched = watch(None, optimizer, sample_every=0, sample_first=0)
    looked = renewed = 0
    holds, renew = Part.holds, Part.renew

    def counting_holds(part: Part) -> bool:
        nonlocal looked
        looked += 1
        return holds(part)

    def counting_renew(part: Part) -> None:
        nonlocal renewed
        renewed += 1
        renew(part)

    monkeypatch.setattr(Part, "holds", counting_holds)
    monkeypatch.setattr(Part, "renew", counting_renew)
    for parameter in parameters:
        parameter.grad = torch.full((3,), 2.0)
        for _ in range(times):
            torch.nn.utils.clip_grad_norm_(parameter, 0.5)
    optimizer.step()

    (record,) = watched.records()
    assert record.source is NormSource.CLIP
    np.testing.assert_allclose(record.gradient_norms, [math.sqrt(12.0)] * 60, rtol=1e-6)  # type: ignore[arg-type]  # there
    assert looked <= 60 * (times + 1)
    assert renewed == 60 * times
