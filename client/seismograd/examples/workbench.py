"""What the examples share besides seismograd: settings, ranks, text, and the point where training counts as failed."""

from __future__ import annotations

import argparse
import math
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

import seismograd

# Exit code of a script whose training failed: neither success (0) nor a crash (1) nor wrong usage (2).
TRAINING_FAILED = 3

# Source files are ASCII but for a few names; whatever is not becomes the last symbol.
SYMBOLS = 128

# Steps of a few milliseconds buy few samples with one percent of themselves, and what causes an explosion that takes
# ten steps must be seen within these.
_SAMPLE_BUDGET = 0.1

# Enough that a demo of some hundred steps never sees a passage twice.
_TEXT_BYTES = 4_000_000


def settings(description: str | None, *, learning_rate: float, clip: float = 1.0) -> argparse.ArgumentParser:
    """Give the command line that all examples have; a script adds its own options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps (default: 200)")
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=learning_rate,
        help=f"at the end of the warm-up (default: {learning_rate})",
    )
    parser.add_argument("--warm-up-steps", type=int, default=20, help="linear from 0 (default: 20)")
    parser.add_argument("--clip", type=float, default=clip, help=f"largest gradient norm, 0 = off (default: {clip})")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default: 0)")
    parser.add_argument("--server", help="host:port of the seismograd server (default: $SEISMOGRAD_SERVER)")
    parser.add_argument("--project", help="project of the run (default: $SEISMOGRAD_PROJECT)")
    parser.add_argument("--run", help="name of the run (default: $SEISMOGRAD_RUN)")
    return parser


def warm_up(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Raise the learning rate linearly over so many steps, then hold it."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, steps)))


def embedding(width: int) -> nn.Embedding:
    """A vector for each symbol, of the size that the other weights have; torch's own start a tenfold larger."""
    layer = nn.Embedding(SYMBOLS, width)
    nn.init.normal_(layer.weight, std=0.1)
    return layer


class DecayingAdam(torch.optim.Adam):
    """Adam that first shrinks every matrix by a share of itself, as AdamW does, but written by hand.

    torch's AdamW refuses a negative decay; those written by hand, of which there are many, take the wrong sign quietly,
    and then everything grows. A schedule can give it that sign as well: with `decay_steps` the share falls linearly to
    zero over so many steps, and nothing stops it there.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, decay: float, decay_steps: int | None = None
    ) -> None:
        super().__init__(parameters, lr=lr)
        self.decay = decay  # share a step
        self.decay_steps = decay_steps
        self.steps = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Decay, then Adam's step."""
        share = self.decay * (1 - self.steps / self.decay_steps if self.decay_steps else 1)
        self.steps += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() > 1:  # biases and norms are left alone
                    parameter.mul_(1 - share)
        return super().step(closure)


@dataclass(frozen=True)
class Ranks:
    """The processes that train together; one alone when no launcher said otherwise."""

    rank: int
    world_size: int

    def parallel(self, model: nn.Module) -> nn.Module:
        """Let DDP average the gradients of all ranks; a single process keeps its model as it is."""
        return nn.parallel.DistributedDataParallel(model) if self.world_size > 1 else model

    def mean(self, value: Tensor) -> float:
        """Average a number over the ranks; all of them must call this, and get the same."""
        total = value.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(total)
        return float(total) / self.world_size


@contextmanager
def ranks(seed: int) -> Iterator[Ranks]:
    """Join the other ranks of this launch (gloo, CPU), with one thread each, and part from them at the end."""
    torch.set_num_threads(1)  # the ranks share the machine's cores
    torch.manual_seed(seed)
    if "WORLD_SIZE" not in os.environ:  # what torchrun and its like set
        yield Ranks(0, 1)
        return
    dist.init_process_group("gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


class Text:
    """This rank's part of the standard library's source, read as symbols from 0 to SYMBOLS - 1."""

    def __init__(self, team: Ranks, seed: int) -> None:
        symbols = _standard_library()
        length = len(symbols) // team.world_size
        self._symbols = symbols[team.rank * length : (team.rank + 1) * length]
        self._generator = torch.Generator().manual_seed(1000 * seed + team.rank)

    def sequences(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        """Random passages and the same one symbol later, int64[batch, length] each."""
        starts = torch.randint(len(self._symbols) - length, (batch, 1), generator=self._generator)
        passages = self._symbols[starts + torch.arange(length + 1)]
        return passages[:, :-1], passages[:, 1:]

    def contexts(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        """Random passages and the one symbol behind each: int64[batch, length] and int64[batch]."""
        passages, following = self.sequences(batch, length)
        return passages, following[:, -1]


def _standard_library() -> Tensor:
    """Symbols of the top-level modules of the standard library, in the order of their names."""
    text = bytearray()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
        if len(text) >= _TEXT_BYTES:
            break
    return torch.frombuffer(text, dtype=torch.uint8).long().clamp(max=SYMBOLS - 1)


class Verdict:
    """Says when training has failed: a loss that is not finite, or ten times the best so far."""

    def __init__(self, team: Ranks) -> None:
        self._team = team
        self._best = math.inf

    def failure(self, loss: Tensor) -> str:
        """Why training has failed at this loss, or "" while it has not; every rank gets the same answer."""
        mean = self._team.mean(loss)
        self._best = min(self._best, mean)
        if not math.isfinite(mean):
            return f"the loss is {mean}"
        if mean > 10 * self._best:
            return f"the loss is {mean:.3g}, ten times its best of {self._best:.3g}"
        return ""


def train(
    arguments: argparse.Namespace,
    make: Callable[[], nn.Module],
    loss_of: Callable[[nn.Module, int], Tensor],
    factor: Callable[[int], float] = lambda step: 1.0,  # noqa: ARG005 (the schedule is left alone)
) -> int:
    """Train a model in one process, watched; gives 0, or TRAINING_FAILED.

    Args:
        arguments: those of `settings`.
        make: the model, once the seed is set.
        loss_of: (model, step) -> the loss of this step's batch.
        factor: of the learning rate at a step, behind the warm-up.
    """
    with ranks(arguments.seed) as team:
        model, verdict = make(), Verdict(team)
        optimizer = torch.optim.SGD(model.parameters(), lr=arguments.learning_rate, momentum=0.9)
        warm = max(1, arguments.warm_up_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm) * factor(step))
        monitor = seismograd.watch(
            model,
            optimizer,
            project=arguments.project,
            run=arguments.run,
            server=arguments.server,
            config=vars(arguments),
            sample_budget=_SAMPLE_BUDGET,
        )
        for step in range(arguments.steps):
            loss = loss_of(model, step)
            monitor.log(loss=loss)
            optimizer.zero_grad()
            loss.backward()
            if arguments.clip:
                seismograd.clip_grad_norm_(model.parameters(), arguments.clip)
            optimizer.step()
            schedule.step()
            if failure := verdict.failure(loss):
                monitor.finish("failed", failure)
                print(f"training failed at step {step}: {failure}")
                return TRAINING_FAILED
        monitor.finish()
        print(f"{arguments.steps} steps, the loss is {float(loss.detach()):.3g}")
    return 0
