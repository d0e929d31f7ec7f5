"""What a training step can carry: nothing, torch's clip, ours, and what its peers offer for norms by layer."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import seismograd


def _nothing(*_: object) -> None:
    """What an arm does not do."""


@dataclass(slots=True)
class Arm:
    """One way to train: `after_backward(step, loss)`, then `step()`; `finish()` at the end."""

    after_backward: Callable[[int, Tensor], object]
    step: Callable[[], object]
    finish: Callable[[], object] = _nothing


@dataclass(frozen=True, slots=True)
class Job:
    """What an arm is attached to."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    server: str

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All of them, in order."""
        return list(self.model.parameters())


def _bare(job: Job) -> Arm:
    return Arm(_nothing, job.optimizer.step)


def _foreach_norm(job: Job) -> Arm:
    parameters = job.parameters
    return Arm(
        lambda *_: torch._foreach_norm([parameter.grad for parameter in parameters if parameter.grad is not None]),
        job.optimizer.step,
    )


def _torch_clip(job: Job) -> Arm:
    parameters = job.parameters
    return Arm(lambda *_: torch.nn.utils.clip_grad_norm_(parameters, CLIP), job.optimizer.step)


def _watched(job: Job) -> Arm:
    monitor = seismograd.watch(job.model, job.optimizer, project="bench", run=job.name, server=job.server)
    return Arm(_nothing, job.optimizer.step, monitor.finish)


def _watched_clip(job: Job) -> Arm:
    parameters = job.parameters
    monitor = seismograd.watch(job.model, job.optimizer, project="bench", run=f"{job.name}-clip", server=job.server)
    return Arm(lambda *_: seismograd.clip_grad_norm_(parameters, CLIP), job.optimizer.step, monitor.finish)


def _lightning(job: Job) -> Arm:
    from lightning.pytorch.utilities import grad_norm

    return Arm(
        lambda *_: {name: float(norm) for name, norm in grad_norm(job.model, 2).items()},
        job.optimizer.step,
    )


def _named_norms(job: Job) -> dict[str, float]:
    return {
        f"grad_norm/{name}": parameter.grad.norm().item()
        for name, parameter in job.model.named_parameters()
        if parameter.grad is not None
    }


def _tensorboard(job: Job) -> Arm:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(tempfile.mkdtemp())

    def write(step: int, _loss: Tensor) -> None:
        for name, norm in _named_norms(job).items():
            writer.add_scalar(name, norm, step)

    return Arm(write, job.optimizer.step, writer.close)


def _wandb_run() -> Any:
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": tempfile.mkdtemp()}
    import wandb  # type: ignore[import-not-found,unused-ignore]  # a peer that only the benchmark installs

    return wandb.init(project="bench", settings=wandb.Settings(silent=True, console="off", x_disable_stats=True))


def _wandb_log(job: Job) -> Arm:
    run = _wandb_run()
    return Arm(lambda _step, loss: run.log({"loss": loss.item(), **_named_norms(job)}), job.optimizer.step, run.finish)


def _wandb_watch(job: Job) -> Arm:
    run = _wandb_run()
    run.watch(job.model, log="gradients", log_freq=1)
    return Arm(lambda _step, loss: run.log({"loss": loss.item()}), job.optimizer.step, run.finish)


def _stabilityguard(job: Job) -> Arm:
    from stabilityguard import GuardedOptimizer  # type: ignore[import-not-found,import-untyped,unused-ignore]  # as wandb

    with contextlib.redirect_stdout(io.StringIO()):
        guarded = GuardedOptimizer(
            job.optimizer, job.model, spike_threshold=10.0, nan_action="skip", log_every=10**9, verbose=False
        )
    return Arm(_nothing, guarded.step)


# Small enough to bite on every step, as a threshold does in the runs that need one.
CLIP = 0.01
OURS: dict[str, Callable[[Job], Arm]] = {
    "bare": _bare,
    "foreach_norm": _foreach_norm,
    "torch_clip": _torch_clip,
    "watched": _watched,
    "watched_clip": _watched_clip,
}
PEERS: dict[str, Callable[[Job], Arm]] = {
    "lightning grad_norm": _lightning,
    "TensorBoard add_scalar": _tensorboard,
    "wandb.log of the norms": _wandb_log,
    "wandb.watch(log_freq=1)": _wandb_watch,
    "stabilityguard": _stabilityguard,
}
ARMS = OURS | PEERS
