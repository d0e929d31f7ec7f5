"""Small real networks trained on the CPU, as closed blocks: what the detectors see of deep and recurrent models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from seismograd.capture.gains import slopes_by_parameter
from seismograd_server.model import ClosedBlock, Layout, Quantity
from tests.support.closed import run_of

Recurrent = type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]
Initialise = Callable[[nn.Linear], None]


@contextmanager
def one_thread() -> Iterator[None]:
    """Operations this small are done sooner than a second thread has been woken."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def scaled(gain: float) -> Initialise:
    """Normal weights of which each layer multiplies its input's root mean square by `gain`, and no bias."""

    def initialise(layer: nn.Linear) -> None:
        nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.in_features))
        nn.init.zeros_(layer.bias)

    return initialise


@one_thread()
def train_perceptron(depth: int, activation: type[nn.Module], gain: float, steps: int = 160) -> ClosedBlock:
    """Train a perceptron of so many hidden layers by gradients of unit norm, on a wave."""
    torch.manual_seed(depth)
    widths = [8, *[24] * depth]
    layers: list[nn.Module] = []
    for narrow, wide in itertools.pairwise(widths):
        layers += [nn.Linear(narrow, wide), activation()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
    for layer in model:
        if isinstance(layer, nn.Linear):
            scaled(gain)(layer)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    norms: list[list[float]] = []
    losses: list[float] = []
    for _ in range(steps):
        inputs = torch.randn(16, 8)
        loss = nn.functional.mse_loss(model(inputs), torch.sin(2.0 * inputs[:, :1]))
        optimizer.zero_grad()
        loss.backward()
        norms.append(gradient_norms(list(model.parameters())))
        losses.append(loss.item())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return closed(model, norms, losses)


@one_thread()
def train_recurrent(kind: Recurrent, *, steps: int, growth: float = 0.0, every: int = 10) -> ClosedBlock:
    """Train on the adding task; from step 60 on weights also grow by a share a step, as a wrong sign of decay does."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": kind(2, 24, batch_first=True), "head": nn.Linear(24, 1)})
    slopes = slopes_by_parameter(model)
    parameters = list(model.parameters())
    optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, 3e-3)
    if growth:
        optimizer = torch.optim.SGD(parameters, 0.01)  # Adam hides for long what grows
    norms, losses, gains = [], [], np.full((steps, len(parameters)), np.nan, dtype=np.float32)
    for step in range(steps):
        inputs, targets = adding_task(batch=16, length=40 if growth else 12)
        loss = nn.functional.mse_loss(model["head"](model["rnn"](inputs)[0][:, -1]), targets)
        optimizer.zero_grad()
        loss.backward()
        norms.append(gradient_norms(parameters))
        losses.append(loss.item())
        for column, parameter in enumerate(parameters if step % every == 0 else []):
            if id(parameter) in slopes:
                gates = parameter.detach().chunk(len(slopes[id(parameter)]))
                gains[step, column] = max(
                    slope * float(torch.linalg.matrix_norm(gate, 2))
                    for slope, gate in zip(slopes[id(parameter)], gates, strict=True)
                )
        optimizer.step()
        with torch.no_grad():
            for parameter in parameters if step >= 60 else []:
                parameter.mul_(1.0 + growth)
    return replace(closed(model, norms, losses), sampled={Quantity.SPECTRAL_GAIN: gains})


def adding_task(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of which two are marked, and the sum of these."""
    numbers, marks, rows = torch.rand(batch, length), torch.zeros(batch, length), torch.arange(batch)
    marks[rows, torch.randint(0, length // 2, (batch,))] = 1.0
    marks[rows, torch.randint(length // 2, length, (batch,))] = 1.0
    return torch.stack((numbers, marks), dim=2), (numbers * marks).sum(dim=1, keepdim=True)


def gradient_norms(parameters: Sequence[torch.Tensor]) -> list[float]:
    """The norm of each parameter's gradient; zero where there is none."""
    return [0.0 if each.grad is None else float(each.grad.norm()) for each in parameters]


def closed(model: nn.Module, norms: Sequence[Any], losses: Sequence[float]) -> ClosedBlock:
    """The run as one block, with the model's own layout."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    count = len(names)
    numels = tuple(parameter.numel() for parameter in parameters)
    layout = Layout(1, names, ("",) * count, tuple(range(count)), numels, ("float32",) * count)
    by_layer = np.asarray(norms, dtype=np.float32)
    whole = np.sqrt(np.square(by_layer, dtype=np.float64).sum(axis=1))
    return replace(run_of(whole, layout=layout, loss=np.asarray(losses)), layer_norms=by_layer)
