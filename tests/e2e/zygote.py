"""Starts trainers by forking, so that fifty of them need not import torch fifty times.

Reads lines "RUN JOURNAL [ENDING]" from its input, forks a trainer for each, and answers with the trainer's process id.
A trainer makes steps without end, or some steps and then ends as it is told. After each `log()` it writes the step's
number and its true norm into the journal: whatever is there had been taken over by the monitor before the process died.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading

import torch
from torch import nn

import seismograd

ENTRY = struct.Struct("<qd")  # step, norm of the gradient


STEPS = 3000  # before an ending: more than the sender looks at in one turn


def end(ending: str) -> None:
    """Ends this process, or returns so that it ends by itself."""
    if ending == "exception":
        raise RuntimeError("the loss is NaN")
    if ending == "os._exit":
        os._exit(3)
    if ending == "abort":
        os.abort()
    if ending == "terminated":
        os.kill(os.getpid(), signal.SIGTERM)
    if ending == "interrupted twice":
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        os.kill(os.getpid(), signal.SIGINT)
    if ending == "sys.exit in a thread":
        thread = threading.Thread(target=sys.exit, args=(3,))
        thread.start()
        thread.join()
    sys.exit(0)


def train(server: str, spool: str, run: str, journal: str, ending: str = "") -> None:
    """Trains until somebody kills the process, or ends it."""
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
        if ending and step == STEPS:
            end(ending)


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
    server, spool = sys.argv[1:3]
    warm_up()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            train(server, spool, *line.rstrip("\n").split(" ", 2))
        print(child, flush=True)
        if len(line.split(" ", 2)) == 3:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
