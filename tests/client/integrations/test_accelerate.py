"""Accelerate itself prepares and accumulates; what is recorded equals the same training in plain torch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader

import seismograd
from seismograd.integrations import accelerate as watching
from seismograd.record import NormSource, Quantity, RecordFlag
from seismograd.testing import RecordingServer
from tests.client.integrations.conftest import Truth, norms_of, train_plainly

CLIP = 0.05


@pytest.fixture(autouse=True)
def forget_the_accelerator() -> Iterator[None]:
    """Accelerate keeps its state for the whole process."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).pow(2).mean()  # type: ignore[no-any-return]  # a module's call is untyped


def batches(count: int) -> list[Tensor]:
    return [torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(count)]


def train(
    accelerator: Accelerator, watched: watching.AcceleratedMonitor, prepared: Any, clip: float | None, fails_at: int
) -> None:
    model, optimizer, loader = prepared
    with watched:
        for index, batch in enumerate(loader):
            if index == fails_at:
                raise FloatingPointError("the loss  is NaN")
            with accelerator.accumulate(model):
                loss = loss_of(model, batch)
                accelerator.backward(loss)
                if accelerator.sync_gradients and clip is not None:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
            watched.log(loss=loss)


@pytest.mark.parametrize("clip", [None, CLIP])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_each_optimizer_step_is_recorded_once_before_accelerate_clips(
    server: RecordingServer, accumulate: int, clip: float | None
) -> None:
    model, data = net(), batches(9)
    truth = train_plainly(copy.deepcopy(model), data, loss_of, accumulate=accumulate, clip=clip)

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared = accelerator.prepare(model, optimizer, DataLoader(data, batch_size=None))  # type: ignore[arg-type]  # a list is a dataset
    watched = watching.watch(
        accelerator, prepared[0], prepared[1], project="accelerate", run="net", server=server.address
    )
    train(accelerator, watched, prepared, clip, fails_at=-1)

    records = truth.assert_is_recorded(server.ledger)
    assert [record.step for record in records] == list(range(9 // accumulate))
    assert {record.source for record in records} == {NormSource.CLIP if clip else NormSource.OPTIMIZER_STEP}
    assert server.ledger.closed == [("finished", "")]


def test_an_exception_in_training_is_a_failed_run_with_its_reason(server: RecordingServer) -> None:
    model = net()
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared = accelerator.prepare(model, optimizer, DataLoader(batches(5), batch_size=None))  # type: ignore[arg-type]  # see above
    watched = watching.watch(accelerator, prepared[0], prepared[1], server=server.address)
    with pytest.raises(FloatingPointError):
        train(accelerator, watched, prepared, CLIP, fails_at=3)

    assert server.ledger.closed == [("failed", "FloatingPointError: the loss is NaN")]
    assert [record.step for record in server.ledger.records()] == [0, 1, 2]


def test_a_step_that_the_scaler_skips_is_recorded_as_skipped(server: RecordingServer) -> None:
    model = net()
    Accelerator(cpu=True)  # its state is what the optimizer's wrapper asks
    optimizer = AcceleratedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), scaler=torch.amp.GradScaler("cpu", init_scale=1024.0)
    )
    monitor = seismograd.watch(model, optimizer, project="accelerate", server=server.address)
    skipped, truth = [], Truth()
    for index, batch in enumerate(batches(4)):
        optimizer.zero_grad()
        loss = loss_of(model, batch) * (float("inf") if index == 1 else 1.0)
        optimizer.scaler.scale(loss).backward()
        truth.norms.append({name: norm / optimizer.scaler.get_scale() for name, norm in norms_of(model).items()})
        optimizer.step()
        skipped.append(optimizer.step_was_skipped)
    monitor.finish()

    records = server.ledger.records()
    assert skipped == [False, True, False, False]
    assert [RecordFlag.SKIPPED_BY_SCALER in record.flags for record in records] == skipped
    assert [record.scalars[Quantity.LOSS_SCALE] for record in records] == [1024.0, 1024.0, 512.0, 512.0]
    del truth.norms[1], records[1]
    truth.assert_are_norms_of(records, server.ledger)
