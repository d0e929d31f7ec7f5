"""Trains one run of the benchmark and records it as a trace file has it (`seismograd_server/transfer/traces.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.detection.learning import TASKS, Task, TaskName, loss_of, network

_HALF_MAX = 65504.0  # of float16
# A clean batch on which every step is judged afterwards, for the labels alone.
_JUDGED_EXAMPLES = 64


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, from one step on.

    Attributes:
        kind: `lr_bump` (all later learning rates times `factor`), `bad_batch` (inputs times `factor`), `bad_target`
            (targets), `weight_scale` (one weight matrix, once), `rank_grad_scale` (the gradient of one rank).
        step: the first step.
        steps: how many, for data and gradients.
        rank: which one alone; -1 = all.
    """

    kind: str
    step: int
    factor: float
    steps: int = 1
    rank: int = -1
    layer: int = 2  # which weight matrix, from the input

    def strikes(self, kind: str, step: int, rank: int) -> bool:
        return kind == self.kind and self.step <= step < self.step + self.steps and self.rank in {-1, rank}


@dataclass(frozen=True, slots=True)
class Spec:
    """A run.

    Attributes:
        family: what it shows; the first letter says what is meant: h(ealthy), s(pike), x (exploding), v(anishing).
        schedule: step -> factor of the learning rate.
        batch_at, length_at, loss_factor_at: step -> examples, sequence length, factor of the loss (mean to sum).
        loss_scale: that it begins with, in float16 with back-off; 0 = none.
        half: gradients are float16 without a scaler.
        tail: degrees of freedom of the noise on targets (Student's t); 0 = none.
        bootstrap: targets are this times the model's own next output, plus a reward; 0 = as the task has them.
    """

    family: str
    seed: int = 0
    task: TaskName = "waves"
    arch: str = "mlp"
    depth: int = 4
    width: int = 24
    gain: float = 1.0
    optimizer: str = "adam"
    lr: float = 3e-3
    clip: float = math.nan
    steps: int = 400
    batch: int = 32
    length: int = 12
    ranks: int = 1
    schedule: Callable[[int], float] = lambda step: 1.0  # noqa: ARG005 (constant)
    batch_at: Callable[[int], int] | None = None
    length_at: Callable[[int], int] | None = None
    loss_factor_at: Callable[[int], float] = lambda step: 1.0  # noqa: ARG005 (constant)
    loss_scale: float = 0.0
    half: bool = False
    tail: float = 0.0
    bootstrap: float = 0.0
    faults: tuple[Fault, ...] = ()

    @property
    def name(self) -> str:
        """Of the run and its file."""
        return f"{self.family}_{self.seed}"


@dataclass(slots=True)
class Record:
    """Columns as they grow; the keys of a trace file."""

    columns: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, **values: Any) -> None:
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)

    def array(self, name: str, dtype: Any = np.float32) -> Any:
        with np.errstate(over="ignore"):
            return np.array(self.columns.get(name, []), dtype=dtype)


