"""A residual network of fifty linear layers on source text: gradients that explode with depth.

    python -m seismograd.examples.deep_mlp --run healthy

Pushed over the edge by a weight decay that is scheduled to fall to zero over sixty steps while training goes on for
longer, with clipping off. Past its end the schedule goes on, below zero, and every layer grows by a percent or three a
step. Alone, that would hardly be seen; but what the layers do to the signal, and to the gradient on its way back, is
multiplied fifty times:

    python -m seismograd.examples.deep_mlp --run pushed --decay-steps 60 --clip 0 --steps 400
"""

from __future__ import annotations

import sys

from torch import Tensor, nn

import seismograd
from seismograd.examples import workbench

BATCH, LENGTH = 32, 16


class DeepMlp(nn.Module):
    """Logits of the symbol behind each passage: int64[batch, LENGTH] -> float32[batch, SYMBOLS]."""

    def __init__(self, width: int = 64, depth: int = 50) -> None:
        super().__init__()
        self.embedding = workbench.embedding(16)
        self.first = nn.Linear(LENGTH * 16, width)
        layers = [nn.Linear(width, width, bias=False) for _ in range(depth - 2)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.02 / width**0.5)  # small, so that fifty of them start near the identity
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(width, workbench.SYMBOLS)

    def forward(self, symbols: Tensor) -> Tensor:
        """Pass the passages through all layers; each adds its part to what came in."""
        values = self.first(self.embedding(symbols).flatten(1))
        for layer in self.layers:
            values = values + nn.functional.leaky_relu(layer(values), 0.1)
        logits: Tensor = self.head(values)
        return logits


def main() -> int:
    """Train; the exit code is 0, or workbench.TRAINING_FAILED."""
    parser = workbench.settings(__doc__, learning_rate=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02, help="share of the first step (default: 0.02)")
    parser.add_argument("--decay-steps", type=int, default=1000, help="linear to 0 over these steps (default: 1000)")
    arguments = parser.parse_args()
    with workbench.ranks(arguments.seed) as team:
        model = team.parallel(DeepMlp())
        optimizer = workbench.DecayingAdam(
            model.parameters(),
            lr=arguments.learning_rate,
            decay=arguments.weight_decay,
            decay_steps=arguments.decay_steps,
        )
        schedule = workbench.warm_up(optimizer, arguments.warm_up_steps)
        text, verdict = workbench.Text(team, arguments.seed), workbench.Verdict(team)
        monitor = seismograd.watch(
            model,
            optimizer,
            project=arguments.project,
            run=arguments.run,
            server=arguments.server,
            config=vars(arguments),
            # Fifty layers, and steps of a few milliseconds: one percent of them would buy a look at the weights every
            # fortieth one only, and it is by their growth that a schedule below zero is known.
            sample_budget=0.1,
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
            schedule.step()
            if failure := verdict.failure(loss):
                monitor.finish("failed", failure)
                print(f"training failed at step {step}: {failure}")
                return workbench.TRAINING_FAILED
        monitor.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
