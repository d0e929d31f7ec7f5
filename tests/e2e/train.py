"""A small real training loop for the end-to-end tests: an RNN on a copy task that, on demand, is pushed over the edge.

It keeps a journal of what truly happened (step, pre-clip norm, loss as JSON lines), computed by plain torch and
independently of the client, so that a test can hold the server's series against it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

import seismograd


class CopyTask(nn.Module):
    """A tanh RNN that repeats what it saw some steps ago."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.rnn = nn.RNN(8, width, batch_first=True)
        self.head = nn.Linear(width, 8)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.rnn(inputs)[0])
        return output


def wait_for(permission: Path | None) -> None:
    """Waits until the test has made this file; not at all when there is none to wait for."""
    while permission is not None and not permission.exists():
        time.sleep(0.05)


def main() -> None:
    """Trains for the given number of steps; from `--explode-at` on, the learning rate rises a little every step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--explode-at", type=int)
    parser.add_argument("--recover-at", type=int, help="load the weights from before the explosion and go on calmly")
    parser.add_argument("--hold-recovery", type=Path, help="do not recover before this file exists")
    parser.add_argument("--step-seconds", type=float, default=0.0, help="pace: the least duration of a step")
    parser.add_argument("--linger", type=Path, help="do not finish before this file exists")
    parser.add_argument("--obey", action="store_true", help="stop and save when asked to")
    parser.add_argument("--save-after", type=Path, help="save when asked to, once this file exists")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = CopyTask()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    # A budget of the whole step: what is sampled must not depend on the machine's speed, for runs are compared.
    monitor = seismograd.watch(
        model, optimizer, project="e2e", run=arguments.run, server=arguments.server, sample_budget=1.0, sample_first=0
    )
    healthy = {name: value.clone() for name, value in model.state_dict().items()}
    with arguments.journal.open("w") as journal:
        for step in range(arguments.steps):
            began = time.monotonic()
            if step == arguments.explode_at:
                healthy = {name: value.clone() for name, value in model.state_dict().items()}
            exploding = arguments.explode_at is not None and step >= arguments.explode_at
            if arguments.recover_at is not None and step >= arguments.recover_at:
                if step == arguments.recover_at:
                    wait_for(arguments.hold_recovery)
                    model.load_state_dict(healthy)
                    optimizer.param_groups[0]["lr"] = 0.05
                exploding = False
            if exploding:
                optimizer.param_groups[0]["lr"] *= 1.5
            inputs = torch.randn(16, 24, 8)
            loss = nn.functional.mse_loss(model(inputs)[:, 4:], inputs[:, :-4])
            optimizer.zero_grad()
            loss.backward()
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            norm = float(torch.cat([gradient.flatten() for gradient in gradients]).double().norm())
            monitor.log(loss=loss.detach())
            seismograd.clip_grad_norm_(model.parameters(), 1e6 if exploding else 1.0)
            optimizer.step()
            journal.write(json.dumps({"step": step, "norm": norm, "loss": float(loss.detach())}) + "\n")
            journal.flush()
            listens = arguments.save_after.exists() if arguments.save_after else arguments.obey
            if listens and monitor.should_checkpoint():
                monitor.checkpoint_saved(step, f"/checkpoints/{step}.pt")
            if arguments.obey and monitor.should_stop(synchronize=True):
                break
            time.sleep(max(0.0, arguments.step_seconds - (time.monotonic() - began)))  # the pace asked for
    wait_for(arguments.linger)
    monitor.finish()


if __name__ == "__main__":
    main()