def optimizer_of(spec: Spec, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer by name."""
    parameters = model.parameters()
    if spec.optimizer == "sgd":
        return torch.optim.SGD(parameters, spec.lr)
    if spec.optimizer == "momentum":
        return torch.optim.SGD(parameters, spec.lr, momentum=0.9)
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(parameters, spec.lr, weight_decay=0.05)
    return torch.optim.Adam(parameters, spec.lr)


class Training:
    """One run on simulated ranks: they hold the same weights, see different data, and average their gradients."""

    def __init__(self, spec: Spec) -> None:
        torch.manual_seed(spec.seed)
        self.spec = spec
        self.task: Task = TASKS[spec.task]
        self.model = network(spec.arch, self.task, depth=spec.depth, width=spec.width, gain=spec.gain)
        self.parameters = list(self.model.parameters())
        self.optimizer = optimizer_of(spec, self.model)
        self.data = [torch.Generator().manual_seed(1000 * spec.seed + rank) for rank in range(spec.ranks)]
        self.judged = self.task.batch(_JUDGED_EXAMPLES, torch.Generator().manual_seed(spec.seed + 99), spec.length)
        self.scale = spec.loss_scale
        self.bumped = 1.0

    def run(self) -> dict[str, Any]:
        """Train to the end, or until 25 steps behind the first loss that is not finite, as a job would be killed."""
        record = Record()
        broken = 0
        for step in range(self.spec.steps):
            self._step(step, record)
            broken += not math.isfinite(record.columns["loss"][-1])
            if broken > 25:
                break
        names = [name for name, _ in self.model.named_parameters()]
        averaged = record.array("averaged") if self.spec.ranks > 1 else np.zeros((0, len(names)), np.float32)
        return {
            "grad_norms": record.array("local").transpose(1, 0, 2),
            "avg_grad_norms": averaged,
            "weight_norms": record.array("weights"),
            "update_norms": record.array("updates"),
            "loss": record.array("loss"),
            "rank_loss": record.array("rank_loss").T if self.spec.ranks > 1 else np.zeros((0, 0), np.float32),
            "outcome": record.array("outcome"),
            "lr": record.array("lr"),
            "clipped": record.array("clipped", np.bool_),
            "loss_scale": record.array("scale"),
            "clip_threshold": np.float32(self.spec.clip),
            "global_norm": record.array("norm"),
            "layer_names": np.array(names),
        }

    def _step(self, step: int, record: Record) -> None:
        self._corrupt_weights(step)
        losses, gradients = zip(*(self._gradient(step, rank) for rank in range(self.spec.ranks)), strict=True)
        averaged = [torch.stack(each).mean(0) for each in zip(*gradients, strict=True)]
        norm = float(torch.linalg.vector_norm(torch.stack([each.double().norm() for each in averaged])))
        rate = self.spec.lr * self.spec.schedule(step) * self._bump(step)
        before = [each.detach().clone() for each in self.parameters]
        skipped = self._scaler_skips(norm)
        clipped = not skipped and norm > self.spec.clip
        if not skipped:
            for parameter, gradient in zip(self.parameters, averaged, strict=True):
                parameter.grad = gradient * (self.spec.clip / norm) if clipped else gradient
            self.optimizer.param_groups[0]["lr"] = rate
            self.optimizer.step()
        record.add(
            local=[norms_of(each) for each in gradients],
            averaged=norms_of(averaged),
            weights=norms_of(before),
            updates=norms_of([new.detach() - old for new, old in zip(self.parameters, before, strict=True)]),
            loss=float(np.mean(losses)),
            rank_loss=losses,
            outcome=self._outcome(),
            lr=rate,
            clipped=clipped,
            norm=norm,
        )
        if self.spec.loss_scale:
            record.add(scale=self.scale)
            self.scale = self.scale / 2.0 if skipped else self.scale * (2.0 if step % 100 == 99 else 1.0)

    def _gradient(self, step: int, rank: int) -> tuple[float, list[Tensor]]:
        """The loss and the gradient of one rank's own data."""
        spec = self.spec
        examples = spec.batch_at(step) if spec.batch_at else spec.batch
        length = spec.length_at(step) if spec.length_at else spec.length
        inputs, target = self.task.batch(examples, self.data[rank], length)
        if spec.tail:
            noise = np.random.default_rng((spec.seed, step, rank)).standard_t(spec.tail, target.shape)
            target = target + 0.3 * torch.from_numpy(noise).float()
        for fault in spec.faults:
            if fault.strikes("bad_batch", step, rank):
                inputs = inputs * fault.factor
            if fault.strikes("bad_target", step, rank):
                target = target * fault.factor
        if spec.bootstrap:
            with torch.no_grad():
                target = target + spec.bootstrap * self.model(inputs + 0.1)
        loss = loss_of(self.task, self.model(inputs), target) * spec.loss_factor_at(step)
        found = torch.autograd.grad(loss, self.parameters)
        gradients = [self._rounded(each) for each in found]
        for fault in spec.faults:
            if fault.strikes("rank_grad_scale", step, rank):
                gradients = [each * fault.factor for each in gradients]
        return float(loss.detach()), gradients

    def _rounded(self, gradient: Tensor) -> Tensor:
        """As float16 holds it, with the loss scale if there is one."""
        if not (self.spec.half or self.spec.loss_scale):
            return gradient
        scale = self.scale or 1.0
        return (gradient * scale).half().float() / scale

    def _scaler_skips(self, norm: float) -> bool:
        return bool(self.spec.loss_scale) and not math.isfinite(norm)

    def _bump(self, step: int) -> float:
        for fault in self.spec.faults:
            if fault.kind == "lr_bump" and fault.step == step:
                self.bumped *= fault.factor
        return self.bumped

    def _corrupt_weights(self, step: int) -> None:
        for fault in self.spec.faults:
            if fault.kind == "weight_scale" and fault.step == step:
                matrices = [each for each in self.parameters if each.ndim == 2]
                with torch.no_grad():
                    matrices[fault.layer % len(matrices)].mul_(fault.factor)

    def culprit_layer(self) -> str:
        """The weight matrix that a fault corrupts; empty = none."""
        matrices = [name for name, each in self.model.named_parameters() if each.ndim == 2]
        found = [fault.layer for fault in self.spec.faults if fault.kind == "weight_scale"]
        return matrices[found[0] % len(matrices)] if found else ""

    @torch.no_grad()
    def _outcome(self) -> float:
        inputs, target = self.judged
        if self.spec.bootstrap:  # what such a run is after moves with it
            target = target + self.spec.bootstrap * self.model(inputs + 0.1)
        return float(loss_of(self.task, self.model(inputs), target))


def norms_of(tensors: list[Tensor]) -> list[float]:
    """Of each tensor, in double precision so that what float32 holds does not overflow."""
    return [float(each.double().norm()) for each in tensors]
