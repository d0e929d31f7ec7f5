"""What the runs of the benchmark learn, and with what: four synthetic tasks and five kinds of networks, all small."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

TaskName = Literal["waves", "clusters", "adding", "letters"]
# Gives inputs and targets: (examples, generator, sequence length).
Batch = Callable[[int, torch.Generator, int], tuple[Tensor, Tensor]]

_FEATURES, _CLASSES, _LETTERS = 8, 10, 16


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be learnt.

    Attributes:
        batch: makes examples.
        inputs, outputs: numbers per example (per position of a sequence).
        chance: the loss of a model that has learnt nothing.
        is_sequence: whether inputs are sequences.
        is_classification: cross-entropy if so, mean squared error otherwise.
    """

    batch: Batch
    inputs: int
    outputs: int
    chance: float
    is_sequence: bool = False
    is_classification: bool = False


def _waves(examples: int, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
    """Noisy sums of four sines: variance 4 * (1 - exp(-8)) / 2."""
    inputs = torch.randn(examples, _FEATURES, generator=generator)
    noise = 0.1 * torch.randn(examples, 1, generator=generator)
    return inputs, torch.sin(2.0 * inputs[:, :4]).sum(1, keepdim=True) + noise


def _clusters(examples: int, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
    """Ten overlapping clouds of points."""
    centers = torch.randn(_CLASSES, _FEATURES, generator=torch.Generator().manual_seed(7)) * 1.5
    labels = torch.randint(0, _CLASSES, (examples,), generator=generator)
    return centers[labels] + torch.randn(examples, _FEATURES, generator=generator), labels


def _adding(examples: int, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
    """The sum of the two numbers of a sequence that are marked (Hochreiter and Schmidhuber 1997)."""
    values = torch.rand(examples, length, generator=generator)
    marks = torch.zeros(examples, length)
    first = torch.randint(0, length // 2, (examples,), generator=generator)
    second = torch.randint(length // 2, length, (examples,), generator=generator)
    rows = torch.arange(examples)
    marks[rows, first], marks[rows, second] = 1.0, 1.0
    return torch.stack([values, marks], dim=2), (values * marks).sum(1, keepdim=True)


def _letters(examples: int, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
    """The next letter of a text in which each letter has three likely followers."""
    steps = torch.tensor([1, 5, 11])
    choice = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), examples * length, replacement=True, generator=generator)
    start = torch.randint(0, _LETTERS, (examples, 1), generator=generator)
    text = torch.cat([start, start + steps[choice].view(examples, length).cumsum(1)], dim=1) % _LETTERS
    return nn.functional.one_hot(text[:, :-1], _LETTERS).float(), text[:, 1:]


TASKS: dict[TaskName, Task] = {
    "waves": Task(_waves, _FEATURES, 1, 2.0),
    "clusters": Task(_clusters, _FEATURES, _CLASSES, math.log(_CLASSES), is_classification=True),
    "adding": Task(_adding, 2, 1, 1.0 / 6.0, is_sequence=True),
    "letters": Task(_letters, _LETTERS, _LETTERS, math.log(_LETTERS), is_sequence=True, is_classification=True),
}


def loss_of(task: Task, output: Tensor, target: Tensor) -> Tensor:
    """The mean loss over the examples, and over the positions of a sequence."""
    if task.is_classification:
        return nn.functional.cross_entropy(output.reshape(-1, task.outputs), target.reshape(-1))
    return nn.functional.mse_loss(output, target)


class Recurrent(nn.Module):
    """A recurrent network; the last state, or every state where each position has a target, is read out."""

    def __init__(self, kind: str, task: Task, width: int) -> None:
        super().__init__()
        cells = {"lstm": nn.LSTM, "gru": nn.GRU}
        if kind in cells:
            self.rnn: nn.Module = cells[kind](task.inputs, width, batch_first=True)
        else:
            self.rnn = nn.RNN(task.inputs, width, nonlinearity=kind.removeprefix("rnn_"), batch_first=True)
        self.head = nn.Linear(width, task.outputs)
        self._each = task.is_classification

    def forward(self, inputs: Tensor) -> Tensor:
        states = self.rnn(inputs)[0]
        found: Tensor = self.head(states if self._each else states[:, -1])
        return found


class Transformer(nn.Module):
    """A causal transformer with two blocks, norm first or last."""

    def __init__(self, task: Task, width: int, *, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(task.inputs, width)
        self.place = nn.Parameter(0.1 * torch.randn(64, width))
        layers = [
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=norm_first)
            for _ in range(2)
        ]
        self.blocks = nn.ModuleList(layers)
        self.head = nn.Linear(width, task.outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        length = inputs.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        states = self.embed(inputs) + self.place[:length]
        for block in self.blocks:
            states = block(states, src_mask=mask, is_causal=True)
        found: Tensor = self.head(states)
        return found


def perceptron(task: Task, depth: int, width: int, activation: type[nn.Module], gain: float) -> nn.Module:
    """A perceptron with `depth` weight matrices; gain 1 = He's initialisation, which keeps the variance."""
    sizes = [task.inputs, *([width] * (depth - 1)), task.outputs]
    layers: list[nn.Module] = []
    for narrow, wide in itertools.pairwise(sizes):
        linear = nn.Linear(narrow, wide)
        nn.init.normal_(linear.weight, std=gain * math.sqrt(2.0 / narrow))
        nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


def network(arch: str, task: Task, *, depth: int, width: int, gain: float) -> nn.Module:
    """A network by name: mlp, mlp_sigmoid, rnn_tanh, rnn_relu, lstm, gru, transformer, transformer_post.

    `gain` scales the initialisation: of every layer of a perceptron, of the recurrent matrix otherwise.
    """
    if arch.startswith("mlp"):
        return perceptron(task, depth, width, nn.Sigmoid if arch == "mlp_sigmoid" else nn.ReLU, gain)
    if arch.startswith("transformer"):
        return Transformer(task, width, norm_first=arch == "transformer")
    model = Recurrent(arch, task, width)
    if gain != 1.0:
        nn.init.orthogonal_(model.rnn.get_parameter("weight_hh_l0"), gain)
    return model
