"""One rank of a small real training that explodes (DDP over gloo, a loss scaler, clipping): for the test of queries.

It stays alive behind its last step until it is let go, as Prometheus has to see it live.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import seismograd


def main() -> None:
    """Trains calmly, then with a learning rate that rises a little every step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--explode", type=Path, required=True, help="train calmly until this file exists")
    parser.add_argument("--linger", type=Path, required=True, help="do not end before this file exists")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monitor = seismograd.watch(
        model, optimizer, project="deploy", run="pair", server=arguments.server, scaler=scaler,
        sample_budget=1.0, sample_first=0,
    )  # fmt: skip
    torch.manual_seed(1 + torch.distributed.get_rank())
    calm, exploding = 0, 0
    while exploding < 40:
        told = torch.tensor([float(arguments.explode.exists() and calm >= 150)])
        torch.distributed.broadcast(told, 0)
        if bool(told):
            exploding += 1
            optimizer.param_groups[0]["lr"] *= 1.6
        calm += 1
        inputs = torch.randn(16, 8)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), inputs.roll(1, 1))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        monitor.log(loss=loss.detach())
        seismograd.clip_grad_norm_(model.parameters(), 1e6 if exploding else 1.0)
        scaler.step(optimizer)
        scaler.update()
        time.sleep(0.02)  # a pace that a scrape every second can follow
    while not arguments.linger.exists():
        time.sleep(0.05)
    monitor.finish()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
