"""What watching costs the training thread: microseconds a step, beside torch's clip, a bare `_foreach_norm` and peers.

Two ways to look at it, in one run and with one real server:

* *Side by side*: every arm is a process of its own with its own copy of the model, so that nothing one arm patches or
  sends reaches another; the processes share one core and take turns, a block of steps each. The added time of an arm is
  its median step less the bare arm's, block by block; whatever its background threads take of the interpreter is
  included, and shows in the distribution (p50, p99).
* *Step by step*: one process takes another arm each step, and times only what comes after the backward pass. No drift
  of the machine's speed gets in between, so these ratios are the precise ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.arms import ARMS, CLIP, OURS, PEERS, Job
from tests.benchmarks.measure import median, paired_ratio, percentile, table

MODELS = ("gpt", "lstm", "mlp")
# Long enough that the dense sampling of the first steps is over and the caches are warm.
WARM_UP_STEPS = 40
BLOCK_STEPS = {"gpt": 10, "lstm": 40, "mlp": 100}
# Steps of each arm in turn: enough for medians of differences that agree within some ten microseconds.
TURNS = {"gpt": 200, "lstm": 200, "mlp": 800}
# A peer that takes as long as the training itself needs no more and no longer rounds to be told from one that does not.
PEER_REPETITIONS = 3
PEER_BLOCK_STEPS = {"gpt": 4, "lstm": 12, "mlp": 40}

Blocks = dict[str, list[list[float]]]


def worker(arm_name: str, model_name: str, server: str) -> None:
    """Trains as many steps as each line on stdin says; answers with the seconds of each step as JSON."""
    import torch

    from tests.benchmarks.workloads import make

    torch.set_num_threads(1)
    model, loss_at = make(model_name)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    arm = ARMS[arm_name](Job(f"{model_name}-{arm_name}", model, optimizer, server))
    step = 0

    def train(steps: int) -> list[float]:
        nonlocal step
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            optimizer.zero_grad()
            loss = loss_at(step)
            loss.backward()
            arm.after_backward(step, loss.detach())
            arm.step()
            seconds.append(time.perf_counter() - began)
            step += 1
        return seconds

    train(WARM_UP_STEPS if arm_name in OURS else 3)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(train(int(line))), flush=True)
    arm.finish()


class Worker:
    """A worker process and the way to ask it for a block."""

    def __init__(self, arm: str, model: str, server: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.client_overhead", "--worker", arm, "--model", model]
        self._process = subprocess.Popen(
            [*command, "--server", server],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # What peers warn their users of is not for readers of these tables.
            env=os.environ | {"OMP_NUM_THREADS": "1"} | ({"PYTHONWARNINGS": "ignore"} if arm in PEERS else {}),
        )
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a worker ended early; its error is above")
        return line

    def block(self, steps: int) -> list[float]:
        """Seconds of each of so many steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer: list[float] = json.loads(self._answer())
        return answer

    def close(self) -> None:
        """Lets the worker finish."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def in_turn(workers: Mapping[str, Worker], steps: int, repetitions: int) -> Blocks:
    """Blocks of step times by arm."""
    blocks: Blocks = {name: [] for name in workers}
    for _ in range(repetitions):
        for name, one in workers.items():
            blocks[name].append(one.block(steps))
    return blocks


def added(blocks: Blocks) -> dict[str, float]:
    """Microseconds that each arm adds to the bare step: median over blocks of the difference of their medians."""
    bare = [median(block) for block in blocks["bare"]]
    return {
        name: median([(median(block) - base) * 1e6 for block, base in zip(own, bare, strict=True)])
        for name, own in blocks.items()
    }


def row_of(name: str, blocks: Blocks, more: float, clip: float | None) -> list[str]:
    """One line of the table of arms."""
    steps = [seconds for block in blocks[name] for seconds in block]
    ratio = paired_ratio([median(block) for block in blocks[name]], [median(block) for block in blocks["bare"]])
    return [
        name,
        f"{more:,.0f}",
        "-" if clip is None else f"{more / clip:.2f}",
        f"{ratio:.4f}",
        f"{median(steps) * 1e3:.2f}",
        f"{percentile(steps, 0.99) * 1e3:.2f}",
    ]


def report(model: str, server: str, repetitions: int, peers: Iterable[str]) -> None:
    """Measures and prints the table of one model."""
    workers = {name: Worker(name, model, server) for name in OURS}
    blocks = in_turn(workers, BLOCK_STEPS[model], repetitions)
    ours = added(blocks)
    clip = ours["torch_clip"]
    rows = [row_of(name, blocks, ours[name], clip) for name in OURS]
    bare = workers.pop("bare")
    for one in workers.values():
        one.close()
    for peer in peers:
        # One at a time, since its services in the background would slow down everyone's.
        try:
            worker = Worker(peer, model, server)
            beside = in_turn({"bare": bare, peer: worker}, PEER_BLOCK_STEPS[model], PEER_REPETITIONS)
        except RuntimeError:
            print(f"  {peer}: not installed, or it failed (above)")
            continue
        worker.close()
        rows.append(row_of(peer, beside, added(beside)[peer], clip))
    bare.close()
    header = ["arm", "added us/step", "x torch's clip", "x bare step", "p50 ms", "p99 ms"]
    table(f"Client overhead side by side, {model}", header, rows)


def step_by_step(model_name: str, server: str) -> None:
    """Takes the arms in turn within one process; prints what each adds between backward pass and next step."""
    import torch

    import seismograd
    from seismograd.capture import registry
    from seismograd.capture.seats import original
    from tests.benchmarks.workloads import make

    torch.set_num_threads(1)
    model, loss_at = make(model_name)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    parameters = list(model.parameters())
    monitor = seismograd.watch(
        model, optimizer, project="bench", run=f"{model_name}-turns", server=server, sample_every=0, sample_first=0
    )
    optimizer.zero_grad()
    loss_at(0).backward()
    optimizer.step()
    (watch,) = registry.watches()
    torch_clip = original("clip_grad_norm_")
    seconds: dict[str, list[float]] = {name: [] for name in OURS}
    for turn in range((TURNS[model_name] + WARM_UP_STEPS) * len(OURS)):
        name = list(OURS)[turn % len(OURS)]
        watch.inert = not name.startswith("watched")
        optimizer.zero_grad()
        loss_at(turn).backward()
        began = time.perf_counter()
        if name == "foreach_norm":
            torch._foreach_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        elif name == "torch_clip":
            with torch.no_grad():
                torch_clip(parameters, CLIP)
        elif name == "watched_clip":
            seismograd.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        seconds[name].append(time.perf_counter() - began)
    monitor.finish()

    def more_than(base: str, name: str) -> float:
        """Microseconds, step by step of the same turn: the machine is not as fast at the end as at the beginning."""
        pairs = zip(seconds[name][WARM_UP_STEPS:], seconds[base][WARM_UP_STEPS:], strict=True)
        return median([(own - other) * 1e6 for own, other in pairs])

    more = {name: more_than("bare", name) for name in OURS}
    table(
        f"Client overhead step by step, {model_name}",
        ["arm", "added us/step", "x torch's clip"],
        [[name, f"{value:,.0f}", f"{value / more['torch_clip']:.2f}"] for name, value in more.items()],
    )
    print(f"  watched, no clip: _foreach_norm {more_than('foreach_norm', 'watched'):+.0f} us", flush=True)


@contextmanager
def server_on_another_core() -> Iterator[str]:
    """A real server's address; this process and its children stay on the first core, the server has the last."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        os.sched_setaffinity(0, {cores[-1]})
        command = [str(Path(sys.executable).with_name("seismograd")), "serve", "--json", "--data-dir", folder]
        command += ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["grpc_port"]
        os.sched_setaffinity(0, {cores[0]})
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=30)


def main() -> None:
    """Prints the tables for the three models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out: minutes less")
    parser.add_argument("--worker", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--server", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.model, arguments.server)
        return
    if arguments.turns:
        step_by_step(arguments.model, arguments.server)
        return
    with server_on_another_core() as server:
        for model in [arguments.model] if arguments.model else MODELS:
            itself = [sys.executable, "-m", "tests.benchmarks.client_overhead", "--turns"]
            subprocess.run(
                [*itself, "--model", model, "--server", server], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
            report(model, server, arguments.repetitions, () if arguments.no_peers else PEERS)


if __name__ == "__main__":
    main()
