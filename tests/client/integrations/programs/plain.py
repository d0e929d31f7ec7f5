"""Trains in some ways, one after the other, and knows nothing of a watch; writes the norms it computes to a file.

python plain.py WAY[,WAY...] FILE EXIT_CODE
"""

from __future__ import annotations

import copy
import gc
import json
import os
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

CLIP = 0.01
# The first five belong to nobody: an inner loop might make as many.
STEPS = 10


class Net(nn.Module):
    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.hidden = nn.Linear(4, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.out(torch.tanh(self.hidden(inputs)))
        return output


class Critic(Net):
    pass


truth: dict[str, list[dict[str, float]]] = {}


def backward(model: nn.Module, step: int, scale: float = 1.0) -> None:
    """Makes gradients, and notes their norms."""
    for parameter in model.parameters():
        parameter.grad = None
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
    (model(inputs).pow(2).mean() * scale).backward()
    truth[way].append({n: float(p.grad.norm()) / scale for n, p in model.named_parameters() if p.grad is not None})


def clipped() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        backward(model, step)
        clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()


def clipped_in_two_halves() -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(STEPS):
        backward(model, step)
        total = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        clip_grads_with_norm_(model.parameters(), CLIP, total)
        optimizer.step()


def with_closure() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):

        def closure(step: int = step) -> float:
            backward(model, step)
            return 0.0

        optimizer.step(closure)


def compiled() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @torch.compile(backend="eager")
    def step_compiled() -> None:
        optimizer.step()

    for step in range(STEPS):
        backward(model, step)
        clip_grad_norm_(model.parameters(), CLIP)
        step_compiled()


def scaled() -> None:
    """The first step that is watched overflows."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(STEPS):
        backward(model, step, float("inf") if step == 5 else scaler.get_scale())
        scaler.scale(torch.zeros(()))  # sets the scaler up; the loss above carries the scale
        scaler.step(optimizer)
        scaler.update()


def adversarial() -> None:
    generator, critic = Net(), Critic(2)
    optimizers = [torch.optim.SGD(critic.parameters(), lr=0.1), torch.optim.Adam(generator.parameters(), lr=0.01)]
    never_used = torch.optim.SGD(Net(3).parameters(), lr=0.1)
    for step in range(STEPS):
        for model, optimizer in ((generator, optimizers[1]), (critic, optimizers[0])):
            backward(model, step)
            clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
    del never_used


def explicit() -> None:
    import seismograd

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = seismograd.watch(model, optimizer, run="by-hand")
    for step in range(STEPS):
        backward(model, step)
        optimizer.step()
    monitor.finish()


def failing() -> None:
    clipped()
    raise FloatingPointError("the loss is NaN")


def waiting() -> None:
    """Ends by a signal only."""
    clipped()
    print("waiting", flush=True)
    sys.stdin.read()


def data_parallel() -> None:
    dist.init_process_group("gloo")
    model = DistributedDataParallel(Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        backward(model, 10 * step + dist.get_rank())
        clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    dist.destroy_process_group()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(3, 4)).pow(2).mean().backward()
        optimizer.step()


def inner_loops() -> None:
    """Reptile: an optimizer for each task, which makes five steps with it."""
    meta = Net()
    outer = torch.optim.SGD(meta.parameters(), lr=0.1)
    for _ in range(200):
        task = copy.deepcopy(meta)
        train(task, torch.optim.SGD(task.parameters(), lr=0.1), 5)
        for own, other in zip(meta.parameters(), task.parameters(), strict=True):
            own.grad = (own - other).detach()
        outer.step()
    count_resources()


def sweep() -> None:
    """One training after the other, of which nothing is kept."""
    for seed in range(20):
        model = Net(seed)
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), STEPS)
        del model
        gc.collect()
    count_resources()


def kept_sweep() -> None:
    """The same, of which everything is kept."""
    kept = []
    for seed in range(20):
        kept.append((model := Net(seed), torch.optim.SGD(model.parameters(), lr=0.1)))
        train(*kept[-1], STEPS)
    count_resources()


def count_resources() -> None:
    """Says how many of the client's threads and open rings there are, once it has had time to end those that end."""
    deadline = time.monotonic() + 20.0
    counts, steady = (-1, -1), 0
    while steady < 30 and time.monotonic() < deadline:
        time.sleep(0.1)
        threads = sum(each.name == "seismograd-sender" for each in threading.enumerate())
        rings = sum("ring-" in str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink())
        counts, steady = (threads, rings), steady + 1 if counts == (threads, rings) else 0
    print(json.dumps({"threads": counts[0], "rings": counts[1]}))


def without_an_optimizer() -> None:
    Net()(torch.zeros(1, 4))
    assert "grpc" not in sys.modules


if __name__ == "__main__":
    try:
        for way in sys.argv[1].split(","):
            truth[way] = []
            globals()[way]()
    finally:
        Path(f"{sys.argv[2]}.{os.environ.get('RANK', '0')}").write_text(json.dumps(truth))
    sys.exit(int(sys.argv[3]))
