"""How long it takes from the step that explodes until somebody is told.

    python -m tests.benchmarks.latency [--runs 20] [--step-seconds 0.02]

A real model is trained by a real client, which ships to a real server, which tells two receivers: a webhook, and one
that is told as an Alertmanager is. The clock starts when the optimizer has made the step that the alert names as the
one at which it fired, and stops when the receiver has read the request; all run on this machine, and share its clock.
Each run is trained calmly first, and then with a learning rate that grows by half with every step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import seismograd
from tests.benchmarks.measure import median, percentile, table
from tests.benchmarks.serving import ServerProcess
from tests.e2e.train import CopyTask
from tests.support.receiver import Answer, Received, Receiver

CALM_STEPS, EXPLODING_STEPS = 100, 40
# What is told of first is what matters; others follow within the same explosion.
EXPLOSIONS = {"runaway", "nonfinite", "loss_divergence", "update_overshoot"}
_WAIT_SECONDS = 30.0


def train(server: str, runs: int, pace: float, journal: Path) -> None:
    """Train runs one after the other, and note when each step was made."""
    torch.set_num_threads(1)
    with journal.open("w") as lines:
        for number in range(runs):
            torch.manual_seed(number)
            model = CopyTask()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            monitor = seismograd.watch(model, optimizer, project="bench", run=f"run-{number}", server=server)
            for step in range(CALM_STEPS + EXPLODING_STEPS):
                began = time.monotonic()
                if step >= CALM_STEPS:
                    optimizer.param_groups[0]["lr"] *= 1.5
                inputs = torch.randn(16, 24, 8)
                loss = nn.functional.mse_loss(model(inputs)[:, 4:], inputs[:, :-4])
                optimizer.zero_grad()
                loss.backward()
                seismograd.clip_grad_norm_(model.parameters(), 1e6 if step >= CALM_STEPS else 1.0)
                optimizer.step()
                monitor.log(loss=loss.detach())
                lines.write(json.dumps({"run": f"run-{number}", "step": step, "at": time.time()}) + "\n")
                time.sleep(max(0.0, pace - (time.monotonic() - began)))
            monitor.finish()


class Heard:
    """What a receiver was told first of each run, and when."""

    def __init__(self, receiver: Receiver) -> None:
        self.first: dict[str, tuple[float, dict[str, Any]]] = {}
        receiver.answer = self._hear

    def _hear(self, request: Received) -> Answer:
        now, said = time.time(), request.json()
        for note in said if isinstance(said, list) else [said]:
            named = note.get("labels", note)
            if named["signature"] in EXPLOSIONS and named["severity"] == "critical":
                self.first.setdefault(named["run"], (now, note))
        return Answer()


def _config(folder: Path, webhook: Receiver, manager: Receiver) -> str:
    rules = folder / "rules.toml"
    # Or one incident would speak for all but the first runs.
    rules.write_text("signature.fleet.mute = true")
    return f"""
    [rules]
    file = "{rules}"
    [notify]
    alertmanagers = ["{manager.url}"]
    [[notify.webhooks]]
    url = "{webhook.url}"
    secret = "bench"
    allow_hosts = ["127.0.0.1"]
    """


def measure(runs: int, pace: float) -> list[list[str]]:
    """One row a receiver: median, 90th and 99th percentile and the longest, in milliseconds."""
    webhook, manager = Receiver(), Receiver()
    heard = {"webhook": Heard(webhook), "Alertmanager API": Heard(manager)}
    with tempfile.TemporaryDirectory() as folder:
        config = _config(Path(folder), webhook, manager)
        journal = Path(folder) / "journal.jsonl"
        server = ServerProcess(Path(folder) / "data", config)
        try:
            mine = [sys.executable, "-m", "tests.benchmarks.latency", "--runs", str(runs), "--step-seconds", str(pace)]
            subprocess.run([*mine, "--train-for", server.target, "--journal", str(journal)], check=True)
            until = time.monotonic() + _WAIT_SECONDS
            while any(len(each.first) < runs for each in heard.values()) and time.monotonic() < until:
                time.sleep(0.1)
        finally:
            server.close()
            webhook.close()
            manager.close()
        made = {(line["run"], line["step"]): line["at"] for line in map(json.loads, journal.read_text().splitlines())}
    fired = {run: int(note["opened_step"]) for run, (_, note) in heard["webhook"].first.items()}
    rows = []
    for name, each in heard.items():
        spent = [1000.0 * (at - made[run, fired[run]]) for run, (at, _) in each.first.items() if run in fired]
        spread = [median(spent), percentile(spent, 0.9), percentile(spent, 0.99), max(spent)] if spent else []
        rows.append([name, f"{len(spent)} of {runs}", *(f"{value:.0f}" for value in spread)])
    return rows


def main() -> int:
    """Print the table; or train, as the child of that."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--step-seconds", type=float, default=0.02)
    parser.add_argument("--train-for", help="the server to ship to")
    parser.add_argument("--journal", type=Path)
    arguments = parser.parse_args()
    if arguments.train_for:
        train(arguments.train_for, arguments.runs, arguments.step_seconds, arguments.journal)
        return 0
    table(
        f"From the step that explodes to whoever is told, in ms ({1 / arguments.step_seconds:.0f} steps a second)",
        ["told as", "explosions told", "median", "90 %", "99 %", "longest"],
        measure(arguments.runs, arguments.step_seconds),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
