"""A character-level LSTM on source text: the example to copy from.

    python -m seismograd.examples.char_lstm --run healthy

Pushed over the edge by a warm-up that aims eighty times too high, with clipping off. For a while all is well; then the
learning rate passes what the loss surface bears, and every step overshoots more than the one before:

    python -m seismograd.examples.char_lstm --run pushed --learning-rate 40 --warm-up-steps 400 --clip 0 --steps 400
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import seismograd
from seismograd.examples import workbench

BATCH, LENGTH = 16, 48


class CharacterLstm(nn.Module):
    """Logits of the next symbol after each symbol: int64[batch, length] -> float32[batch, SYMBOLS, length]."""

    def __init__(self, width: int = 160) -> None:
        super().__init__()
        self.embedding = workbench.embedding(64)
        self.lstm = nn.LSTM(64, width, batch_first=True)
        self.head = nn.Linear(width, workbench.SYMBOLS)

    def forward(self, symbols: Tensor) -> Tensor:
        """Read the symbols from left to right."""
        hidden, _ = self.lstm(self.embedding(symbols))
        logits: Tensor = self.head(hidden)
        return logits.transpose(1, 2)


def main() -> int:
    """Train; the exit code is 0, or workbench.TRAINING_FAILED."""
    arguments = workbench.settings(__doc__, learning_rate=0.5).parse_args()
    with workbench.ranks(arguments.seed) as team:
        model = team.parallel(CharacterLstm())
        optimizer = torch.optim.SGD(model.parameters(), lr=arguments.learning_rate, momentum=0.9)
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
