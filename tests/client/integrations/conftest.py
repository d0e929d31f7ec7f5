"""What every integration is measured against: a real server that records, and the same training in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from seismograd.record import Quantity, StepRecord
from seismograd.testing import Ledger, RecordingServer


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as running:
        yield running


Norms = dict[str, float]  # by the parameter's name


@dataclass
class Truth:
    """What plain torch computes, one entry per optimizer step."""

    norms: list[Norms] = field(default_factory=list)  # before clipping
    losses: list[float] = field(default_factory=list)

    def assert_is_recorded(self, ledger: Ledger, optimizer: int = 0, prefix: str = "") -> list[StepRecord]:
        """Every step once, with the norms before clipping and, where known, the loss. Gives the records.

        `prefix` is what the names of the parameters have in front of those known here.
        """
        assert ledger.wait_for(lambda each: len(each.records(optimizer)) >= len(self.norms))
        records = ledger.records(optimizer)
        self.assert_are_norms_of(records, ledger, optimizer, prefix)
        if self.losses:
            assert [record.scalars.get(Quantity.LOSS) for record in records] == pytest.approx(self.losses, rel=1e-5)
        return records

    def assert_are_norms_of(
        self, records: Sequence[StepRecord], ledger: Ledger, optimizer: int = 0, prefix: str = ""
    ) -> None:
        """The same for records from anywhere in the ledger, and without the losses."""
        catalog = next(each for each in ledger.catalogs if each.optimizer == optimizer)
        names = [parameter.name for parameter in catalog.parameters]
        for record, norms in zip(records, self.norms, strict=True):
            assert record.gradient_norms is not None
            recorded = dict(zip(names, record.gradient_norms.tolist(), strict=True))
            assert recorded == pytest.approx({prefix + name: norm for name, norm in norms.items()}, rel=1e-5)


def norms_of(model: nn.Module) -> Norms:
    return {n: 0.0 if p.grad is None else float(p.grad.norm()) for n, p in model.named_parameters()}


def train_plainly(
    model: nn.Module,
    batches: Sequence[Tensor],
    compute_loss: Callable[[nn.Module, Tensor], Tensor],
    *,
    accumulate: int = 1,
    clip: float | None = None,
    learning_rate: float = 0.1,
) -> Truth:
    """SGD by hand; each `accumulate` batches make a step, the mean of their losses is its loss."""
    truth = Truth()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=learning_rate)
    for first in range(0, len(batches), accumulate):
        optimizer.zero_grad()
        losses = [compute_loss(model, batch) / accumulate for batch in batches[first : first + accumulate]]
        for loss in losses:
            loss.backward()
        truth.losses.append(sum(loss.item() for loss in losses))
        truth.norms.append(norms_of(model))
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
    return truth
