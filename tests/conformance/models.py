"""The model that every case trains, its data, and the truth: what one process alone finds in its gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

VOCABULARY = 12
WIDTH = 10  # divided by no number of processes used here but 2: shards are uneven on four of them
HIDDEN = 16
LENGTH = 8
BATCH = 8
STEPS = 6
MICRO_BATCHES = 2  # of the cases that accumulate gradients
THRESHOLD = 0.5
RATE = 1e-4  # small, so that what nobody clips does not turn rounding into another course of training
# From this step on the loss, and with it the gradient, grows eightfold every step: an explosion.
ONSET = 2
INITIAL_SCALE = 1024.0
OVERFLOW = 3  # the step whose loss is infinite, in the cases with a loss scaler


class Block(nn.Module):
    """A normalised two-layer network with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = inputs + self.down(torch.tanh(self.up(self.norm(inputs))))
        return result


class Net(nn.Module):
    """Token ids [b, LENGTH] to logits [b, LENGTH, VOCABULARY].

    `tied`: the head shares the embedding's weight. `oddities`: it does, `gain` is smaller than four processes, `frozen`
    is not trained and `unused` takes no part.
    """

    def __init__(self, *, oddities: bool, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleDict({str(index): Block() for index in range(4)})
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied or oddities:
            self.head.weight = self.embed.weight
        if oddities:
            self.gain = nn.Parameter(torch.ones(3))
            self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)
            self.unused = nn.Parameter(torch.ones(7))

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        for block in self.blocks.values():
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden))
        if hasattr(self, "gain"):
            logits = logits * self.gain.prod() * self.frozen.mean()
        return logits


def new_net(*, oddities: bool = False, tied: bool = False) -> Net:
    """The same on every process."""
    torch.manual_seed(0)
    return Net(oddities=oddities, tied=tied)


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    """Token ids and targets of the whole batch, [BATCH, LENGTH] each."""
    generator = torch.Generator().manual_seed(step)
    ids, targets = torch.randint(0, VOCABULARY, (2, BATCH, LENGTH), generator=generator)
    return ids, targets


def severity(step: int) -> float:
    """What the loss is multiplied by."""
    return float(8 ** max(0, step - ONSET))


def loss_of(logits: Tensor, targets: Tensor, step: int) -> Tensor:
    """The mean over all tokens, times the severity of the step."""
    return nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1)) * severity(step)


@dataclass
class Truth:
    """Norms of one process's gradients before any clip, by step: of each parameter by name, and of all together."""

    layers: list[dict[str, float]] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)

    def note(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Looks at the gradients as they are."""
        norms = {
            name: 0.0 if parameter.grad is None else float(parameter.grad.double().norm())
            for name, parameter in named
            if parameter.requires_grad
        }
        self.layers.append(norms)
        self.totals.append(sum(norm * norm for norm in norms.values()) ** 0.5)


def train_alone(*, oddities: bool, tied: bool, clips: bool, skips: bool) -> Truth:
    """Plain torch in one process, watched by nobody. `skips`: a loss scaler leaves out the step that overflows."""
    model = new_net(oddities=oddities, tied=tied)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=RATE)
    truth = Truth()
    for step in range(STEPS):
        optimizer.zero_grad()
        ids, targets = batch_of(step)
        loss = loss_of(model(ids), targets, step)
        overflows = skips and step == OVERFLOW
        (loss * math.inf if overflows else loss).backward()
        truth.note(model.named_parameters())
        if clips:
            clip_grad_norm_(model.parameters(), THRESHOLD)
        if not overflows:
            optimizer.step()
    return truth
