"""Loss scaling: norms after unscaling, and skipped steps recorded as what they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from seismograd.record import NormSource, Quantity, RecordFlag
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]


def run(
    watch: Watch, *, fused: bool, unscale: bool, clip: bool, bad_step: int = 1
) -> tuple[Watched, list[list[float]]]:
    """Three steps of which one overflows; gives the true unscaled norms of the finite steps."""
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    watched = watch(model, optimizer, scaler=scaler)
    norms = []
    for step in range(3):
        optimizer.zero_grad()
        loss = model(torch.full((2, 4), 0.5 + step)).pow(2).sum()
        scaler.scale(loss).backward()
        norms.append([float(p.grad.norm()) / scaler.get_scale() for p in model.parameters() if p.grad is not None])
        if step == bad_step:
            assert model.weight.grad is not None
            model.weight.grad[0, 0] = math.inf
        if unscale:
            scaler.unscale_(optimizer)
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1e6)
        scaler.step(optimizer)
        scaler.update()
        watched.monitor.log(loss=loss)
    return watched, norms


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize(("unscale", "clip"), [(False, False), (True, False), (True, True)])
def test_norms_are_unscaled_and_skips_are_marked(watch: Watch, fused: bool, unscale: bool, clip: bool) -> None:
    watched, norms = run(watch, fused=fused, unscale=unscale, clip=clip)

    records = watched.records()

    assert [record.step for record in records] == [0, 1, 2]
    for index in (0, 2):
        np.testing.assert_allclose(records[index].gradient_norms, norms[index], rtol=1e-5)  # type: ignore[arg-type]  # there
        assert records[index].flags == 0
        assert records[index].source is (NormSource.CLIP if clip else NormSource.OPTIMIZER_STEP)
        assert records[index].nonfinite is None
    skipped = records[1]
    assert skipped.flags == RecordFlag.SKIPPED_BY_SCALER
    assert skipped.source is NormSource.SCALER_SKIP
    assert skipped.nonfinite is not None
    assert skipped.nonfinite.parameters.tolist() == [0]
    assert skipped.nonfinite.positive_inf_counts.tolist() == [1]
    assert skipped.gradient_norms is not None
    assert skipped.gradient_norms[1] == pytest.approx(norms[1][1], rel=1e-5)
    assert [record.scalars[Quantity.LOSS_SCALE] for record in records] == [1024.0, 1024.0, 512.0]
    assert all(Quantity.LOSS in record.scalars for record in records)


def test_a_clip_of_gradients_still_scaled_is_not_called_pre_clip(watch: Watch) -> None:
    watched, norms = run(watch, fused=False, unscale=False, clip=True, bad_step=-1)

    records = watched.records()

    for record, expected in zip(records, norms, strict=True):
        assert record.source is NormSource.POST_MODIFICATION
        np.testing.assert_allclose(record.gradient_norms, expected, rtol=1e-5)  # type: ignore[arg-type]  # there


def test_a_disabled_scaler_changes_nothing(watch: Watch) -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    watched = watch(model, optimizer, scaler=scaler)
    scaler.scale(model(torch.ones(2, 4)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()

    (record,) = watched.records()

    assert record.source is NormSource.OPTIMIZER_STEP
    assert Quantity.LOSS_SCALE not in record.scalars


def test_an_optimizer_that_nobody_watches_is_scaled_as_ever(watch: Watch) -> None:
    watched_model, other = nn.Linear(2, 2), nn.Linear(4, 3)
    watch(watched_model, torch.optim.SGD(watched_model.parameters(), lr=0.1))
    optimizer = torch.optim.SGD(other.parameters(), lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = other.weight.detach().clone()
    scaler.scale(other(torch.ones(1, 4)).sum()).backward()
    scaler.step(optimizer)

    assert torch.equal(before - other.weight.detach(), torch.full((3, 4), 0.5))


@pytest.mark.parametrize("when", ["before our hook", "behind our hook"])
def test_a_scaled_step_that_raised_is_no_step_and_leaves_no_scale_behind(watch: Watch, when: str) -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    fails = False

    def fail(*_: object) -> None:
        if fails:
            raise ArithmeticError("this is the job's own")

    if when == "before our hook":
        optimizer.register_step_pre_hook(fail)
    watched = watch(model, optimizer)
    optimizer.register_step_pre_hook(fail)
    for step in range(6):
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).sum()
        fails = step == 2
        if step <= 3:
            scaler.scale(loss).backward()
            if step == 3:
                assert model.weight.grad is not None
                model.weight.grad[0, 0] = math.inf
            with pytest.raises(ArithmeticError) if fails else nullcontext():
                scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()
        if not fails:
            watched.monitor.log(loss=float(step))

    records = watched.records()
    assert [record.scalars[Quantity.LOSS] for record in records] == [0.0, 1.0, 3.0, 4.0, 5.0]
    assert [record.scalars.get(Quantity.LOSS_SCALE) for record in records] == [8.0, 8.0, 8.0, None, None]
    assert [bool(record.flags & RecordFlag.SKIPPED_BY_SCALER) for record in records] == [
        False,
        False,
        True,
        False,
        False,
    ]
