"""Versions of torch that build their clipping functions otherwise: reached by name, or said once to be unknown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad

import seismograd
from seismograd.capture import seats
from seismograd.record import NormSource
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]
NAMES = ("clip_grad_norm_", "_get_total_norm", "_clip_grads_with_norm_", "clip_grad_value_")


def put(monkeypatch: pytest.MonkeyPatch, name: str, function: Any) -> None:
    """What this version of torch has under a name."""
    monkeypatch.setattr(clip_grad, name, function)
    if hasattr(torch.nn.utils, name.removeprefix("_")):
        monkeypatch.setattr(torch.nn.utils, name.removeprefix("_"), function)


def train(watch: Watch, clip: Callable[[Iterable[Tensor]], object]) -> tuple[list[float], list[float], NormSource]:
    """Norms recorded and true, and where they were taken."""
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    model(torch.ones(2, 4)).sum().backward()
    true = [float(parameter.grad.norm()) for parameter in model.parameters() if parameter.grad is not None]
    clip(model.parameters())
    optimizer.step()
    (record,) = watched.records()
    assert record.gradient_norms is not None
    return record.gradient_norms.tolist(), true, record.source


def torchs_clip(parameters: Iterable[Tensor]) -> object:
    """Looked up when it is called, as most programs do."""
    return torch.nn.utils.clip_grad_norm_(parameters, 1e-3)


def test_this_torch_has_the_functions_that_we_know() -> None:
    assert all(seats.has_expected_shape(name) for name in NAMES)


def test_functions_in_another_wrapper_are_reached_by_their_names(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        put(monkeypatch, name, torch.no_grad()(seats.original(name)))
    there = torch.nn.utils.clip_grad_norm_

    recorded, true, source = train(watch, torchs_clip)

    assert source is NormSource.CLIP
    assert recorded == pytest.approx(true, rel=1e-6)
    assert torch.nn.utils.clip_grad_norm_ is there, "torch is as it was"
    assert clip_grad.clip_grad_norm_ is there


def later_clip_grad_norm_(  # noqa: PLR0917 - it has the parameters of torch's
    parameters: Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """As a later torch may have it."""
    del dtype
    whole = list(parameters)
    gradients = [parameter.grad for parameter in whole if parameter.grad is not None]
    total: Tensor = torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in gradients]), norm_type)
    for gradient in gradients:
        gradient.mul_(min(1.0, max_norm / float(total)))
    return total


def test_a_function_with_more_parameters_is_left_alone_and_named_once(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(monkeypatch, "clip_grad_norm_", later_clip_grad_norm_)

    recorded, true, source = train(watch, torchs_clip)

    assert source is NormSource.OPTIMIZER_STEP
    assert recorded < true, "behind the clip, as the warning says"
    (message,) = [record.message for record in caplog.records if "other functions than are known" in record.message]
    assert "clip_grad_norm_" in message
    assert "seismograd.clip_grad_norm_" in message
    assert torch.nn.utils.clip_grad_norm_ is later_clip_grad_norm_


def test_our_own_clip_is_right_whatever_torch_has(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "clip_grad_norm_", later_clip_grad_norm_)

    recorded, true, source = train(watch, lambda parameters: seismograd.clip_grad_norm_(list(parameters), 1e-3))

    assert source is NormSource.CLIP
    assert recorded == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_torch_without_one_of_the_functions_is_watched_through_the_others(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    inner = seats.original("clip_grad_norm_")
    assert name not in inspect.signature(inner).parameters
    if name != "clip_grad_value_":
        # Older ones do all of it in clip_grad_norm_ itself.
        put(monkeypatch, "clip_grad_norm_", clip_grad._no_grad(_all_in_one))
    monkeypatch.delattr(clip_grad, name)

    recorded, true, source = train(watch, torchs_clip)

    assert source is NormSource.CLIP
    assert recorded == pytest.approx(true, rel=1e-6)


def _all_in_one(
    parameters: Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    return later_clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


_all_in_one.__name__ = "clip_grad_norm_"
