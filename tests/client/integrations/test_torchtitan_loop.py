"""Loops that clip as torchtitan does: by torch's two halves of a clip, imported early, over all or over groups."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

import seismograd
from seismograd.record import NormSource, Quantity
from seismograd.testing import RecordingServer
from tests.client.integrations.conftest import Truth, norms_of

CLIP = 0.05


@torch.no_grad()
def clip_whole(parameters: list[nn.Parameter]) -> Tensor:
    """As for a dense model."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = get_total_norm(gradients, 2.0, error_if_nonfinite=False, foreach=True)
    clip_grads_with_norm_(parameters, CLIP, total, foreach=True)
    return total


@torch.no_grad()
def clip_by_experts(parameters: list[nn.Parameter]) -> Tensor:
    """As under expert parallelism: a norm for each kind of parameters, and one coefficient for all."""
    groups = [parameters[:2], parameters[2:]]
    totals = [get_total_norm([p.grad for p in group if p.grad is not None], 2.0) for group in groups]
    total = torch.stack([norm**2.0 for norm in totals]).sum() ** 0.5
    for group in groups:
        clip_grads_with_norm_(group, CLIP, total)
    return total


@pytest.mark.parametrize("clip", [clip_whole, clip_by_experts])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_norms_are_those_before_the_clip(server: RecordingServer, clip: object, accumulate: int) -> None:
    assert callable(clip)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    monitor = seismograd.watch(model, optimizer, project="titan", run="net", server=server.address)
    truth, totals = Truth(), []
    for _ in range(5):
        optimizer.zero_grad()
        losses = [model(torch.randn(6, 4)).pow(2).mean() / accumulate for _ in range(accumulate)]
        for loss in losses:
            loss.backward()
        truth.norms.append(norms_of(model))
        truth.losses.append(sum(loss.item() for loss in losses))
        totals.append(clip(list(model.parameters())).item())
        optimizer.step()
        monitor.log(loss=truth.losses[-1])
    monitor.finish()

    records = truth.assert_is_recorded(server.ledger)
    assert {record.source for record in records} == {NormSource.CLIP}
    assert {record.scalars[Quantity.CLIP_THRESHOLD] for record in records} == {CLIP}
    assert [record.scalars[Quantity.REPORTED_NORM] for record in records] == pytest.approx(totals)
    assert min(totals) > CLIP
