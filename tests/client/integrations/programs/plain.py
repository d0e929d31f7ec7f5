"""Trains in some ways, one after the other, and knows nothing of a watch; writes the norms it computes to a file.

python plain.py WAY[,WAY...] FILE EXIT_CODE
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

CLIP = 0.01


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
    for step in range(5):
        backward(model, step)
        clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()


def clipped_in_two_halves() -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(5):
        backward(model, step)
        total = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        clip_grads_with_norm_(model.parameters(), CLIP, total)
        optimizer.step()


def with_closure() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):

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

    for step in range(5):
        backward(model, step)
        clip_grad_norm_(model.parameters(), CLIP)
        step_compiled()


def scaled() -> None:
    """The very first step overflows, as is usual for a scale that is too high."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        backward(model, step, float("inf") if step == 0 else scaler.get_scale())
        scaler.scale(torch.zeros(()))  # sets the scaler up; the loss above carries the scale
        scaler.step(optimizer)
        scaler.update()


def adversarial() -> None:
    generator, critic = Net(), Critic(2)
    optimizers = [torch.optim.SGD(critic.parameters(), lr=0.1), torch.optim.Adam(generator.parameters(), lr=0.01)]
    never_used = torch.optim.SGD(Net(3).parameters(), lr=0.1)
    for step in range(5):
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
    for step in range(3):
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
    for step in range(5):
        backward(model, 10 * step + dist.get_rank())
        clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    dist.destroy_process_group()


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
