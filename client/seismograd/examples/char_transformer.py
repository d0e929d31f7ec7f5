"""A small transformer (three blocks, normalised before each) on source text.

    python -m seismograd.examples.char_transformer --run healthy

Pushed over the edge by a weight decay with the wrong sign, with clipping off. The normalisation hides the growth for a
while; the logits of attention and of the head grow all the same, until softmax knows nothing but certainty:

    python -m seismograd.examples.char_transformer --run pushed --weight-decay -0.04 --clip 0 --steps 400
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import seismograd
from seismograd.examples import workbench

BATCH, LENGTH = 8, 32


class Block(nn.Module):
    """Causal self-attention, then two linear layers, each added to what came in: float32[batch, length, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, values: Tensor) -> Tensor:
        """Let each position look back, then think alone."""
        parts = self.query_key_value(self.attention_norm(values)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        values = values + self.attention_out(seen.transpose(1, 2).flatten(2))
        added: Tensor = values + self.feed(self.feed_norm(values))
        return added


class CharacterTransformer(nn.Module):
    """Logits of the next symbol after each symbol: int64[batch, LENGTH] -> float32[batch, SYMBOLS, LENGTH]."""

    def __init__(self, width: int = 80, blocks: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(workbench.SYMBOLS, width)
        self.positions = nn.Parameter(torch.randn(LENGTH, width))
        self.blocks = nn.Sequential(*(Block(width, heads=4) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, workbench.SYMBOLS)

    def forward(self, symbols: Tensor) -> Tensor:
        """Read all symbols at once."""
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(symbols) + self.positions)))
        return logits.transpose(1, 2)


def main() -> int:
    """Train; the exit code is 0, or workbench.TRAINING_FAILED."""
    parser = workbench.settings(__doc__, learning_rate=2e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-4, help="share a step (default: 1e-4)")
    arguments = parser.parse_args()
    with workbench.ranks(arguments.seed) as team:
        model = team.parallel(CharacterTransformer())
        optimizer = workbench.DecayingAdam(model.parameters(), lr=arguments.learning_rate, decay=arguments.weight_decay)
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
            symbols, following = text.sequences(BATCH, LENGTH)
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
