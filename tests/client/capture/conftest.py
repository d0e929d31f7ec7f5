"""A monitor whose records can be looked at: the real sender over a transport without a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import seismograd
from seismograd.capture import registry
from seismograd.record import StepRecord
from seismograd.testing import Ledger, RecordingTransport


@dataclass
class Watched:
    """A monitor and what arrived of it."""

    monitor: seismograd.Monitor
    ledger: Ledger
    errors: list[str] = field(default_factory=list)

    def records(self, optimizer: int = 0) -> list[StepRecord]:
        """All records so far; ends the run."""
        report = self.monitor.finish(timeout_seconds=20.0)
        assert report.complete, report
        return self.ledger.records(optimizer)


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Watched]]:
    """Begins a watch like `seismograd.watch`; afterwards nothing may have failed silently and torch is as it was."""
    begun: list[Watched] = []

    def begin(model: Any, optimizer: Any, **options: Any) -> Watched:
        transport = RecordingTransport()
        options = {"project": "tests", "run": "capture"} | options
        watched = Watched(seismograd.watch(model, optimizer, transport=transport, **options), transport.ledger)
        begun.append(watched)
        return watched

    with caplog.at_level(logging.WARNING, logger="seismograd"):
        yield begin
    for watched in begun:
        watched.monitor.finish(timeout_seconds=20.0)
    assert not registry.watches()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
