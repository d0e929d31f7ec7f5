"""What watching costs the training thread: microseconds a step, beside torch's clip and a bare `_foreach_norm`.

Every arm is a process of its own with its own copy of the model, so that nothing one arm patches or sends reaches
another; the processes share one core and take turns, a block of steps each. A real server receives what is sent.
The added time of an arm is its median step less the bare arm's, block by block; the sender thread's share of the
interpreter is thereby included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.measure import median, paired_ratio, table

MODELS = ("gpt", "lstm", "mlp")
ARMS = ("bare", "foreach_norm", "torch_clip", "watched", "watched_clip")
# Long enough that the dense sampling of the first steps is over and the caches are warm.
WARM_UP_STEPS = 40
BLOCK_STEPS = {"gpt": 10, "lstm": 40, "mlp": 100}


def worker(arm: str, model_name: str, server: str) -> None:
    """Trains one block of steps for every line on stdin; answers with the seconds of each step as JSON."""
    import torch

    import seismograd
    from tests.benchmarks.workloads import make

    torch.set_num_threads(1)
    model, loss_at = make(model_name)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    parameters = list(model.parameters())
    finish: Callable[[], object] = lambda: None  # noqa: E731 - the watched arms replace it
    if arm.startswith("watched"):
        monitor = seismograd.watch(model, optimizer, project="bench", run=f"{model_name}-{arm}", server=server)
        finish = monitor.finish

    def after_backward() -> None:
        if arm == "foreach_norm":
            torch._foreach_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        elif arm == "torch_clip":
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        elif arm == "watched_clip":
            seismograd.clip_grad_norm_(parameters, 1.0)

    step = 0

    def train(steps: int) -> list[float]:
        nonlocal step
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            optimizer.zero_grad()
            loss_at(step).backward()
            after_backward()
            optimizer.step()
            seconds.append(time.perf_counter() - began)
            step += 1
        return seconds

    train(WARM_UP_STEPS)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(train(BLOCK_STEPS[model_name])), flush=True)
    finish()


class Arm:
    """A worker process and the way to ask it for a block."""

    def __init__(self, arm: str, model: str, server: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.client_overhead", "--worker", arm, "--model", model]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [*command, "--server", server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a worker ended early; its error is above")
        return line

    def block(self) -> list[float]:
        """Seconds of each step of one block."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: list[float] = json.loads(self._answer())
        return answer

    def close(self) -> None:
        """Lets the worker finish."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def measure(model: str, server: str, repetitions: int) -> dict[str, list[list[float]]]:
    """Blocks of step times by arm, taken in turn."""
    arms = {name: Arm(name, model, server) for name in ARMS}
    blocks: dict[str, list[list[float]]] = {name: [] for name in ARMS}
    for _ in range(repetitions):
        for name, arm in arms.items():
            blocks[name].append(arm.block())
    for arm in arms.values():
        arm.close()
    return blocks


def report(model: str, blocks: dict[str, list[list[float]]]) -> None:
    """Prints added time, ratio to torch's clip, and the distribution of step times."""
    middle = {name: [median(block) for block in each] for name, each in blocks.items()}
    added = {
        name: [(own - bare) * 1e6 for own, bare in zip(each, middle["bare"], strict=True)]
        for name, each in middle.items()
    }
    rows = []
    for name in ARMS:
        steps = sorted(seconds for block in blocks[name] for seconds in block)
        rows.append(
            [
                name,
                f"{median(added[name]):,.0f}",
                f"{paired_ratio(middle[name], middle['torch_clip']):.4f}",
                f"{statistics.median(steps) * 1e3:.2f}",
                f"{steps[int(len(steps) * 0.99)] * 1e3:.2f}",
            ]
        )
    header = ["arm", "added us/step", "step / step with torch clip", "step p50 ms", "p99 ms"]
    table(f"Client overhead, {model}", header, rows)
    clip, ours = median(added["torch_clip"]), median(added["watched_clip"])
    floor, watched = median(added["foreach_norm"]), median(added["watched"])
    print(
        f"  watched clip / torch's clip: {ours / clip:.2f}; watched, no clip: _foreach_norm {watched - floor:+.0f} us"
    )


def main() -> None:
    """Prints the tables for the three models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--worker", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--server", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.model, arguments.server)
        return
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        os.sched_setaffinity(0, {cores[-1]})
        command = [str(Path(sys.executable).with_name("seismograd")), "serve", "--json", "--data-dir", folder]
        command += ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["grpc_port"]
        os.sched_setaffinity(0, {cores[0]})
        for model in [arguments.model] if arguments.model else MODELS:
            report(model, measure(model, f"127.0.0.1:{port}", arguments.repetitions))
        server.terminate()
        server.wait(timeout=30)


if __name__ == "__main__":
    main()
