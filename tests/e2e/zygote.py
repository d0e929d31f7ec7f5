"""Starts trainers by forking, so that fifty of them need not import torch fifty times.

Reads lines "RUN JOURNAL" from its input, forks a trainer for each, and answers with the trainer's process id. A trainer
makes steps without end and, after each `log()`, writes the step's number and its true norm into the journal: whatever
is there had been taken over by the monitor before the process was killed.
"""

from __future__ import annotations

import os
import signal
import struct
import sys

import torch
from torch import nn

import seismograd

ENTRY = struct.Struct("<qd")  # step, norm of the gradient


def train(server: str, spool: str, run: str, journal: str) -> None:
    """Trains until somebody kills the process."""
    torch.manual_seed(hash(run) % 1000)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = seismograd.watch(model, optimizer, project="killed", run=run, server=server, spool_dir=spool)
    written = os.open(journal, os.O_WRONLY | os.O_CREAT, 0o600)
    step = 0
    while True:
        inputs = torch.randn(4, 8)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), inputs)
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double().norm()
        optimizer.step()
        monitor.log(loss=loss.detach())
        os.write(written, ENTRY.pack(step, float(norm)))
        step += 1


def warm_up() -> None:
    """Imports what the first step would import, so that trainers step at once."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = seismograd.watch(model, optimizer, mode="offline", spool_dir="/dev/null/nowhere")
    nn.functional.mse_loss(model(torch.ones(1, 2)), torch.zeros(1, 2)).backward()
    optimizer.step()
    monitor.finish()


def main() -> None:
    """Serves until its input ends."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    server, spool = sys.argv[1:3]
    warm_up()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            train(server, spool, *line.split())
        print(child, flush=True)


if __name__ == "__main__":
    main()
