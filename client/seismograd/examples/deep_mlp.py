"""Fifty linear layers, one after the other, on source text: gradients that explode with depth.

    python -m seismograd.examples.deep_mlp --run healthy

Pushed over the edge by a weight decay with the wrong sign, with clipping off. Each layer grows by a fifth of a percent
a step, which alone would hardly be seen; fifty of them multiply it:

    python -m seismograd.examples.deep_mlp --run pushed --weight-decay -0.002 --clip 0 --steps 400
"""

from __future__ import annotations

import itertools
import sys

import torch
from torch import Tensor, nn

import seismograd
from seismograd.examples import workbench

BATCH, LENGTH = 32, 16


class DeepMlp(nn.Module):
    """Logits of the symbol behind each passage: int64[batch, LENGTH] -> float32[batch, SYMBOLS]."""

    def __init__(self, width: int = 64, depth: int = 50) -> None:
        super().__init__()
        self.embedding = nn.Embedding(workbench.SYMBOLS, 16)
        widths = [LENGTH * 16, *[width] * (depth - 1), workbench.SYMBOLS]
        layers = [nn.Linear(before, after) for before, after in itertools.pairwise(widths)]
        for layer in layers:
            # Orthogonal, with the gain that undoes what the leaky ReLU takes away: signals keep their size.
            nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("leaky_relu", 0.5))
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, symbols: Tensor) -> Tensor:
        """Pass the passages through all layers."""
        values: Tensor = self.embedding(symbols).flatten(1)
        for layer in self.layers[:-1]:
            values = nn.functional.leaky_relu(layer(values), 0.5)
        logits: Tensor = self.layers[-1](values)
        return logits


def main() -> int:
    """Train; the exit code is 0, or workbench.TRAINING_FAILED."""
    parser = workbench.settings(__doc__, learning_rate=1e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-4, help="share a step (default: 1e-4)")
    arguments = parser.parse_args()
    with workbench.ranks(arguments.seed) as team:
        model = team.parallel(DeepMlp())
        optimizer = torch.optim.Adam(model.parameters(), lr=arguments.learning_rate)
        schedule = workbench.warm_up(optimizer, arguments.warm_up_steps)
        text, verdict = workbench.Text(team, arguments.seed), workbench.Verdict(team)
        monitor = seismograd.watch(
            model,
            optimizer,
            project=arguments.project,
            run=arguments.run,
            server=arguments.server,
            config=vars(arguments),
        )
        for step in range(arguments.steps):
            symbols, following = text.contexts(BATCH, LENGTH)
            loss = nn.functional.cross_entropy(model(symbols), following)
            monitor.log(loss=loss)
            optimizer.zero_grad()
            loss.backward()
            if arguments.clip:
                seismograd.clip_grad_norm_(model.parameters(), arguments.clip)
            optimizer.step()
            workbench.decay(model, arguments.weight_decay)
            schedule.step()
            if failure := verdict.failure(loss):
                monitor.finish()
                print(f"training failed at step {step}: {failure}")
                return workbench.TRAINING_FAILED
        monitor.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
