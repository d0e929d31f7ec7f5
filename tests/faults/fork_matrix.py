"""One trainer that forks in every way there is; prints what its own run has delivered."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import seismograd

MODEL = nn.Linear(4, 2)
OPTIMIZER = torch.optim.SGD(MODEL.parameters(), lr=0.1)
MONITOR: seismograd.Monitor | None = None


def step() -> None:
    """One step, in whichever process."""
    OPTIMIZER.zero_grad()
    loss = MODEL(torch.ones(3, 4)).pow(2).mean()
    loss.backward()
    OPTIMIZER.step()
    if MONITOR is not None:
        MONITOR.log(loss=loss)


def work(_index: int = 0) -> None:
    """What a child does: as if it were the trainer."""
    step()
    if MONITOR is not None:
        MONITOR.checkpoint_saved(1, "child")
        MONITOR.finish()


def load(batches: DataLoader[tuple[torch.Tensor, ...]]) -> None:
    """Reads all batches by workers."""
    assert sum(len(batch) for (batch,) in batches) == 8


def main() -> None:
    """Steps before, between and after children of every kind."""
    global MONITOR  # noqa: PLW0603 - the children find it where a user's script has it
    warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point
    server, spool = sys.argv[1:3]
    data = TensorDataset(torch.ones(8, 4))
    before = DataLoader(data, num_workers=2, persistent_workers=True)
    load(before)
    MONITOR = seismograd.watch(MODEL, OPTIMIZER, project="forks", run="matrix", server=server, spool_dir=spool)
    load(before)
    for _ in range(5):
        step()
    load(DataLoader(data, num_workers=2))
    for method in ("fork", "forkserver", "spawn"):
        context: Any = multiprocessing.get_context(method)
        child = context.Process(target=work)
        child.start()
        child.join(60)
        assert child.exitcode == 0, method
        step()
    del before  # its workers are the parent's to end
    raw = os.fork()
    if raw == 0:
        work()
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(raw, 0)[1]) == 0
    step()
    report = MONITOR.finish(timeout_seconds=10.0)
    print(report.delivered, report.complete)


if __name__ == "__main__":
    main()
